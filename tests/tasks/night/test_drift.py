"""Whether camera or process changed: one figure of a night beside what is usual."""

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from tasks.night.drift import ALLOWED, MIN_IMAGES, chance_above, compare

DAY = date(2026, 3, 2)


def series(values: np.ndarray) -> "pd.Series[float]":
    """Figures of images."""
    return pd.Series(values, dtype="float64")


def days(count: int, per_day: int) -> "pd.Series[date]":
    """Production dates of so many images."""
    return pd.Series([DAY + timedelta(days=place // per_day) for place in range(count)])


def test_the_chance_is_that_of_all_pairs() -> None:
    """Broken if ties or direction are counted otherwise."""
    first, second = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 0.0, 5.0])
    pairs = (first[:, None] > second) + 0.5 * (first[:, None] == second)
    assert chance_above(first, second) == pytest.approx(pairs.mean())


def test_an_unchanged_night_is_hardly_ever_suspect() -> None:
    """Broken if small nights of an unchanged camera raise alarms more often than once in a thousand figures."""
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(3000):
        usual, night = rng.normal(size=MIN_IMAGES), rng.normal(size=MIN_IMAGES)
        alarms += compare("sharpness", series(night), series(usual), days(MIN_IMAGES, 100)).changed
    assert alarms <= 3


@pytest.mark.parametrize("name", ["brightness", "score"])
def test_a_few_defects_are_no_drift(name: str) -> None:
    """Broken if a day with a third of defective parts is taken for a change of the camera."""
    rng = np.random.default_rng(1)
    usual, night = rng.normal(size=200), rng.normal(size=150)
    night[:50] += 10
    assert not compare(name, series(night), series(usual), None).changed


def test_a_shift_is_found_in_both_directions_but_for_the_score() -> None:
    """Broken if a darker camera passes, or a night that looks better than usual alarms."""
    rng = np.random.default_rng(2)
    usual, night = rng.normal(size=200), rng.normal(size=50)
    for shift in (-3, 3):
        found = compare("brightness", series(night + shift), series(usual), None)
        assert found.changed
        assert found.night_median == pytest.approx(np.median(night + shift))
    assert compare("score", series(night + 3), series(usual), None).changed
    assert not compare("score", series(night - 3), series(usual), None).changed


def test_days_that_differ_allow_more() -> None:
    """Broken if a line whose days always differed is suspect every night."""
    rng = np.random.default_rng(3)
    of_day = np.repeat([0.0, 2.0, 4.0, 6.0, 8.0], 40)
    usual = rng.normal(size=200) + of_day
    night = rng.normal(size=40) + 9.0
    assert compare("brightness", series(night), series(usual), None).changed
    known = compare("brightness", series(night), series(usual), days(200, 40))
    assert not known.changed
    assert known.allowed > ALLOWED


def test_too_little_says_nothing() -> None:
    """Broken if a handful of images, or a figure that never varies, is taken for a change."""
    many, few = np.arange(100.0), np.arange(MIN_IMAGES - 1.0) + 1000
    assert compare("brightness", series(few), series(many), None) is None
    assert compare("brightness", series(many), series(few), None) is None
    assert compare("red", series(np.full(50, 1 / 3)), series(np.full(50, 1 / 3)), None) is None
    missing = np.where(np.arange(100) < 85, np.nan, 1000.0)
    assert compare("brightness", series(missing), series(many), None) is None
