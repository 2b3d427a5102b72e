"""The audit's records without a night: many lines, views, failures, lookups in vain, and what counts as equal.

`tests/flows/test_audit.py` audits a real night.
"""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from deployments.commands.inspection import app
from deployments.commands.screen import printable
from ganomaly.image_score import ImageScore
from ganomaly.scoring.calibration import Calibration
from tasks.audit.verify import TOLERANCES, compare
from tasks.bucket.bucket import ObjectStore
from tasks.night.accounting import RunCounts
from tasks.store.rows import FailureRecord, ImageRecord, JudgedImage, ScoreRecord, StoredScore
from tasks.store.runs import new_run_id
from tasks.store.store import ReportStore

ROOT = Path(__file__).resolve().parents[3]
DAY = date(2026, 3, 9)
NOON = datetime(2026, 3, 9, 12, tzinfo=UTC)
HOSTILE = "images/plates/2026-03-09/p\x1b[31m\n<b>/top.png"


def image(key: str, part: str, *, etag: str = "e1", captured_at: datetime = NOON, day: date = DAY) -> ImageRecord:
    """A usable image."""
    return ImageRecord(key, etag, part, key.rpartition("/")[2], day, captured_at, 1000, "ab" * 32, usable=True)


def score(raw: float) -> ScoreRecord:
    """Over 2 is flagged."""
    return ScoreRecord("flagged" if raw > 2 else "ok", raw, raw / (2 + raw), 0.25)


def judge(store: ReportStore, line: str, images: list[tuple[ImageRecord, float]], *failed: str) -> str:
    """Judge images in a completed run over DAY; gives its id."""
    names = {"model_name": f"ganomaly-{line}", "snapshot_id": "snap", "code_version": "0"}
    run = store.runs.start(new_run_id(), line, DAY, DAY, model_version=3, calibration_id="cal", **names)
    failures = [FailureRecord(key, "e1", "vanished", "it is gone") for key in failed]
    store.scores.commit(run.id, [JudgedImage(found, score(raw)) for found, raw in images], failures)
    listed = len(images) + len(failed)
    store.runs.finish(run.id, RunCounts(listed=listed, scored=len(images), failed=len(failed)), "completed")
    return run.id


