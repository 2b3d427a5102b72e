"""The split into images that train, fit the score and calibrate: by part, reproducible, of the sizes asked for."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganomaly.calibration import CalibrationConfig
from ganomaly.errors import TrainingDataError
from ganomaly.preparation import Prepared
from ganomaly.splits import plan_roles, split_by_part

USABLE = Prepared(np.zeros((32, 32, 1), np.uint8), None)
EMPTY = Prepared(None, None, "empty", "the file has 0 bytes")


@settings(deadline=None)
@given(st.lists(st.integers(0, 30).map(str), min_size=1, max_size=100), st.integers(0, 5), st.randoms())
def test_views_of_a_part_stay_together(parts: list[str], seed: int, random: np.random.Generator) -> None:
    """A part's second view would calibrate a detector that was trained on its first one."""
    roles = split_by_part(parts, fit_fraction=0.2, calibrate_fraction=0.3, seed=seed)
    assert len(set(zip(parts, roles.tolist(), strict=True))) == len(set(parts))
    order = list(range(len(parts)))
    random.shuffle(order)
    again = split_by_part([parts[i] for i in order], fit_fraction=0.2, calibrate_fraction=0.3, seed=seed)
    assert again.tolist() == [roles[i] for i in order]  # whatever order the bucket lists them in


@pytest.mark.parametrize(("fit", "calibrate"), [(0.1, 0.2), (0.0, 0.5), (0.25, 0.05)])
def test_fractions_are_of_the_parts(fit: float, calibrate: float) -> None:
    """Fewer parts would be held out than the line's settings say."""
    parts = [str(i) for i in range(200)]
    counts = Counter(split_by_part(parts, fit_fraction=fit, calibrate_fraction=calibrate, seed=0).tolist())
    assert counts["fit"] == 200 * fit
    assert counts["calibrate"] == 200 * calibrate
    assert counts["train"] == 200 * (1 - fit - calibrate)


def test_seed_draws_the_split() -> None:
    """All seeds would share one calibration set, and their spread would be understated."""
    parts = [str(i) for i in range(100)]
    first, second = (split_by_part(parts, fit_fraction=0.1, calibrate_fraction=0.2, seed=s).tolist() for s in (0, 1))
    assert first != second


def test_unusable_images_get_no_role_and_count_for_nothing() -> None:
    """Images without pixels would be counted as calibration images."""
    prepared = [USABLE, EMPTY] * 50
    roles = plan_roles(prepared, [str(i) for i in range(100)], CalibrationConfig(false_reject_rate=0.1), seed=0)
    assert (roles[1::2] == "").all()
    assert Counter(roles[::2].tolist()) == {"train": 35, "calibrate": 10, "fit": 5}


def test_too_few_images_to_train_are_refused() -> None:
    """The networks would be trained on nothing."""
    config = CalibrationConfig(false_reject_rate=0.5, calibrate_fraction=0.9, fit_fraction=0.05)
    with pytest.raises(TrainingDataError, match="too few images to train: 1 of 10 usable ones"):
        plan_roles([USABLE] * 10, [str(i) for i in range(10)], config, seed=0)


def test_one_part_with_many_views_cannot_be_split() -> None:
    """A hundred views of one part would pass for a hundred parts."""
    with pytest.raises(TrainingDataError, match="too few images to calibrate: 0 of 100"):
        plan_roles([USABLE] * 100, ["the only one"] * 100, CalibrationConfig(), seed=0)
