"""A challenger judges nights beside the champion, with real parts; nobody takes what it says for a verdict."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from flows.nightly import nightly
from flows.promote_model import promote_model
from flows.score_batch import score_batch
from flows.train_ganomaly import train_ganomaly
from tasks.bucket.bucket import ObjectStore
from tasks.night import shadow
from tasks.promotion.compare import Comparison
from tasks.promotion.figures import _disagreements
from tasks.settings import Settings
from tasks.systems import Systems, open_systems
from tests.conftest import write_line_file
from tests.flows.plates import LAST_DAY, LINE

pytestmark = pytest.mark.usefixtures("prefect_server")

CORNER = {"roi": [0, 0, 10, 10], "size_px": 32}
"""A region in which no defect lies: a challenger that misses them all."""


def judges(systems: Systems, *numbers: int) -> list[tuple[int, str]]:
    """Versions with their calibrations."""
    registry, folder = systems.registry, systems.settings.work_dir / "models"
    found = [registry.version(LINE, number) for number in numbers]
    return [(one.version, registry.load_detector(one, folder, "cpu").calibration.id) for one in found]


@pytest.mark.parametrize("recipe", [{}, CORNER])
def test_a_challenger_judges_beside_and_nothing_else_changes(trained: ObjectStore, recipe: dict) -> None:
    """Broken if its verdicts are others than a night of its own would give, or reach a report."""
    write_line_file(LINE, models={"shadow": True}, recipe=recipe)
    train_ganomaly(LINE, seed=1, device="cpu")
    systems = open_systems(LINE)
    night = nightly(LINE, LAST_DAY, device="cpu")
    first, second = judges(systems, 1, 2)
    said = systems.store.shadow.beside(LINE, second, first)
    report = systems.store.scores.of_window(LINE, LAST_DAY, LAST_DAY, *first)
    assert night.model_version == 1
    assert len(said) == len(report) == night.counts.scored + 2  # a cut image and a page
    assert systems.store.scores.of_window(LINE, LAST_DAY, LAST_DAY, *second).empty
    flagged = report[report["verdict"] == "flagged"]
    assert systems.store.scores.ever_flagged(LINE, LAST_DAY, LAST_DAY) == {(LAST_DAY, part) for part in flagged["part"]}

    score_batch(LINE, LAST_DAY, LAST_DAY, model_version=2, device="cpu")
    its = systems.store.scores.of_window(LINE, LAST_DAY, LAST_DAY, *second)
    both = said.merge(its, on=["key", "etag"])
    assert (both["challenger_verdict"] == both["verdict"]).all()
    pd.testing.assert_series_equal(both["challenger"], both["normalised_score"], check_names=False, rtol=1e-6)
    assert len(systems.store.shadow.beside(LINE, second, first)) == len(said)  # a champion judges beside nobody

    missed = ((said["champion_verdict"] == "flagged") & (said["challenger_verdict"] == "ok")).sum()
    promoted = promote_model(LINE, device="cpu", approved_by="ada")
    page = systems.registry.client.get_model_version(f"ganomaly-{LINE}", "2")
    folder = systems.registry.client.list_artifacts(page.run_id, "promotion")[0].path
    local = systems.registry.client.download_artifacts(page.run_id, f"{folder}/gate.md")
    text = Path(local).read_text(encoding="utf-8")
    assert f"In the shadow: {len(said)} images of 1 production dates seen by both" in text
    assert f"by the champion alone {missed}," in text
    if recipe:
        assert missed > 10
        assert promoted.gate


def test_where_they_disagree_is_shown(trained: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken if a person is not shown the parts of production that the challenger would let pass."""
    write_line_file(LINE, models={"shadow": True}, recipe=CORNER)
    train_ganomaly(LINE, seed=1, device="cpu")
    nightly(LINE, LAST_DAY, device="cpu")
    seen: list[Comparison] = []
    original = promote_model.fn.__globals__["tell_mlflow"]
    monkeypatch.setitem(
        promote_model.fn.__globals__, "tell_mlflow", lambda *given: (seen.append(given[3]), original(*given))
    )
    promote_model(LINE, device="cpu", approved_by="ada")
    shown = list(_disagreements(open_systems(LINE), seen[0]))
    assert shown
    assert all(title.startswith("in the shadow\n") for title, _, _ in shown)
    assert all(scores["champion"] > 0.5 > scores["challenger"] for _, _, scores in shown)


@pytest.mark.fault(
    area="MLflow",
    fault="the challenger that should judge in the shadow cannot be loaded, or fails at every image",
    outcome="a warning; the night is as without it",
)
@pytest.mark.parametrize("what", ["its files are gone", "it fails"])
def test_a_broken_challenger_costs_the_night_nothing(
    trained: ObjectStore, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Broken if a model that does not judge a night can stop it."""
    write_line_file(LINE, models={"shadow": True})
    train_ganomaly(LINE, seed=1, device="cpu")
    systems = open_systems(LINE)
    second = judges(systems, 2)[0]
    if what == "it fails":
        pinned = shadow.pin_shadow

        def broken(*given: object) -> shadow.ShadowModel:
            found = pinned(*given)
            assert found is not None
            monkeypatch.setattr(found.model.detector, "score_prepared", lambda _: 1 / 0)
            return found

        monkeypatch.setattr("flows.score_batch.pin_shadow", broken)
    else:
        shutil.rmtree(Settings().work_dir / "models")
        for folder in Path(Settings().work_dir).glob("mlartifacts/**/detector"):
            if second[1] in (folder / "detector.json").read_text():
                shutil.rmtree(folder)
    night = nightly(LINE, LAST_DAY, device="cpu")
    assert night.counts.flagged >= 20
    assert night.model_version == 1
    assert systems.store.shadow.beside(LINE, second, judges(systems, 1)[0]).empty
    assert ("no challenger judges beside" if what == "its files are gone" else "does not judge") in caplog.text


def test_no_shadow_where_the_line_wants_none(trained: ObjectStore) -> None:
    """Broken if a challenger costs time that nobody asked for."""
    train_ganomaly(LINE, seed=1, device="cpu")
    systems = open_systems(LINE)
    nightly(LINE, LAST_DAY, device="cpu")
    first, second = judges(systems, 1, 2)
    assert systems.store.shadow.beside(LINE, second, first).empty
