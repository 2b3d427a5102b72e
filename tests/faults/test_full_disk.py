"""The bucket's disk is full while a night writes its overlays and its report: a real one, of a few megabytes."""

import subprocess
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import pytest

from flows.ingest_images import ingest_images
from flows.score_batch import score_batch
from flows.train_ganomaly import train_ganomaly
from infra.local_s3 import LocalS3
from tasks.bucket import bucket as object_store
from tasks.bucket.bucket import ObjectStore
from tasks.bucket.failures import ObjectStoreError
from tasks.report.publish import publish_report
from tasks.systems import open_systems

pytestmark = pytest.mark.usefixtures("prefect_server")

LINE = "plates"
WEEK, NIGHT = date(2026, 3, 7), date(2026, 3, 8)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB; skips where it cannot be mounted."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode != 0:
        pytest.skip(f"a file system may not be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def bucket(environment: str, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A bucket on that disk, to which `Settings()` points, with little patience."""
    monkeypatch.setattr(object_store, "FIRST_WAIT_S", 0.01)
    with LocalS3(small_disk / "data", log_file=small_disk.with_name("s3.log")) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        with ObjectStore(environment, server.endpoint_url) as objects:
            objects.create_bucket_if_missing()
            yield objects


def put_plates(bucket: ObjectStore, day: date, count: int, *, defective_every: int) -> None:
    """Striped plates; every so many has a dark blot."""
    rng = np.random.default_rng(day.day)
    for number in range(count):
        stripes = 128 + 60 * np.sin(2 * np.pi * np.arange(48) / 8 + rng.uniform(-0.2, 0.2))
        image = stripes[None, :] + rng.normal(0, 8, (48, 48))
        if defective_every and number % defective_every == 0:
            cv2.circle(image, (24, 24), 8, 10.0, -1)
        data = cv2.imencode(".png", np.clip(image, 0, 255).astype(np.uint8))[1].tobytes()
        bucket.put(f"images/{LINE}/{day}/p{number:03}/top.png", data, "image/png")


def fill(disk: Path) -> Path:
    """Take all room that is left; gives the file that holds it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            return filler
    raise AssertionError("the disk has no end")


@pytest.mark.fault(
    area="Disk",
    fault="the bucket's disk is full while overlays and the report are written",
    outcome="failed (overlay_failed) for those images, the others are scored; with room again the next run repairs all",
)
def test_a_full_bucket_costs_no_verdict(bucket: ObjectStore, small_disk: Path, write_line, monkeypatch) -> None:
    """Broken if a flagged image loses its heat map for ever, or if a full disk loses or doubles a verdict."""
    write_line(LINE)
    put_plates(bucket, WEEK, 100, defective_every=0)
    put_plates(bucket, NIGHT, 40, defective_every=5)
    ingest_images(LINE, WEEK)
    train_ganomaly(LINE, device="cpu")
    filler = fill(small_disk)
    with monkeypatch.context() as patch:
        patch.setattr("flows.score_batch.publish_report", publish_report.with_options(retries=0))
        with pytest.raises(ObjectStoreError, match="cannot write it"):
            score_batch(LINE, NIGHT, device="cpu")
    store = open_systems(LINE).store
    full = store.runs.newest(LINE, NIGHT, NIGHT)
    assert full.state == "failed"
    assert full.listed == 40 == full.scored + full.failed
    assert full.failed >= 8
    assert full.flagged == 0
    assert set(store.runs.failures(full.id)["reason"]) == {"overlay_failed"}

    filler.unlink()
    repaired = score_batch(LINE, NIGHT, device="cpu")
    counts = repaired.counts
    assert (counts.scored, counts.already_scored, counts.failed) == (full.failed, full.scored, 0)
    assert counts.flagged == full.failed
    flagged = store.scores.flagged_parts(LINE, NIGHT)
    assert len(flagged) == full.failed
    scores = store.scores.of_window(LINE, NIGHT, NIGHT, full.model_version, full.calibration_id)
    for key in scores["heat_map_key"].dropna():
        assert bucket.get(key).startswith(b"\xff\xd8")
