"""The flows against real parts: an S3 server, SQLite, MLflow, and Prefect's test server."""

import base64
import io
import json
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from datetime import date
from pathlib import Path

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
from tasks.bucket import bucket as object_store
from tasks.bucket.bucket import ObjectStore
from tasks.night.accounting import AccountingError
from tasks.night.pinned import NoChampionError
from tasks.night.run import FailedImagesError
from tasks.registry.reaching import ModelRegistryError
from tasks.store.scores import Scores
from tasks.store.store import ReportStore
from tasks.systems import Systems, open_systems
from tests.faults.fault_proxy import FaultProxy
from tests.flows.plates import LAST_DAY, LINE, WEEK, key_of, plate

pytestmark = pytest.mark.usefixtures("prefect_server")


def promote_a_copy(systems: Systems) -> None:
    """Make a copy of the line's model its next version and its champion; the version says who judged."""
    client, champion = systems.registry.client, systems.registry.champion(LINE)
    files = client.get_model_version_download_uri(champion.name, str(champion.version))
    tags = client.get_model_version(champion.name, str(champion.version)).tags
    copy = client.create_model_version(champion.name, files, champion.mlflow_run_id, tags=tags)
    client.set_registered_model_alias(champion.name, "champion", copy.version)


def test_a_night_end_to_end(trained: ObjectStore) -> None:
    """Broken if a night loses an image, misjudges plain defects, or does not publish what the store holds."""
    night = nightly(LINE, LAST_DAY, device="cpu")
    counts = night.counts
    assert (counts.listed, counts.scored, counts.already_scored, counts.unusable, counts.failed) == (43, 40, 0, 3, 0)

    systems = open_systems(LINE)
    champion = systems.registry.champion(LINE)
    assert champion is not None
    assert champion.version == night.model_version == 1
    assert systems.store.decisions.last_promotion(LINE).version == 1
    scores = systems.store.scores.of_window(LINE, LAST_DAY, LAST_DAY, 1, champion.calibration_id)
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
    assert "README" in html
    assert "3 images unusable" in html
    assert "Objects that are no images of the line" in html
    assert "could not be judged for a reason outside the image" not in html
    pictures = {base64.b64decode(text) for text in re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", html)}
    assert len(pictures) == 2 * len(flagged)
    for key in flagged["heat_map_key"]:
        assert trained.get(key) in pictures
        assert cv2.imdecode(np.frombuffer(trained.get(key), np.uint8), cv2.IMREAD_COLOR).shape == (64, 64, 3)


def test_a_finished_night_again_reads_and_writes_nothing(trained: ObjectStore, tmp_path: Path, monkeypatch) -> None:
    """Broken if repeating a night or an ingest asks S3 for more than listings, or changes the report store."""
    first = nightly(LINE, LAST_DAY, device="cpu")
    rows = all_rows(tmp_path / "inspection.db")
    with FaultProxy(trained.endpoint_url) as proxy:
        monkeypatch.setenv("INSPECTION_S3_ENDPOINT_URL", proxy.url)
        again = nightly(LINE, LAST_DAY, device="cpu")
        window = score_batch(LINE, LAST_DAY, device="cpu")
        ingested = ingest_images(LINE, WEEK[0], LAST_DAY)
        assert set(proxy.kinds()) == {"GET listing"}
    assert {night.report_key for night in (again, window)} == {first.report_key}
    assert again.run_id == first.run_id
    assert (again.counts.scored, again.counts.already_scored, again.counts.unusable) == (0, 40, 3)
    assert (ingested.listed, ingested.recorded, ingested.already_recorded) == (163, 0, 162)
    assert all_rows(tmp_path / "inspection.db") == rows


def all_rows(database: Path) -> list[str]:
    """Everything that a SQLite file holds, as SQL."""
    with closing(sqlite3.connect(database)) as connection:
        return list(connection.iterdump())


def test_only_what_is_new_is_scored(trained: ObjectStore, store: ReportStore) -> None:
    """Broken if a late image or a replaced object is missed, or if record or report forget what was scored before."""
    score_batch(LINE, LAST_DAY, device="cpu")
    trained.put(key_of(LAST_DAY, "late"), plate(4000), "image/png")
    trained.put(key_of(LAST_DAY, "g0000"), plate(4001, defect=True), "image/png")
    second = score_batch(LINE, LAST_DAY, device="cpu")
    assert (second.counts.listed, second.counts.scored, second.counts.already_scored) == (44, 2, 39)
    report = pd.read_parquet(io.BytesIO(trained.get(second.report_key.replace("report.html", "scores.parquet"))))
    assert len(report) == 43
    assert report["key"].is_unique

    old, new = store.images.find(key_of(LAST_DAY, "g0000"))
    first, later = store.scores.of_images([old.id, new.id])
    assert (first.etag, later.etag, later.run_id) == (old.etag, new.etag, second.run_id)
    assert old.etag != new.etag
    assert (first.verdict, later.verdict) == ("ok", "flagged")


def test_a_night_fetches_every_image_once(trained: ObjectStore, monkeypatch) -> None:
    """Broken if the nightly flow reads an image twice, or if scoring does not record what ingest would."""
    real_get, real_get_listed, fetched = ObjectStore.get, ObjectStore.get_listed, Counter()

    def counting_get(self: ObjectStore, key: str, etag: str | None = None) -> bytes:
        fetched[key] += 1
        return real_get(self, key, etag)

    def counting_get_listed(self: ObjectStore, key: str, etag: str) -> bytes:
        fetched[key] += 1
        return real_get_listed(self, key, etag)

    monkeypatch.setattr(ObjectStore, "get", counting_get)
    monkeypatch.setattr(ObjectStore, "get_listed", counting_get_listed)
    nightly(LINE, LAST_DAY, device="cpu")
    flagged = open_systems(LINE).store.scores.flagged_parts(LINE, LAST_DAY)
    assert len(flagged) > 0
    assert [key for key in fetched if not key.startswith("images/")] == []
    assert len(fetched) == 42
    assert sum(fetched.values()) == 42 + len(flagged)  # the report shows the flagged ones
    recorded = open_systems(LINE).store.images.recorded(LINE, LAST_DAY, LAST_DAY)
    assert len(recorded) == 42
    assert ingest_images(LINE, LAST_DAY).already_recorded == 42


def test_a_line_without_a_model_is_ingested_all_the_same(plant: ObjectStore) -> None:
    """Broken if a new line's nights leave nothing behind that a first model could learn from."""
    with pytest.raises(NoChampionError, match=r"ganomaly-plates has no champion .* `inspection train plates`"):
        nightly(LINE, WEEK[0])
    assert len(open_systems(LINE).store.images.recorded(LINE, WEEK[0], WEEK[0])) == 20


def test_late_images_of_the_day_before_are_judged_by_that_days_model(trained: ObjectStore) -> None:
    """Broken if a late image is never judged, is judged by another model than its day, or is missing in its report."""
    first = nightly(LINE, LAST_DAY, device="cpu")
    systems = open_systems(LINE)
    promote_a_copy(systems)
    trained.put(key_of(LAST_DAY, "late"), plate(4000, defect=True), "image/png")
    next_day = date(2026, 3, 9)
    trained.put(key_of(next_day, "g9000"), plate(9000), "image/png")
    night = nightly(LINE, next_day, device="cpu")
    assert (night.model_version, night.counts.listed, night.counts.scored) == (2, 1, 1)
    revisit = systems.store.runs.newest(LINE, LAST_DAY, LAST_DAY)
    assert (revisit.model_version, revisit.state, revisit.scored, revisit.already_scored) == (1, "completed", 1, 40)
    assert revisit.report_key != first.report_key
    report = pd.read_parquet(io.BytesIO(trained.get(revisit.report_key.replace("report.html", "scores.parquet"))))
    assert key_of(LAST_DAY, "late") in set(report["key"])
    assert set(report["model_version"]) == {1}
    assert nightly(LINE, next_day, device="cpu").counts.scored == 0
    assert systems.store.runs.newest(LINE, LAST_DAY, LAST_DAY).id == revisit.id


def test_an_unfinished_night_keeps_its_model(trained: ObjectStore, monkeypatch) -> None:
    """Broken if a night that broke off is judged half by one model and half by the next champion."""
    systems = open_systems(LINE)
    real_commit, commits = Scores.commit, []

    def commit_once(self: Scores, *args: object) -> set[tuple[str, str]]:
        if commits:
            raise KeyboardInterrupt
        commits.append(1)
        return real_commit(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Scores, "commit", commit_once)
        with pytest.raises(KeyboardInterrupt):
            score_batch(LINE, LAST_DAY, device="cpu")
    broken_off = systems.store.runs.newest(LINE, LAST_DAY, LAST_DAY)
    assert (broken_off.state, broken_off.model_version) == ("interrupted", 1)
    promote_a_copy(systems)
    night = score_batch(LINE, LAST_DAY, device="cpu")
    assert (night.model_version, night.counts.listed, night.counts.unusable) == (1, 43, 3)
    assert (night.counts.already_scored, night.counts.scored) == (15, 25)  # the 16th of the first chunk is unusable
    assert score_batch(LINE, LAST_DAY, device="cpu").model_version == 2


def test_a_report_that_a_killed_run_did_not_write_is_written(trained: ObjectStore, monkeypatch) -> None:
    """Broken if a run that was killed between its last commit and its report leaves the older report standing."""
    first = score_batch(LINE, LAST_DAY, device="cpu")
    trained.put(key_of(LAST_DAY, "late"), plate(4000, defect=True), "image/png")

    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flows.score_batch.publish_report", killed)
        with pytest.raises(KeyboardInterrupt):
            score_batch(LINE, LAST_DAY, device="cpu")
    again = score_batch(LINE, LAST_DAY, device="cpu")
    assert (again.counts.scored, again.counts.already_scored) == (0, 41)
    assert again.report_key != first.report_key
    report = pd.read_parquet(io.BytesIO(trained.get(again.report_key.replace("report.html", "scores.parquet"))))
    assert key_of(LAST_DAY, "late") in set(report["key"])
    assert score_batch(LINE, LAST_DAY, device="cpu").run_id == again.run_id


def test_an_object_beyond_the_size_limit_is_never_fetched(trained: ObjectStore, write_line, monkeypatch) -> None:
    """Broken if a mistaken upload of gigabytes is read into a worker's memory, or stops the night."""
    huge = key_of(LAST_DAY, "huge")
    trained.put(huge, b"x" * 20_000, "image/png")
    write_line(LINE, images={"max_bytes": 19_999})
    real_get = ObjectStore.get_listed

    def get(self: ObjectStore, key: str, etag: str | None = None) -> bytes:
        assert key != huge
        return real_get(self, key, etag)

    monkeypatch.setattr(ObjectStore, "get_listed", get)
    night = score_batch(LINE, LAST_DAY, device="cpu")
    assert (night.counts.listed, night.counts.scored, night.counts.unusable) == (44, 40, 4)
    failures = open_systems(LINE).store.runs.failures(night.run_id).set_index("key")
    assert failures.loc[huge, "reason"] == "object_too_large"
    assert "images.max_bytes allows 19999" in failures.loc[huge, "detail"]


def test_a_verdict_that_is_not_in_the_store_ends_the_run_loudly(trained: ObjectStore, monkeypatch) -> None:
    """Broken if the accounting believes its own counters although the report store lacks a listed image."""
    real_commit = Scores.commit

    def lose_one(self: Scores, run_id: str, judged: list, failures: list) -> set[tuple[str, str]]:
        real_commit(self, run_id, judged[1:], failures)
        return {(one.image.key, one.image.etag) for one in judged}

    monkeypatch.setattr(Scores, "commit", lose_one)
    with pytest.raises(AccountingError, match="listed images have neither a verdict nor a failure"):
        score_batch(LINE, LAST_DAY, device="cpu")
    assert open_systems(LINE).store.runs.newest(LINE, LAST_DAY, LAST_DAY).state == "failed"


def test_an_image_that_vanishes_is_named_and_the_night_is_complete(trained: ObjectStore, monkeypatch) -> None:
    """Broken if an object deleted between listing and fetching stops the night, or goes unmentioned."""
    real_get = ObjectStore.get_listed
    gone = key_of(LAST_DAY, "g0007")

    def get_after_deletion(self: ObjectStore, key: str, etag: str | None = None) -> bytes:
        return real_get(self, key + ".deleted" if key == gone else key, etag)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "get_listed", get_after_deletion)
        with pytest.raises(FailedImagesError, match="1 of 43 images could not be read"):
            score_batch(LINE, LAST_DAY, device="cpu")
    repaired = score_batch(LINE, LAST_DAY, device="cpu")
    assert (repaired.counts.scored, repaired.counts.already_scored, repaired.counts.failed) == (1, 39, 0)


