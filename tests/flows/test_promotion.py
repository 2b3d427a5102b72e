"""From challenger to champion and back, with real parts: S3, MLflow, Prefect, SQLite and PostgreSQL."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from typer.testing import CliRunner

from deployments.commands.inspection import app
from flows.ingest_images import ingest_images
from flows.nightly import nightly
from flows.promote_model import promote_model
from flows.train_ganomaly import train_ganomaly
from tasks.audit.lookup import open_archive
from tasks.audit.review import record_finding
from tasks.bucket.bucket import ObjectStore
from tasks.golden.golden_set import GoldenSetError, read_golden_set
from tasks.night.pinned import pin_model
from tasks.promotion import alias, approval
from tasks.promotion.promote import PromotionError
from tasks.store.store import ReportStore
from tasks.systems import Systems, open_systems
from tests.conftest import write_line_file
from tests.flows.plates import LAST_DAY, LINE, WEEK, key_of, plate, week

pytestmark = pytest.mark.usefixtures("prefect_server")

CORNER = {"roi": [0, 0, 10, 10], "size_px": 32}
"""A region of interest that was set wrong: defects lie elsewhere."""


def put_golden_set(bucket: ObjectStore, good: int = 40, defective: int = 12) -> None:
    """Plates with known verdicts that no line has ever recorded."""
    rows = ["image,kind"]
    for number in range(good):
        bucket.put(f"golden/{LINE}/good/{number}.png", plate(5000 + number), "image/png")
        rows.append(f"good/{number}.png,good")
    for number in range(defective):
        bucket.put(f"golden/{LINE}/blot/{number}.png", plate(6000 + number, defect=True), "image/png")
        rows.append(f"blot/{number}.png,blot")
    bucket.put(f"golden/{LINE}/labels.csv", "\n".join(rows).encode(), "text/csv")


def versions(systems: Systems) -> tuple[int | None, int | None]:
    """Champion and challenger."""
    found = systems.registry.champion(LINE), systems.registry.challenger(LINE)
    return tuple(version and version.version for version in found)


def decided(systems: Systems) -> list[tuple[str, str, int, int | None]]:
    """The table `promotion`, oldest first."""
    rows = systems.store.decisions.promotions(LINE)
    return [(row.outcome, row.alias, row.version, row.previous_version) for row in rows]


@contextmanager
def a_person_who_answers(monkeypatch: pytest.MonkeyPatch, **answer: object) -> Iterator[list[str]]:
    """Somebody who looks into Prefect's UI and answers the next question; gives what the UI showed."""
    monkeypatch.setattr(approval, "POLL_S", 1)
    asked: list[str] = []
    stop = threading.Event()
    monkeypatch.setattr(approval, "PATIENCE_S", 60)

    def look() -> None:
        with get_client(sync_client=True) as client:
            while not stop.wait(0.3):
                paused = client.read_flow_runs(flow_run_filter=FlowRunFilter(state={"type": {"any_": ["PAUSED"]}}))
                for run in paused:
                    description = run.state.state_details.run_input_keyset["description"]
                    asked.append(client._client.get(f"/flow_runs/{run.id}/input/{description}").text)
                    client.resume_flow_run(run.id, run_input=answer)
                    return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield asked
    finally:
        stop.set()
        thread.join()


