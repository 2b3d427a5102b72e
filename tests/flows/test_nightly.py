"""The flows against real parts: an S3 server, SQLite, MLflow, and Prefect's test server."""

import io
import json
import subprocess
import sys
from datetime import date

import cv2
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from flows.ingest_images import ingest_images
from flows.nightly import nightly
from flows.score_batch import score_batch
from flows.train_ganomaly import train_ganomaly
from ganomaly import TrainingDataError
from tasks.model_registry import ModelRegistryError
from tasks.object_store import ObjectStore
from tasks.report_store import ReportStore
from tasks.run_record import FailedImagesError
from tasks.systems import open_systems

pytestmark = pytest.mark.usefixtures("prefect_server")

LINE = "plates"
WEEK = [date(2026, 3, day) for day in range(2, 8)]
LAST_DAY = date(2026, 3, 8)


def plate(seed: int, *, defect: bool = False) -> bytes:
    """PNG of a striped plate of 64 x 64 px; the defective ones have a dark blot."""
    rng = np.random.default_rng(seed)
    x = np.arange(64)
    stripes = 128 + 60 * np.sin(2 * np.pi * x / 8 + rng.uniform(-0.2, 0.2))
    image = stripes[None, :] + rng.normal(0, 8, (64, 64))
    if defect:
        row, column = rng.integers(12, 52, 2)
        cv2.circle(image, (int(column), int(row)), 9, 10.0, -1)
    return cv2.imencode(".png", np.clip(image, 0, 255).astype(np.uint8))[1].tobytes()


def key_of(day: date, part: str) -> str:
    """The key of a part's only view."""
    return f"images/{LINE}/{day}/{part}/top.png"


@pytest.fixture
def plant(bucket: ObjectStore, write_line) -> ObjectStore:
    """A bucket with six days of good plates and a last day of good, defective and unusable ones."""
    write_line(LINE)
    for number in range(120):
        bucket.put(key_of(WEEK[number % 6], f"p{number:04}"), plate(number), "image/png")
    for number in range(20):
        bucket.put(key_of(LAST_DAY, f"g{number:04}"), plate(1000 + number), "image/png")
        bucket.put(key_of(LAST_DAY, f"d{number:04}"), plate(2000 + number, defect=True), "image/png")
    bucket.put(key_of(LAST_DAY, "cut"), plate(3000)[:900], "image/png")
    bucket.put(key_of(LAST_DAY, "page"), b"<html>502</html>", "image/png")
    bucket.put(f"images/{LINE}/{LAST_DAY}/Thumbs.db", b"x", "text/plain")
    return bucket


@pytest.fixture
def trained(plant: ObjectStore) -> ObjectStore:
    """The plant after its week was ingested and its first model trained."""
    ingest_images(LINE, WEEK[0], WEEK[-1])
    train_ganomaly(LINE, device="cpu")
    return plant


def test_a_night_end_to_end(trained: ObjectStore) -> None:
    """Broken if a night loses an image, misjudges plain defects, or does not publish what the store holds."""
    night = nightly(LINE, LAST_DAY, device="cpu")
    counts = night.counts
    assert (counts.listed, counts.scored, counts.already_scored, counts.unusable, counts.failed) == (43, 40, 0, 3, 0)

    systems = open_systems(LINE)
    champion = systems.registry.champion(LINE)
    assert champion is not None
    assert champion.version == night.model_version == 1
    assert systems.store.last_promotion(LINE).version == 1
    scores = systems.store.scores_of_window(LINE, LAST_DAY, LAST_DAY, 1, champion.calibration_id)
    judged = scores[scores["verdict"] != "unusable"]
    assert roc_auc_score(judged["part"].str.startswith("d"), judged["raw_score"]) > 0.9
    assert dict(scores[scores["verdict"] == "unusable"].set_index("part")["reason"]) == {
        "cut": "truncated",
        "page": "unreadable",
    }

    folder = night.report_key.rsplit("/", 1)[0]
    assert folder == f"reports/{LINE}/{LAST_DAY}/{night.run_id}"
    published = pd.read_parquet(io.BytesIO(trained.get(f"{folder}/scores.parquet")))
    pd.testing.assert_series_equal(published["raw_score"], scores["raw_score"].reset_index(drop=True))
    flagged = pd.read_csv(io.BytesIO(trained.get(f"{folder}/flagged.csv")))
    assert sorted(flagged["part"]) == sorted(scores.loc[scores["verdict"] == "flagged", "part"])
    html = trained.get(night.report_key).decode()
    assert "Thumbs.db" in html
    assert html.count("data:image/jpeg;base64,") == 2 * len(flagged)
    for key in flagged["heat_map_key"]:
        assert cv2.imdecode(np.frombuffer(trained.get(key), np.uint8), cv2.IMREAD_COLOR).shape == (64, 64, 3)


