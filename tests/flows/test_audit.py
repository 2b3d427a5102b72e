"""The audit of a real night: `inspection trace`, `verify`, `flagged`, `review`; and MLflow away at a night's start."""

import json
import socket
import sqlite3
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deployments.commands.inspection import app
from flows.score_batch import NightResult, score_batch
from tasks.bucket.bucket import ObjectStore
from tasks.night.pinned import pin_model
from tasks.registry.reaching import RegistryUnreachableError
from tasks.store.store import ReportStore
from tests.flows.plates import LINE, WEEK, key_of, plate

pytestmark = pytest.mark.usefixtures("prefect_server")

NIGHT = date(2026, 3, 8)


@pytest.fixture
def night(bucket: ObjectStore, copy_trained_line) -> NightResult:
    """A night of good and some defective plates, judged by a model that a week of good ones has trained."""
    for number in range(36):
        bucket.put(key_of(NIGHT, f"g{number:04}"), plate(1000 + number), "image/png")
    for number in range(8):  # with many more the night would be suspect
        bucket.put(key_of(NIGHT, f"d{number:04}"), plate(2000 + number, defect=True), "image/png")
    bucket.put(key_of(NIGHT, "page"), b"<html>502</html>", "image/png")
    bucket.put(key_of(NIGHT, "copy"), plate(0), "image/png")
    copy_trained_line()
    return score_batch(LINE, NIGHT, device="cpu")