@pytest.fixture(autouse=True)
def _plant(bucket: ObjectStore, store: ReportStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines, an empty bucket, and an MLflow that cannot be opened: these tests are not about it."""
    for line in ("plates", "rings"):
        (tmp_path / "lines" / f"{line}.toml").write_text(f'name = "{line}"\n')
    monkeypatch.setenv("INSPECTION_MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/lines/plates.toml/mlflow.db")


def inspection(*arguments: str, code: int = 0) -> Result:
    """Run the command in this process."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done


def ask(*arguments: str):
    """What the command prints with `--json`; fails unless that is all it prints."""
    return json.loads(inspection(*arguments, "--json").stdout)


def test_a_part_of_several_lines(store: ReportStore) -> None:
    """Broken if lines that number their parts alike are mixed, or one of them is forgotten."""
    for line in ("plates", "rings"):
        judge(store, line, [(image(f"images/{line}/2026-03-09/p1/top.png", "p1"), 1.0)])
    both = ask("trace", "p1")["lines"]
    assert [line["line"] for line in both] == ["plates", "rings"]
    assert [line["images"][0]["image"]["line"] for line in both] == ["plates", "rings"]
    assert [line["line"] for line in ask("trace", "p1", "--line", "rings")["lines"]] == ["rings"]
    text = inspection("trace", "p1").stdout
    assert "plates: p1  1 recorded image" in text
    assert "rings: p1  1 recorded image" in text


def test_a_key_that_only_ever_failed(store: ReportStore) -> None:
    """Broken if an image that could never be read is unknown to the audit."""
    key = "images/plates/2026-03-09/lost/top.png"
    run = judge(store, "plates", [], key)
    (line,) = ask("trace", key)["lines"]
    assert line["images"] == []
    assert [(f["reason"], f["run_id"]) for f in line["failures"]] == [("vanished", run)]
    assert [r["id"] for r in line["runs"]] == [run]
    assert f"vanished {key}, run {run}" in inspection("trace", key).stdout


def test_what_is_gone_is_told(store: ReportStore, bucket: ObjectStore) -> None:
    """Broken if a longer key that begins like a removed one passes for it."""
    key = "images/plates/2026-03-09/p1/top.png"
    judge(store, "plates", [(image(key, "p1"), 1.0)])
    bucket.put(f"{key}.bak", b"x", "image/png")
    (line,) = ask("trace", "p1")["lines"]
    assert line["images"][0]["in_bucket"]["state"] == "gone"


@pytest.mark.fault(
    area="Key",
    fault="holds terminal escape sequences and line breaks, and is printed by `inspection trace`",
    outcome="printed with escapes, one line",
)
def test_a_hostile_key_is_printed_harmlessly(store: ReportStore) -> None:
    """Broken if a key or a note can colour, move or clear the terminal of who reads the audit."""
    judge(store, "plates", [(image(HOSTILE, "p\x1b[31m\n<b>"), 3.0)])
    ask("review", "plates", HOSTILE, "--finding", "good", "--who", "A\x1b[2J", "--note", "n\x07")
    for command in (["trace", HOSTILE], ["flagged", "plates", "--date", str(DAY)]):
        text = inspection(*command).stdout
        assert r"p\x1b[31m\n<b>/top.png" in text
        assert not set(text) & {"\x1b", "\x07"}
    assert ask("trace", HOSTILE)["lines"][0]["images"][0]["image"]["key"] == HOSTILE
    assert printable("grüße 部品") == "grüße 部品"


def test_what_is_not_recorded_has_a_way_out(store: ReportStore, bucket: ObjectStore) -> None:
    """Broken if a lookup that finds nothing does not say where it looked and what to do."""
    key = "images/plates/2026-03-09/p1/top.png"
    bucket.put(key, b"x", "image/png")
    error = inspection("trace", key, code=1).stderr
    assert f"knows no part and no key '{key}' of any line" in error
    assert "run `inspection ingest plates --from 2026-03-09 --to 2026-03-09`" in error
    store.images.commit("plates", [image(key, "p1")])
    assert f"did you mean '{key}'?" in inspection("trace", key[:-4], code=1).stderr
    assert "nor does a key in s3://" in inspection("trace", "p9", code=1).stderr
    assert "lines there: plates, rings" in inspection("trace", "p1", "--line", "plate", code=1).stderr
    assert "has no run 'r1'; `inspection runs LINE`" in inspection("verify", "r1", code=1).stderr
    assert "run `inspection nightly plates`" in inspection("runs", "plates", code=1).stderr
    assert "run `inspection nightly plates --date 2026-03-09`" in (
        inspection("flagged", "plates", "--date", "2026-03-09", code=1).stderr
    )


def test_a_quick_look_does_not_wait_for_torch() -> None:
    """Broken if listing runs or recording a finding takes seconds because of what only training and scoring need."""
    heavy = "{'torch', 'mlflow', 'prefect'}"
    code = f"import sys, tasks.audit.lookup, tasks.audit.review; sys.exit(' '.join({heavy} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_runs_and_flagged_parts(store: ReportStore) -> None:
    """Broken if runs are not newest first, parts not worst first, or a list that was cut passes for the whole."""
    raws = {"a": 3.0, "b": 9.0, "c": 1.0}
    first = judge(store, "plates", [(image(f"images/plates/2026-03-09/{p}/t.png", p), raw) for p, raw in raws.items()])
    second = judge(store, "plates", [])
    assert [run["id"] for run in ask("runs", "plates")] == [second, first]
    assert [run["id"] for run in ask("runs", "plates", "--last", "1")] == [second]
    assert "3 listed = 3 scored" in inspection("runs", "plates").stdout
    day = ("flagged", "plates", "--date", str(DAY))
    assert [part["part"] for part in ask(*day)["parts"]] == ["b", "a"]
    assert "2 flagged parts" in inspection(*day).stdout
    assert "the 1 worst flagged parts, --limit shows more" in inspection(*day, "--limit", "1").stdout
    judge(store, "rings", [])
    assert "nothing was judged: 0 objects listed" in inspection("flagged", "rings", "--date", str(DAY)).stdout


def test_a_day_whose_run_is_not_complete_says_so(store: ReportStore) -> None:
    """Broken if the flagged parts of half a night pass for those of the night."""
    names = {"model_name": "ganomaly-plates", "snapshot_id": "snap", "code_version": "0"}
    store.runs.start(new_run_id(), "plates", DAY, DAY, model_version=3, calibration_id="cal", **names)
    assert "the run is running: parts may be missing" in inspection("flagged", "plates", "--date", str(DAY)).stdout


@pytest.mark.parametrize(
    ("raw", "finding", "meaning"),
    [
        (3.0, "good", "false reject"),
        (3.0, "defect", "confirmed"),
        (1.0, "defect", "escape"),
        (1.0, "good", "confirmed"),
    ],
)
def test_what_a_finding_means(store: ReportStore, raw: float, finding: str, meaning: str) -> None:
    """Broken if a false reject is counted as an escape, or an agreeing finding as either."""
    judge(store, "plates", [(image("images/plates/2026-03-09/p1/t.png", "p1"), raw)])
    assert ask("review", "plates", "p1", "--finding", finding)["meaning"] == meaning


def test_a_finding_belongs_to_the_newest_day_of_a_name(store: ReportStore) -> None:
    """A plant that numbers each day from 1 would see a good part's finding written on last week's defect."""
    earlier, keys = date(2026, 3, 2), [f"images/plates/2026-03-0{day}/p1/a.png" for day in (2, 9)]
    judge(store, "plates", [(image(keys[0], "p1", day=earlier), 9.0), (image(keys[1], "p1"), 3.0)])
    assert ask("review", "plates", "p1", "--finding", "good")["image"]["key"] == keys[1]
    assert ask("review", "plates", "p1", "--finding", "defect", "--date", "2026-03-02")["image"]["key"] == keys[0]
    other = inspection("review", "plates", "p1", "--finding", "good", "--date", "2026-03-03", code=1).stderr
    assert "on 2026-03-03, but on 2026-03-02, 2026-03-09" in other


def test_a_finding_belongs_to_the_worst_view_in_its_newest_form(store: ReportStore) -> None:
    """Broken if a finding is attached to a replaced image, or to a view that nobody complained about."""
    keys = [f"images/plates/2026-03-09/p1/{view}.png" for view in ("a", "b")]
    later = NOON.replace(hour=13)
    judge(store, "plates", [(image(keys[0], "p1", etag="old"), 9.0), (image(keys[1], "p1"), 3.0)])
    judge(store, "plates", [(image(keys[0], "p1", etag="new", captured_at=later), 1.0)])
    assert ask("review", "plates", "p1", "--finding", "good")["image"]["key"] == keys[1]
    assert ask("review", "plates", keys[0], "--finding", "good")["image"]["etag"] == "new"
    ask("review", "plates", "p1", "--finding", "defect", "--who", "Ben")
    (line,) = ask("trace", keys[1])["lines"]
    assert [r["finding"] for r in line["images"][0]["reviews"]] == ["good", "defect"]
    assert "give --who NAME" in inspection("review", "plates", "p1", "--finding", "good", "--who", " ", code=1).stderr


TOLERANCE = TOLERANCES["fp32"]
CALIBRATION = Calibration(np.linspace(1.0, 2.0, 39), 0.05)


def stored(raw: float, **changes) -> StoredScore:
    """What a run would have written for a raw score."""
    flagged = CALIBRATION.flagged([raw])[0]
    values = StoredScore(
        image_id=1,
        key="k",
        etag="e",
        line="plates",
        run_id="r",
        model_version=1,
        calibration_id=CALIBRATION.id,
        raw_score=raw,
        normalised_score=float(CALIBRATION.normalise([raw])[0]),
        p_value=float(CALIBRATION.p_value([raw])[0]),
        verdict="flagged" if flagged else "ok",
        reason=None,
        heat_map_key=None,
        scored_at=NOON,
    )
    return replace(values, **changes)


def recomputed(raw: float) -> ImageScore:
    """What the detector would say to a raw score now."""
    row = stored(raw)
    return ImageScore(raw, row.normalised_score, row.p_value, row.verdict)


@pytest.mark.parametrize("raw", [0.5, 1.0, 1.5, CALIBRATION.limit, 2.0, 7.0])
@pytest.mark.parametrize("factor", [1.0, 1 + TOLERANCE / 2, 1 - TOLERANCE / 2])
def test_another_machine_may_round_otherwise(raw: float, factor: float) -> None:
    """Broken if a p-value or a verdict that tips over at a calibration score is taken for a changed score."""
    assert compare(stored(raw), recomputed(raw * factor), CALIBRATION, TOLERANCE).outcome == "equal"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (stored(1.5, raw_score=1.501), "raw score 1.501 stored, 1.5 recomputed"),
        (stored(1.5, raw_score=float("nan")), "raw score nan stored"),
        (stored(1.5, p_value=0.1), "p-value 0.1 stored"),
        (stored(1.5, normalised_score=0.1), "normalised score 0.1 stored"),
        (stored(1.5, verdict="flagged"), "verdict flagged stored, its raw score has ok"),
    ],
)
def test_a_changed_record_is_found(row: StoredScore, problem: str) -> None:
    """Broken if somebody can change a score, a p-value or a verdict in the database without `verify` noticing."""
    found = compare(row, recomputed(1.5), CALIBRATION, TOLERANCE)
    assert found.outcome == "different"
    assert problem in found.detail