def test_a_finished_night_again_reads_and_writes_nothing(trained: ObjectStore, monkeypatch) -> None:
    """Broken if repeating a night fetches an image, scores it again, or writes a second report."""
    first = score_batch(LINE, LAST_DAY, device="cpu")
    objects = {found.key: found.etag for found in trained.list_objects("")}

    def no_get(*_: object) -> bytes:
        raise AssertionError("a finished night fetched an object")

    monkeypatch.setattr(ObjectStore, "get", no_get)
    again = score_batch(LINE, LAST_DAY, device="cpu")
    assert (again.run_id, again.report_key) == (first.run_id, first.report_key)
    assert (again.counts.scored, again.counts.already_scored, again.counts.unusable) == (0, 40, 3)
    assert {found.key: found.etag for found in trained.list_objects("")} == objects


def test_only_what_is_new_is_scored(trained: ObjectStore) -> None:
    """Broken if a late image or a replaced object is missed, or if the report forgets what was scored before."""
    score_batch(LINE, LAST_DAY, device="cpu")
    trained.put(key_of(LAST_DAY, "late"), plate(4000), "image/png")
    trained.put(key_of(LAST_DAY, "g0000"), plate(4001, defect=True), "image/png")
    second = score_batch(LINE, LAST_DAY, device="cpu")
    assert (second.counts.listed, second.counts.scored, second.counts.already_scored) == (44, 2, 39)
    report = pd.read_parquet(io.BytesIO(trained.get(second.report_key.replace("report.html", "scores.parquet"))))
    assert len(report) == 43
    assert report["key"].is_unique


def test_an_image_that_vanishes_is_named_and_the_night_is_complete(trained: ObjectStore, monkeypatch) -> None:
    """Broken if an object deleted between listing and fetching stops the night, or goes unmentioned."""
    real_get = ObjectStore.get
    gone = key_of(LAST_DAY, "g0007")

    def get_after_deletion(self: ObjectStore, key: str, etag: str | None = None) -> bytes:
        return real_get(self, key + ".deleted" if key == gone else key, etag)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "get", get_after_deletion)
        with pytest.raises(FailedImagesError, match="1 of 43 images could not be read"):
            score_batch(LINE, LAST_DAY, device="cpu")
    repaired = score_batch(LINE, LAST_DAY, device="cpu")
    assert (repaired.counts.scored, repaired.counts.already_scored, repaired.counts.failed) == (1, 39, 0)


def test_training_refuses_with_the_way_out(bucket: ObjectStore, write_line) -> None:
    """Broken if training starts on nothing, on a list that names nothing, or with too few images for the promise."""
    write_line(LINE, images={"normal_list": "normal/plates.csv"})
    with pytest.raises(TrainingDataError, match="record them first with `inspection ingest plates`"):
        train_ganomaly(LINE)
    for number in range(12):
        bucket.put(key_of(WEEK[0], f"p{number:04}"), plate(number), "image/png")
    ingest_images(LINE, WEEK[0])
    bucket.put("normal/plates.csv", b"key\nimages/other.png\n", "text/csv")
    with pytest.raises(TrainingDataError, match=r"of 12 recorded images .* none is among the 1 keys"):
        train_ganomaly(LINE)
    keys = "\n".join(["key", *(key_of(WEEK[0], f"p{number:04}") for number in range(12))])
    bucket.put("normal/plates.csv", keys.encode(), "text/csv")
    with pytest.raises(TrainingDataError, match="takes at least 19"):
        train_ganomaly(LINE)
    with pytest.raises(ModelRegistryError, match=r"ganomaly-plates has no champion .* `inspection train plates`"):
        score_batch(LINE, WEEK[0])


def test_training_refuses_images_of_mixed_size(bucket: ObjectStore, write_line) -> None:
    """Broken if a recipe that does not resize silently trains without the images of another size."""
    write_line(LINE, recipe={"size_px": 64, "resize": False})
    for number in range(40):
        bucket.put(key_of(WEEK[0], f"p{number:04}"), plate(number), "image/png")
    small = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (48, 48), dtype=np.uint8))[1].tobytes()
    bucket.put(key_of(WEEK[0], "small"), small, "image/png")
    assert ingest_images(LINE, WEEK[0]).unusable == 1
    with pytest.raises(TrainingDataError, match=r"does not resize.* 48 x 48 \(1 images\).*recipe.resize = true"):
        train_ganomaly(LINE)