def inspection(*arguments: str, code: int = 0) -> Result:
    """Run the command in this process."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done


def ask(*arguments: str, code: int = 0):
    """What the command prints with `--json`; fails unless that is all it prints."""
    return json.loads(inspection(*arguments, "--json", code=code).stdout)


def closed_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_part_leads_to_everything(night: NightResult, bucket: ObjectStore, store: ReportStore) -> None:
    """Broken if an auditor cannot get from a flagged part to its image, model, training, run and reviewer."""
    worst = ask("flagged", LINE, "--date", str(NIGHT), "--limit", "1")
    assert worst["run"]["id"] == night.run_id
    part = worst["parts"][0]["part"]
    assert part.startswith("d")
    reviewed = ask("review", LINE, part, "--finding", "good", "--who", "Anna", "--note", "a reflection")
    assert reviewed["meaning"] == "false reject"

    (line,) = ask("trace", part)["lines"]
    (image,), (model,), (run,) = line["images"], line["models"], line["runs"]
    assert image["image"]["key"] == key_of(NIGHT, part)
    assert image["image"]["etag"] == next(iter(bucket.list_objects(key_of(NIGHT, part)))).etag
    assert image["in_bucket"] == {"state": "present", "detail": ""}
    assert image["training"] == [{"model_version": 1, "role": "none", "key": None}]
    (verdict,), (review,) = image["verdicts"], image["reviews"]
    assert (verdict["verdict"], verdict["run_id"], verdict["model_version"]) == ("flagged", night.run_id, 1)
    assert verdict["raw_score"] == worst["parts"][0]["raw_score"]
    assert (review["finding"], review["who"], review["note"]) == ("good", "Anna", "a reflection")
    assert [model[name]["state"] for name in ("registered", "files", "snapshot")] == ["found", "whole", "matches"]
    assert (model["calibration_id"], model["snapshot_images"]) == (verdict["calibration_id"], 120)
    assert model["false_reject_rate"] == 0.05
    assert model["calibration_images"] >= 19
    assert "scaled to 32 x 32 px" in model["recipe"]
    assert [p["alias"] for p in model["promotions"]] == ["champion"]
    assert run["id"] == night.run_id
    assert len(run["flow_run_id"]) == 36
    assert verdict["scored_at"].endswith("+00:00")

    text = inspection("trace", part, "--line", LINE).stdout
    for said in (key_of(NIGHT, part), image["image"]["sha256"], "hashes to this id", "good, Anna", run["flow_run_id"]):
        assert said in text
    assert max(map(len, text.splitlines())) < 200


def test_what_changed_since_is_told(night: NightResult, bucket: ObjectStore, tmp_path: Path) -> None:
    """Broken if a replaced object, a training image, a copy of one, or an altered snapshot goes unnoticed."""
    bucket.put(key_of(NIGHT, "g0000"), plate(5000), "image/png")
    score_batch(LINE, NIGHT, device="cpu")
    (replaced,) = ask("trace", "g0000")["lines"]
    assert [image["in_bucket"]["state"] for image in replaced["images"]] == ["replaced", "present"]
    assert len(replaced["runs"]) == 2
    assert ask("review", LINE, "g0000", "--finding", "defect")["image"] == replaced["images"][1]["image"]

    (trained,) = ask("trace", key_of(WEEK[0], "p0000"))["lines"]
    role = trained["images"][0]["training"][0]["role"]
    assert role in ("train", "fit", "calibrate")
    (copy,) = ask("trace", "copy")["lines"]
    assert copy["images"][0]["training"] == [{"model_version": 1, "role": role, "key": key_of(WEEK[0], "p0000")}]
    (page,) = ask("trace", "page")["lines"]
    assert page["images"][0]["verdicts"][0]["reason"] == "unreadable"

    (manifest,) = tmp_path.glob("mlartifacts/**/snapshot/manifest.csv")
    manifest.write_text(manifest.read_text().replace('"fit"', '"train"', 1))
    (altered,) = ask("trace", "g0000")["lines"]
    assert altered["models"][0]["snapshot"]["state"] == "differs"


def test_a_run_is_recomputed(night: NightResult, bucket: ObjectStore, tmp_path: Path, monkeypatch) -> None:
    """Broken if a stored score that the pinned model does not give passes, or an object that is gone fails the run."""
    first = ask("verify", night.run_id, "--sample", "10")
    assert (first["passed"], first["compared"], first["different"]) == (True, 10, 0)
    assert first["largest_relative_difference"] < 1e-6
    again = ask("verify", night.run_id, "--sample", "10")
    assert [i["stored"]["key"] for i in again["images"]] == [i["stored"]["key"] for i in first["images"]]

    bucket.put(key_of(NIGHT, "g0001"), plate(5000), "image/png")
    everything = ask("verify", night.run_id)
    assert (everything["passed"], everything["compared"], everything["changed"]) == (True, 44, 1)

    with sqlite3.connect(tmp_path / "inspection.db") as database:
        database.execute(
            "UPDATE score SET verdict = 'ok' WHERE image_id = (SELECT id FROM image WHERE key = ?)",
            [key_of(NIGHT, "d0003")],
        )
        database.execute(
            "UPDATE score SET raw_score = raw_score * 1.01 WHERE image_id = (SELECT id FROM image WHERE key = ?)",
            [key_of(NIGHT, "g0004")],
        )
    caught = inspection("verify", night.run_id, code=1).stdout
    assert key_of(NIGHT, "d0003") in caught
    assert "verdict ok stored, its raw score has flagged" in caught
    assert key_of(NIGHT, "g0004") in caught
    assert "NOT reproduced: 2 images of 44 compared ended otherwise" in caught

    monkeypatch.setenv("INSPECTION_S3_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    unread = inspection("verify", night.run_id, code=1).stdout
    assert "NOT verified: 45 images could not be read from the bucket" in unread
    assert unread.count("not fetched  images/") == 20
    assert "... and 25 more; --json names all" in unread


def test_a_trace_needs_neither_mlflow_nor_the_bucket(night: NightResult, monkeypatch) -> None:
    """Broken if the records cannot be read while MLflow or the bucket is away, or if that passes for a good check."""
    monkeypatch.setenv("INSPECTION_MLFLOW_TRACKING_URI", f"http://ops:canary-9f3@127.0.0.1:{closed_port()}")
    monkeypatch.setenv("INSPECTION_S3_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    done = inspection("trace", "d0000", "--json")
    assert "canary-9f3" not in done.output
    (line,) = json.loads(done.stdout)["lines"]
    (image,), (model,) = line["images"], line["models"]
    assert len(image["verdicts"]) == 1
    for check in (image["in_bucket"], model["registered"], model["snapshot"], model["files"]):
        assert check["state"] == "not checked"
        assert "127.0.0.1" in check["detail"]
    assert image["training"][0]["role"] == "not checked"


@pytest.mark.fault(
    area="MLflow",
    fault="unreachable when a night starts, although its champion lies in the local cache",
    outcome="the night ends with an error that names the server, opens no run and guesses no model; the next one works",
)
def test_mlflow_away_at_the_start_of_a_night(night: NightResult, bucket, store: ReportStore, monkeypatch) -> None:
    """Broken if a night goes on without knowing its champion, leaves something half-done, or prints the password."""
    bucket.put(key_of(NIGHT, "late"), plate(6000), "image/png")
    before = store.runs.of_line(LINE, 10)
    monkeypatch.setattr(pin_model, "retry_delay_seconds", [0, 0, 0])
    port = closed_port()
    with monkeypatch.context() as patch:
        patch.setenv("INSPECTION_MLFLOW_TRACKING_URI", f"http://ops:canary-9f3@127.0.0.1:{port}")
        patch.setenv("MLFLOW_TRACKING_USERNAME", "")
        patch.setenv("MLFLOW_TRACKING_PASSWORD", "")
        with pytest.raises(RegistryUnreachableError, match=f"MLflow at http://127.0.0.1:{port}") as caught:
            score_batch(LINE, NIGHT, device="cpu")
    assert "canary-9f3" not in str(caught.value)
    assert store.runs.of_line(LINE, 10) == before
    assert score_batch(LINE, NIGHT, device="cpu").counts.scored == 1
