"""A line whose model is not GANomaly: trained, registered and scored like any other."""

from datetime import date

import cv2
import numpy as np
import pytest

from flows.ingest_images import ingest_images
from flows.nightly import nightly
from flows.train_ganomaly import train_ganomaly
from tasks.bucket.bucket import ObjectStore
from tasks.systems import open_systems

pytestmark = pytest.mark.usefixtures("prefect_server")

LINE = "plates"
TRAINING_DAY, NIGHT = date(2026, 3, 2), date(2026, 3, 3)


def plate(seed: int) -> bytes:
    """PNG of a noisy plate of 48 x 48 px."""
    rng = np.random.default_rng(seed)
    return cv2.imencode(".png", rng.integers(60, 200, (48, 48), dtype=np.uint8))[1].tobytes()


def test_a_line_with_a_comparator_has_its_nights(bucket: ObjectStore, write_line) -> None:
    """Broken if a comparator cannot be configured, registered or fetched, or if scoring needs GANomaly's networks."""
    path = write_line(LINE, training={"epochs": 1})
    path.write_text(f"{path.read_text()}[model]\nkind = 'anogan'\nsearch_steps = 3\n", encoding="utf-8")
    for number in range(90):
        bucket.put(f"images/{LINE}/{TRAINING_DAY}/p{number}/top.png", plate(number), "image/png")
    for number in range(5):
        bucket.put(f"images/{LINE}/{NIGHT}/p{number}/top.png", plate(1000 + number), "image/png")
    ingest_images(LINE, TRAINING_DAY, TRAINING_DAY)
    train_ganomaly(LINE, device="cpu")
    night = nightly(LINE, NIGHT, device="cpu")
    assert (night.counts.listed, night.counts.scored) == (5, 5)
    systems = open_systems(LINE)
    version = systems.registry.champion(LINE)
    assert version is not None
    detector = systems.registry.load_detector(version, path.parent / "cache", "cpu")
    assert detector.config.model.kind == "anogan"
    scores = systems.store.scores_of_window(LINE, NIGHT, NIGHT, 1, version.calibration_id)
    pixels = np.stack([detector.prepare(plate(1000 + number)).pixels for number in range(5)])
    expected = dict(zip([f"p{number}" for number in range(5)], detector.raw_scores(pixels), strict=True))
    found = dict(zip(scores["part"], scores["raw_score"], strict=True))
    assert found == pytest.approx(expected, rel=1e-4)