@pytest.fixture(params=["sqlite", "postgresql"])
def any_store(request: pytest.FixtureRequest, environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report store that `Settings()` names."""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
        monkeypatch.setenv("INSPECTION_STORE_URL", url)
        with ReportStore(url) as store:
            store.upgrade()


@pytest.mark.usefixtures("any_store")
def test_the_life_of_three_versions(plant: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken if a worse model passes, a good one does not, approval or rollback fail, or a night does not heed it."""
    put_golden_set(plant)
    ingest_images(LINE, WEEK[0], WEEK[-1])
    train_ganomaly(LINE, device="cpu")
    systems = open_systems(LINE)
    assert nightly(LINE, LAST_DAY, device="cpu").model_version == 1

    write_line_file(LINE, recipe=CORNER)
    train_ganomaly(LINE, device="cpu")
    refused = promote_model(LINE, device="cpu")
    assert refused.decision.outcome == "refused"
    assert "defects that the champion finds failed: challenger" in refused.decision.why
    assert versions(systems) == (1, 2)
    assert nightly(LINE, WEEK[-1], device="cpu").model_version == 1
    page = systems.registry.client.get_model_version(f"ganomaly-{LINE}", "2")
    assert (page.tags["status"], page.tags["gate"]) == ("refused", "failed")
    assert page.tags["decided"].endswith(refused.decision.why)
    assert "was refused (flow promote-model)" in page.description
    files = systems.registry.client.list_artifacts(page.run_id, "promotion")
    names = [Path(one.path).name for one in systems.registry.client.list_artifacts(page.run_id, files[0].path)]
    assert sorted(names) == ["disagreements.png", "gate.json", "gate.md", "scores.png"]

    write_line_file(LINE, models={"require_approval": True})
    train_ganomaly(LINE, WEEK[0], WEEK[-1], seed=1, device="cpu")
    with a_person_who_answers(monkeypatch, approve=True, approver="ada", comment="looked at all") as asked:
        promoted = promote_model(LINE, device="cpu")
    assert "May **models:/ganomaly-plates/3** become champion?" in asked[0]
    assert promoted.decision.outcome == "promoted", promoted.gate
    assert (promoted.decision.who, promoted.decision.why) == (
        "ada",
        "approved by ada; models.require_approval is set; looked at all",
    )
    checks = {check["name"]: check for check in json.loads(promoted.decision.gate)["checks"]}
    assert {check["outcome"] for check in checks.values()} == {"passed"}
    assert " of 40 flagged" in checks["false rejects"]["figure"]
    assert "recent images that neither model learned from: " in checks["false rejects"]["figure"]
    assert versions(systems) == (3, None)
    assert nightly(LINE, WEEK[-2], device="cpu").model_version == 3

    back = CliRunner().invoke(app, ["rollback", LINE, "--reason", "too many flags", "--who", "bob"])
    assert back.exit_code == 0, back.output
    assert versions(systems) == (1, None)
    again = CliRunner().invoke(app, ["rollback", LINE, "--reason", "too many flags", "--who", "bob"])
    assert "never had another champion" in again.output
    assert nightly(LINE, WEEK[-3], device="cpu").model_version == 1
    assert decided(systems) == [
        ("promoted", "champion", 1, None),
        ("refused", "challenger", 2, 1),
        ("waiting", "challenger", 3, 1),
        ("promoted", "champion", 3, 1),
        ("rolled_back", "champion", 1, 3),
    ]
    statuses = [systems.registry.client.get_model_version(f"ganomaly-{LINE}", str(n)).tags["status"] for n in (1, 2, 3)]
    assert statuses == ["champion", "refused", "former champion"]
    listed = CliRunner().invoke(app, ["decisions", LINE, "--json"])
    assert json.loads(listed.stdout)[0]["who"] == "bob"


@pytest.fixture
def challenged(trained: ObjectStore) -> Systems:
    """The plant with a golden set, a champion, and a challenger that learned the same with another seed."""
    put_golden_set(trained)
    train_ganomaly(LINE, seed=1, device="cpu")
    systems = open_systems(LINE)
    assert versions(systems) == (1, 2)
    return systems


def test_a_person_may_say_no(challenged: Systems, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken if an answer is not heeded, or recorded under another name."""
    write_line_file(LINE, models={"require_approval": True})
    with a_person_who_answers(monkeypatch, approve=False, approver="eve", comment="not before the audit"):
        result = promote_model(LINE, device="cpu")
    assert (result.decision.outcome, result.decision.who) == ("refused", "eve")
    assert result.decision.why == "eve said no: not before the audit"
    assert versions(challenged) == (1, 2)


def test_without_a_golden_set_a_person_decides(
    trained: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Broken if a model passes although nothing shows that it finds defects, or nobody is told what is missing."""
    train_ganomaly(LINE, seed=1, device="cpu")
    systems = open_systems(LINE)
    monkeypatch.setattr("flows.promote_model.can_be_asked", lambda: False)
    waiting = promote_model(LINE, device="cpu")
    assert waiting.decision.outcome == "waiting"
    assert "the golden set holds no defective image" in waiting.decision.why
    assert versions(systems) == (1, 2)
    refused = CliRunner().invoke(app, ["promote", LINE])
    assert refused.exit_code == 1
    assert "inspection promote plates --approve" in refused.output
    done = CliRunner().invoke(app, ["promote", LINE, "--approve", "--who", "ada"])
    assert done.exit_code == 0, done.output
    assert versions(systems) == (2, None)
    assert systems.store.decisions.last_promotion(LINE).who == "ada"


def test_what_cannot_be_promoted_is_said(trained: ObjectStore) -> None:
    """Broken if a wrong request ends in anything but one line with the way out."""
    for arguments, said in (
        ({}, "has no challenger in MLflow at .*; train one with `inspection train plates`"),
        ({"version": 7}, "has no version 7"),
        ({"version": 1}, "is the champion already"),
        ({"without_gate": "worse"}, "without the gate the version must be named: --version N, or `version` in Prefect"),
    ):
        with pytest.raises(PromotionError, match=said):
            promote_model(LINE, device="cpu", **arguments)


def test_a_listed_exception_lets_a_defect_go(challenged: Systems, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken if a defect that a person gave up still refuses the challenger, or more than that one is given up."""
    write_line_file(LINE, recipe=CORNER)
    train_ganomaly(LINE, device="cpu")
    result = promote_model(LINE, may_miss=("blot/0.png",), device="cpu")
    (check, *_) = json.loads(result.decision.gate)["checks"]
    assert check["outcome"] == "failed"
    assert "blot/0.png" not in check["images"]


def test_a_golden_image_that_was_trained_on_is_named(trained: ObjectStore) -> None:
    """Broken if a model is judged by images that it learned from."""
    put_golden_set(trained)
    trained.put(f"golden/{LINE}/good/0.png", week()[key_of(WEEK[0], "p0000")], "image/png")
    train_ganomaly(LINE, seed=1, device="cpu")
    systems = open_systems(LINE)
    manifest = systems.registry.snapshot_manifest(systems.registry.challenger(LINE))
    assert key_of(WEEK[0], "p0000") not in set(manifest["key"])  # it was left out
    with pytest.raises(GoldenSetError, match=r"were used to train models:/ganomaly-plates/1, for example 'good/0.png'"):
        promote_model(LINE, device="cpu")


def test_two_promotions_at_once_leave_one_winner(challenged: Systems) -> None:
    """Broken if the second promotion undoes the first, unseen."""
    train_ganomaly(LINE, seed=2, device="cpu")
    before = challenged.registry.champion(LINE)
    both = [challenged.registry.version(LINE, number) for number in (2, 3)]
    start = threading.Barrier(2)

    def move(version: object) -> str:
        start.wait()
        try:
            alias.move_champion(challenged, version, before, who="x", why="y")
        except alias.PromotionConflictError as error:
            return str(error)
        return "moved"

    with ThreadPoolExecutor(2) as pool:
        answers = sorted(pool.map(move, both))
    assert answers[1] == "moved"
    assert "somebody promoted another version meanwhile. Nothing was changed" in answers[0]
    champion, _ = versions(challenged)
    assert decided(challenged)[1:] == [("promoted", "champion", champion, 1)]


KILLED_BETWEEN = """
import os, signal, sys
from tasks.promotion import alias
from tasks.store.decisions import Decisions
from tasks.registry.registry import ModelRegistry
from tasks.systems import open_systems

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "before":
    ModelRegistry.set_alias = die
else:
    Decisions.record_promotion = die
systems = open_systems("plates")
version = systems.registry.version("plates", 2)
alias.move_champion(systems, version, systems.registry.champion("plates"), who="x", why="y")
"""


@pytest.mark.fault(
    area="Process",
    fault="a promotion is killed before or after it moves the alias",
    outcome="the old or the new version is champion; the next promotion writes down what it finds",
)
@pytest.mark.parametrize(("when", "champion"), [("before", 1), ("after", 2)])
def test_a_killed_promotion_leaves_a_champion(
    challenged: Systems, when: str, champion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken if a night finds no champion, or nobody ever writes down what happened."""
    monkeypatch.setenv("INSPECTION_LEASE_S", "1")
    killed = subprocess.run([sys.executable, "-c", KILLED_BETWEEN, when], cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert versions(challenged)[0] == champion
    assert nightly(LINE, LAST_DAY, device="cpu").model_version == champion
    result = promote_model(LINE, version=3 - champion, without_gate="settled", who="ada")
    assert result.decision.why == "without the gate: settled"
    outcomes = [row[0] for row in decided(challenged)]
    assert outcomes == (["promoted", "found", "rolled_back"] if when == "after" else ["promoted", "promoted"])


def test_reviewed_parts_fill_the_golden_set(trained: ObjectStore) -> None:
    """Broken if a reviewed part cannot be added, or one that nobody reviewed or a model learned from can."""
    nightly(LINE, LAST_DAY, device="cpu")
    runner = CliRunner()

    def golden(*arguments: str) -> str:
        result = runner.invoke(app, ["golden", arguments[0], LINE, *arguments[1:]])
        return result.output + str(result.exit_code)

    assert "nobody has said what it is" in golden("add", "d0000")
    archive = open_archive()
    record_finding(archive, LINE, "d0000", "defect", "ada")
    record_finding(archive, LINE, "g0000", "good", "ada")
    record_finding(archive, LINE, "p0000", "good", "ada")
    assert "cannot be 'good'" in golden("add", "d0000", "--kind", "good")
    assert "blot/d0000-" in golden("add", "d0000", "--kind", "blot", "--who", "ada")
    assert "is in the golden set already" in golden("add", "d0000", "--kind", "blot", "--who", "ada")
    assert "good/g0000-" in golden("add", "g0000", "--who", "ada")
    assert "with kind 'blot'; if it is 'scratch', change its row" in golden("add", "d0000", "--kind", "scratch")
    trained_on = golden("add", "p0000", "--who", "ada")
    assert ("were used to train" in trained_on) == ("p0000" in trained_manifest_parts())
    systems = open_systems(LINE)
    defect, good = read_golden_set(systems)[:2]
    assert (defect.kind, defect.part, defect.who) == ("blot", "d0000", "ada")
    assert trained.get(f"golden/{LINE}/{defect.image}") == plate(2000, defect=True)
    assert "0 faults\n0" in golden("check")
    trained.put(f"golden/{LINE}/{good.image}", plate(9), "image/png")
    checked = golden("check")
    assert "it was replaced; put the image back or correct its row" in checked
    assert "1 faults\n1" in checked


def trained_manifest_parts() -> set[str]:
    """The parts that the champion learned from."""
    registry = open_systems(LINE).registry
    return set(registry.snapshot_manifest(registry.champion(LINE))["part"])


def test_a_new_model_learns_from_no_suspect(trained: ObjectStore) -> None:
    """Broken if training takes what a model flagged or a person rejected, or leaves out what a person found good."""
    nightly(LINE, LAST_DAY, device="cpu")
    systems = open_systems(LINE)
    flagged = {part for _, part in systems.store.scores.ever_flagged(LINE, LAST_DAY, LAST_DAY)}
    assert {"d0000", "d0001"} <= flagged
    archive = open_archive()
    record_finding(archive, LINE, "d0000", "good", "ada")
    record_finding(archive, LINE, "g0003", "defect", "ada")
    train_ganomaly(LINE, WEEK[0], LAST_DAY, seed=1, device="cpu")
    challenger = systems.registry.challenger(LINE)
    parts = set(systems.registry.snapshot_manifest(challenger)["part"])
    assert "d0000" in parts
    assert not parts & ((flagged - {"d0000"}) | {"g0003"})
    card = systems.registry.description(challenger)
    assert "left out: flagged, and nobody said that it is good" in card
    assert "1 left out: a person found a defect" in card


def test_another_limit_is_tried_on_past_nights_and_set_by_the_gate(trained: ObjectStore) -> None:
    """Broken if what-if counts otherwise than the nights would have, or a limit is changed without the gate."""
    nightly(LINE, LAST_DAY, device="cpu")
    systems, archive = open_systems(LINE), open_archive()
    for part in ("d0000", "d0001"):
        record_finding(archive, LINE, part, "defect", "ada")
    runner = CliRunner()
    told = runner.invoke(app, ["limit", LINE, "--false-rejects", "0.2"])
    assert told.exit_code == 0, told.output
    assert "40 parts judged" in told.stdout
    assert "of 2 parts found defective 2" in told.stdout
    too_strict = runner.invoke(app, ["limit", LINE, "--false-rejects", "0.001"])
    assert too_strict.exit_code == 1
    assert "calibration images are too few: a false-reject rate of 0.001 takes at least 999" in too_strict.output

    done = runner.invoke(app, ["limit", LINE, "--false-rejects", "0.2", "--set"])
    assert "models:/ganomaly-plates/2 has this limit and is @challenger" in done.stdout, done.output
    old, new = (pin_model.fn(systems, number, "cpu").detector for number in (1, 2))
    assert new.calibration.limit < old.calibration.limit
    assert new.calibration.false_reject_rate == new.config.calibration.false_reject_rate == 0.2
    assert runner.invoke(app, ["promote", LINE, "--approve", "--who", "ada"]).exit_code == 0
    again = nightly(LINE, LAST_DAY, device="cpu")
    assert again.model_version == 2
    assert f"then: at most 20.00% of good parts (limit {new.calibration.limit:.4f}): {again.counts.flagged} parts" in (
        told.stdout
    )
