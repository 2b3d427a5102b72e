"""The production dates that a run covers."""

from datetime import UTC, date, datetime

import pytest

from tasks.lines.window import Window, last_production_date, window_of
from tasks.night.accounting import AccountingError, IngestCounts, RunCounts


def test_yesterday_is_the_lines_own() -> None:
    """Broken if a line far from Greenwich gets the report of the wrong day."""
    now = datetime(2026, 3, 8, 23, 30, tzinfo=UTC)
    assert last_production_date("UTC", now) == date(2026, 3, 7)
    assert last_production_date("Europe/Berlin", now) == date(2026, 3, 8)
    assert last_production_date("America/Los_Angeles", now) == date(2026, 3, 7)


def test_one_date_is_that_day() -> None:
    """Broken if a single date opens a window to today or to the beginning."""
    day = date(2026, 3, 8)
    assert window_of("UTC", day, None) == window_of("UTC", None, day) == Window(day, day)
    assert day in Window(day, day)
    assert date(2026, 3, 9) not in Window(day, day)


def test_a_window_backwards_is_refused() -> None:
    """Broken if swapped dates silently list nothing."""
    with pytest.raises(ValueError, match="ends on 2026-03-01, before it starts on 2026-03-02"):
        Window(date(2026, 3, 2), date(2026, 3, 1))


def test_counts_that_do_not_add_up_are_an_error() -> None:
    """Broken if an image can get lost between listing and report without anyone noticing."""
    RunCounts(listed=10, scored=4, already_scored=3, unusable=2, failed=1, flagged=4).reconcile()
    with pytest.raises(AccountingError, match="10 images were listed, but 9 are accounted for"):
        RunCounts(listed=10, scored=9).reconcile()
    with pytest.raises(AccountingError, match="1 images were listed, but 0"):
        IngestCounts(listed=1).reconcile()
    total = RunCounts(listed=2, scored=2, flagged=1) + RunCounts(listed=1, failed=1)
    assert total == RunCounts(listed=3, scored=2, failed=1, flagged=1)


def test_a_run_that_starts_late_judges_its_own_night() -> None:
    """Broken if a run that waited for a worker over midnight judges the wrong day, and its own day never."""
    scheduled = datetime(2026, 3, 8, 1, 30, tzinfo=UTC)
    assert window_of("Europe/Berlin", None, None, scheduled) == Window(date(2026, 3, 7), date(2026, 3, 7))