@pytest.mark.fault(
    area="S3",
    fault="answers 500 for some images of a night, however often it is asked",
    outcome="failed (fetch_failed) after all attempts; the others are scored, the run ends as failed with counts that "
    "add up, the report is there; the next run repairs it",
)
def test_images_that_s3_does_not_give_are_repaired(trained: ObjectStore, store: ReportStore, monkeypatch) -> None:
    """Broken if an image that S3 will not give stops the night, is lost, or is not tried again by the next."""
    monkeypatch.setattr(object_store, "FIRST_WAIT_S", 0.01)
    with FaultProxy(trained.endpoint_url, [{"fault": "internal_error", "key": "/[gd]000[0-4]/top"}]) as proxy:
        monkeypatch.setenv("INSPECTION_S3_ENDPOINT_URL", proxy.url)
        with pytest.raises(FailedImagesError, match="10 of 43 images could not be read"):
            nightly(LINE, LAST_DAY, device="cpu")
        assert proxy.counts()["internal_error"] >= 2 * 10
        failed = store.runs.newest(LINE, LAST_DAY, LAST_DAY)
        assert (failed.state, failed.listed, failed.scored, failed.unusable, failed.failed) == ("failed", 43, 30, 3, 10)
        named = store.runs.failures(failed.id).set_index("key")
        assert (named["reason"] == "fetch_failed").sum() == 10
        assert "InternalError" in named.loc[key_of(LAST_DAY, "g0003"), "detail"]
        assert key_of(LAST_DAY, "g0003") in trained.get(failed.report_key).decode()
        proxy.set_faults([])
        repaired = nightly(LINE, LAST_DAY, device="cpu").counts
    assert (repaired.scored, repaired.already_scored, repaired.unusable, repaired.failed) == (10, 30, 3, 0)