def test_only_listed_normal_images_train(plant: ObjectStore, write_line) -> None:
    """Broken if an image that is not on the line's list of normal images reaches training, or the snapshot is wrong."""
    normal = [key_of(WEEK[number % 6], f"p{number:04}") for number in range(110)]
    plant.put("normal/plates.csv", "\n".join(["key", *normal]).encode(), "text/csv")
    write_line(LINE, images={"normal_list": "normal/plates.csv"})
    ingest_images(LINE, WEEK[0], LAST_DAY)
    model = train_ganomaly(LINE, epochs=1, device="cpu")
    assert sum(model.images.values()) == 110
    systems = open_systems(LINE)
    run = systems.registry.client.get_run(model.version.mlflow_run_id)
    local = systems.registry.client.download_artifacts(run.info.run_id, "snapshot/manifest.csv")
    manifest = pd.read_csv(local)
    assert sorted(manifest["key"]) == sorted(normal)
    assert set(manifest["role"]) == {"train", "fit", "calibrate"}
    assert run.data.params["training.epochs"] == "1"
    assert run.inputs.dataset_inputs[0].dataset.name == f"snapshot-{model.snapshot_id}"
    assert len(systems.registry.client.get_metric_history(run.info.run_id, "loss_contextual")) == 1


def test_the_same_snapshot_and_seed_give_the_same_model(trained: ObjectStore) -> None:
    """Broken if training again on the same images and seed gives other weights or another calibration."""
    again = train_ganomaly(LINE, device="cpu")
    systems = open_systems(LINE)
    champion = systems.registry.champion(LINE)
    assert champion.version == 1
    assert again.version.version == 2
    assert (again.version.snapshot_id, again.version.calibration_id) == (champion.snapshot_id, champion.calibration_id)
    folders = [
        systems.registry.download_detector(version, systems.settings.work_dir / "models")
        for version in (champion, again.version)
    ]
    weights = [(folder / "weights.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]


PREDICT = """
import base64, json, sys
import cv2, mlflow, numpy as np, pandas as pd
data = sys.stdin.buffer.read()
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
inputs = [data, base64.b64encode(data).decode(), pixels, pixels.tolist()]
answers = [model.predict(pd.DataFrame({"image": [value]})).iloc[0].to_dict() for value in inputs]
bad = model.predict(pd.DataFrame({"image": [b"no image"]})).iloc[0]
print(json.dumps([answers, bad["verdict"], bad["reason"]]))
"""


def test_the_registered_model_answers_like_the_store(trained: ObjectStore) -> None:
    """Broken if a model served by MLflow alone gives another score than the night's report, for any kind of input."""
    score_batch(LINE, LAST_DAY, device="cpu")
    systems = open_systems(LINE)
    champion = systems.registry.champion(LINE)
    scores = systems.store.scores_of_window(LINE, LAST_DAY, LAST_DAY, 1, champion.calibration_id).set_index("part")
    row = scores.loc["d0003"]
    command = [sys.executable, "-c", PREDICT, systems.registry.tracking_uri, f"models:/ganomaly-{LINE}@champion"]
    done = subprocess.run(command, input=trained.get(row["key"]), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    answers, verdict, reason = json.loads(done.stdout.splitlines()[-1])
    assert (verdict, reason) == ("unusable", "unreadable")
    assert len(answers) == 4
    for answer in answers:
        assert answer["raw_score"] == pytest.approx(row["raw_score"], rel=1e-5)
        assert answer["normalised_score"] == pytest.approx(row["normalised_score"], rel=1e-5)
        assert answer["verdict"] == row["verdict"]


def test_store_rows_lead_to_everything(trained: ObjectStore, store: ReportStore) -> None:
    """Broken if a run does not record which model, snapshot, calibration, code and flow run judged it."""
    night = score_batch(LINE, LAST_DAY, device="cpu")
    run = store.run(night.run_id)
    champion = open_systems(LINE).registry.champion(LINE)
    assert (run.model_version, run.snapshot_id, run.calibration_id) == (
        1,
        champion.snapshot_id,
        champion.calibration_id,
    )
    assert run.state == "completed"
    assert run.code_version
    assert len(run.flow_run_id) == 36
    assert run.report_key == night.report_key
