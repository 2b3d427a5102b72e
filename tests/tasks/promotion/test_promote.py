"""Who was champion before, and what a version's page holds."""

from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace

import pytest

from tasks.night.drift import NightDrift
from tasks.promotion.promote import PromotionError, former_champion
from tasks.registry.registry import MOST_LETTERS
from tasks.store.rows import DriftRecord, Promotion, Release
from tasks.store.store import ReportStore
from tasks.training.card import CARD, HISTORY, _by_time, with_history

NOW = datetime(2026, 3, 9, 12, tzinfo=UTC)


def systems_with(store: ReportStore, *rows: tuple[str, int], champion: int) -> SimpleNamespace:
    """A line of which these outcomes and versions were recorded."""
    for outcome, version in rows:
        alias = "challenger" if outcome in ("refused", "waiting") else "champion"
        said = {"model_name": "m", "alias": alias, "previous_version": None, "who": "ada", "why": "b"}
        store.decisions.record_promotion("cells", version=version, outcome=outcome, **said)
    registry = SimpleNamespace(champion=lambda _line: SimpleNamespace(version=champion))
    return SimpleNamespace(line=SimpleNamespace(name="cells"), store=store, registry=registry)


@pytest.mark.parametrize(
    ("rows", "champion", "former"),
    [
        ([("promoted", 1), ("promoted", 2)], 2, 1),
        ([("promoted", 1), ("refused", 2), ("promoted", 3)], 3, 1),
        ([("promoted", 1), ("promoted", 2), ("promoted", 3), ("rolled_back", 2)], 2, 1),
        ([("promoted", 1), ("promoted", 2), ("rolled_back", 1), ("promoted", 3)], 3, 1),
        ([("promoted", 1), ("found", 4), ("promoted", 5)], 5, 4),
        ([("promoted", 1), ("promoted", 2)], 1, None),  # moved by hand, not written down yet
        ([("promoted", 1), ("promoted", 2), ("rolled_back", 1)], 1, None),
        ([("promoted", 1)], 1, None),
    ],
)
def test_going_back_never_leads_to_what_was_gone_back_from(
    store: ReportStore, rows: list[tuple[str, int]], champion: int, former: int | None
) -> None:
    """Broken if a second rollback makes the bad version champion again."""
    systems = systems_with(store, *rows, champion=champion)
    if former is None:
        with pytest.raises(PromotionError, match="never had another champion"):
            former_champion(systems)
    else:
        assert former_champion(systems) == former


def promotion(number: int, why: str = "all checks passed") -> Promotion:
    """A decision."""
    return Promotion("cells", "m", "champion", 2, 1, "ada", why, NOW + timedelta(hours=number))


def test_a_page_fits_into_mlflows_database() -> None:
    """Broken if a page of many decisions is more than MLflow holds, or loses its card."""
    card = f"Nothing was decided about it yet.\n\n{CARD} cells\n" + "x" * 2500
    page = card
    for number in range(1, 30):
        page = with_history(page, [promotion(n, "reason " * 200) for n in range(number)])
    assert len(page) < MOST_LETTERS
    assert page.startswith("Version 2 became champion on 2026-03-10 (ada).")
    assert page.count(CARD) == page.count(HISTORY) == 1
    assert "Nothing was decided" not in page
    assert "x" * 2500 in page


def test_many_days_are_summed_up_by_month() -> None:
    """Broken if a line of two years has a page that MLflow cannot hold."""
    days = {str(date(2024, 1, 1) + timedelta(days=n)): 2 for n in range(800)}
    rows = _by_time(days)
    assert len(rows) <= 31
    assert rows[-1] == ("2026-03", 20)
    assert sum(count for _, count in rows) == 1600
    assert _by_time({"2026-03-02": 3, "2026-03-01": 4}) == [("2026-03-01", 4), ("2026-03-02", 3)]


def test_a_release_is_of_what_had_changed() -> None:
    """Broken if one release lets every later fault of that day pass."""
    release = Release("cells", NOW.date(), NOW.date(), 1, "brightness,score", "ada", "new lamp", NOW)

    def withheld(*figures: str, released: bool = True) -> bool:
        records = tuple(DriftRecord(name, 0.1, 0.9, 0.0, 0.35, True) for name in figures)
        return NightDrift(records, release if released else None, history=None).is_withheld

    assert withheld("brightness", released=False)
    assert not withheld("brightness")
    assert not withheld("score", "brightness")
    assert withheld("brightness", "centre_x")
    assert not withheld(released=False)
