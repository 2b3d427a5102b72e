"""Where a line looks, which regions count, and which flags are sure: from the line's file to the report."""

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from flows.ingest_images import ingest_images
from flows.nightly import nightly
from flows.train_ganomaly import train_ganomaly
from ganomaly import TrainingDataError
from tasks.bucket.bucket import ObjectStore
from tasks.systems import open_systems
from tests.flows.plates import LAST_DAY, LINE, WEEK, key_of

pytestmark = pytest.mark.usefixtures("prefect_server")

MASK = f"masks/{LINE}.png"


def with_hand(png: bytes, shade: int) -> bytes:
    """The plate with something in front of its left quarter."""
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    image[:, :16] = shade
    return cv2.imencode(".png", image)[1].tobytes()


def test_a_line_looks_where_its_file_says(plant: ObjectStore, write_line: Callable[..., Path]) -> None:
    """Something in a corner would be flagged every night; or nobody told what is not looked at, small, or sure."""
    write_line(
        LINE,
        images={"mask": MASK, "mm_per_px": 0.5},
        recipe={"ignore": [[[0, 0], [15, 0], [15, 31], [0, 31]]]},
        calibration={"false_reject_rate": 0.2, "sure_rate": 0.05},
        regions={"min_area_mm2": 10},
    )
    mask = np.full((64, 64), 255, np.uint8)
    mask[32:, :16] = 0
    plant.put(MASK, cv2.imencode(".png", mask)[1].tobytes(), "image/png")
    ingest_images(LINE, WEEK[0], WEEK[-1])
    train_ganomaly(LINE, device="cpu")
    twins = {f"{kind}{number:04}": f"t{kind}{number:04}" for kind in "gd" for number in range(3)}
    for shade, (part, twin) in enumerate(twins.items()):
        data = with_hand(plant.get(key_of(LAST_DAY, part)), 50 * shade)
        plant.put(key_of(LAST_DAY, twin), data, "image/png")
    night = nightly(LINE, LAST_DAY, device="cpu")
    systems = open_systems(LINE)
    champion = systems.registry.champion(LINE)
    detector = systems.registry.load_detector(champion, systems.settings.work_dir / "models", "cpu")
    ignored = detector.config.recipe.ignored((64, 64))
    assert ignored[:, :16].all()
    assert not ignored[:, 16:].any()
    folder = night.report_key.rsplit("/", 1)[0]
    scores = pd.read_parquet(io.BytesIO(plant.get(f"{folder}/scores.parquet"))).set_index("part")
    for part, twin in twins.items():
        assert scores.loc[part, "raw_score"] == scores.loc[twin, "raw_score"]
    html = plant.get(night.report_key).decode()
    assert "without 1 polygon and a mask" in html
    assert "flagged as sure" in html
    assert scores["sure"].sum() > 0
    assert (scores["sure"] == (scores["p_value"] <= 0.05)).all()
    regions = pd.read_csv(io.BytesIO(plant.get(f"{folder}/regions.csv")))
    assert (regions["counts"] == (regions["area_mm2"] >= 10)).all()
    drawn = cv2.imdecode(np.frombuffer(plant.get(scores.loc["d0001", "heat_map_key"]), np.uint8), cv2.IMREAD_COLOR)
    stripes = drawn[:, :14].astype(int)
    assert np.ptp(stripes, axis=2).max() < 40  # grey, as nothing that is hot
    assert stripes.std() > 30


def test_a_mask_that_is_missing_or_no_image_is_named(trained: ObjectStore, write_line: Callable[..., Path]) -> None:
    """A training would look everywhere, or fail without saying what to put where."""
    write_line(LINE, images={"mask": MASK})
    with pytest.raises(TrainingDataError, match=f"{MASK}: is not there, but images.mask of {LINE} names it"):
        train_ganomaly(LINE, device="cpu")
    trained.put(MASK, b"no image", "image/png")
    with pytest.raises(TrainingDataError, match="is no image that can mask"):
        train_ganomaly(LINE, device="cpu")