def test_training_refuses_with_the_way_out(bucket: ObjectStore, write_line) -> None:
    """Broken if training starts on nothing, on a list that names nothing, or with too few images for the promise."""
    write_line(LINE, images={"normal_list": "normal/plates.csv"})
    with pytest.raises(TrainingDataError, match="record them first with `inspection ingest plates`"):
        train_ganomaly(LINE)
    for number in range(12):
        bucket.put(key_of(WEEK[0], f"p{number:04}"), plate(number), "image/png")
    ingest_images(LINE, WEEK[0])
    bucket.put("normal/plates.csv", b"key\nimages/other.png\n", "text/csv")
    with pytest.raises(
        TrainingDataError, match=r"1 of 1 keys \(100%\) were never recorded, for example 'images/other.png'"
    ):
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
    assert run.data.metrics["parts"] == 110
    assert run.inputs.dataset_inputs[0].dataset.name == f"snapshot-{model.snapshot_id}"
    assert len(systems.registry.client.get_metric_history(run.info.run_id, "loss_contextual")) == 1


def test_a_part_under_two_ids_does_not_train_and_calibrate(
    bucket: ObjectStore, write_line, caplog: pytest.LogCaptureFixture
) -> None:
    """Broken if a plate photographed again under another part id sets the limit after it trained, or nobody is told."""
    write_line(LINE)
    for number in range(100):
        for again in range(3):
            bucket.put(key_of(WEEK[0], f"p{number:04}-{again}"), plate(number), "image/png")
    ingest_images(LINE, WEEK[0])
    model = train_ganomaly(LINE, epochs=1, device="cpu")
    client = open_systems(LINE).registry.client
    run = client.get_run(model.version.mlflow_run_id)
    assert run.data.metrics["parts"] == 100
    assert run.data.metrics["calibration_images"] == 19
    manifest = pd.read_csv(client.download_artifacts(run.info.run_id, "snapshot/manifest.csv"))
    assert len(manifest[["sha256", "role"]].drop_duplicates()) == 100
    assert manifest["part"].nunique() == len(manifest) == 262  # the ids of the keys; 38 more photos are spare
    assert "300 images of 100 parts (near-duplicates count as one)" in caplog.text
    assert "most images are photos of a few parts" in caplog.text


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
    scores = systems.store.scores.of_window(LINE, LAST_DAY, LAST_DAY, 1, champion.calibration_id).set_index("part")
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
    run = store.runs.get(night.run_id)
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
