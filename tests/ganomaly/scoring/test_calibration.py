"""The promise: conformal p-values, the limit and the normalised score against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from scipy.stats import beta

from ganomaly import Calibration, TrainingDataError
from ganomaly.scoring.calibration import (
    CalibrationConfig,
    plausible_false_rejects,
    required_calibration_images,
    without_waste,
)

FEW_VALUES = st.sampled_from([0.0, 0.5, 1.0, 1.25, 3.0])
"""So few that scores are often equal."""
SCORES = st.one_of(FEW_VALUES, st.floats(0, 100))
RATES = st.sampled_from([0.05, 0.07, 0.1, 0.2, 0.29, 0.3, 0.5])


@st.composite
def calibrations(draw: st.DrawFn) -> tuple[Calibration, list[float]]:
    """A calibration and the unsorted scores it was fitted on."""
    rate = draw(RATES)
    scores = draw(st.lists(SCORES, min_size=required_calibration_images(rate), max_size=60))
    return Calibration.fit(scores, rate), scores


@settings(deadline=None)
@given(calibrations(), st.lists(SCORES, min_size=1, max_size=20))
def test_p_value_is_the_share_of_scores_at_least_as_high(fitted: tuple[Calibration, list[float]], new: list) -> None:
    """p-values would be off by one, or count equal scores on the wrong side."""
    calibration, scores = fitted
    expected = [(1 + sum(c >= s for c in scores)) / (len(scores) + 1) for s in new]
    np.testing.assert_array_equal(calibration.p_value(new), expected)


@settings(deadline=None)
@given(calibrations(), st.lists(SCORES, min_size=1, max_size=20))
def test_flagged_means_p_at_most_alpha(fitted: tuple[Calibration, list[float]], new: list[float]) -> None:
    """Verdict and p-value of one image would contradict each other."""
    calibration, scores = fitted
    everything = np.array([*new, *scores, calibration.limit, np.nextafter(calibration.limit, np.inf)])
    np.testing.assert_array_equal(
        calibration.flagged(everything), calibration.p_value(everything) <= calibration.false_reject_rate
    )


@settings(deadline=None)
@given(calibrations(), st.lists(SCORES, min_size=1, max_size=20))
def test_normalised_score_is_a_monotone_unit_scale(fitted: tuple[Calibration, list[float]], new: list[float]) -> None:
    """Ranking by the shown score would differ from ranking by the raw score, or leave the scale."""
    calibration, scores = fitted
    normalised = calibration.normalise(sorted([*new, *scores, 1e300]))
    assert (np.diff(normalised) >= 0).all()
    assert normalised.min() >= 0
    assert normalised.max() < 1


@settings(deadline=None)
@given(calibrations(), st.lists(SCORES, min_size=1, max_size=20))
def test_one_half_is_the_limit(fitted: tuple[Calibration, list[float]], new: list[float]) -> None:
    """People who read 0.5 as the limit would see flagged images below it."""
    calibration, scores = fitted
    if calibration.limit > calibration.lowest:
        assert calibration.normalise(calibration.limit) == 0.5
    everything = np.array([*new, *scores])
    normalised, flagged = calibration.normalise(everything), calibration.flagged(everything)
    assert (normalised[flagged] >= 0.5).all()
    assert (normalised[~flagged] <= 0.5).all()


def test_all_calibration_scores_alike() -> None:
    """A division by zero, or a clear defect that is shown below the limit."""
    calibration = Calibration.fit([1.5] * 20, 0.1)
    np.testing.assert_array_equal(calibration.flagged([1.0, 1.5, 1.6]), [False, False, True])
    normalised = calibration.normalise([1.0, 1.5, 1.6])
    assert normalised[0] == normalised[1] == 0
    assert 0.5 < normalised[2] < 1


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("n", "rate"), [(19, 0.05), (30, 0.05), (50, 0.1), (9, 0.1), (37, 0.29), (250, 0.01)])
def test_marginal_false_reject_rate_is_kept(n: int, rate: float, tied: bool) -> None:
    """More good parts would be rejected than the detector promises."""
    rng = np.random.default_rng(n)
    splits = 4000
    draws = rng.gamma(2.0, size=(splits, n + 1))
    draws = np.floor(2 * draws) if tied else draws
    rejected = np.mean([Calibration.fit(draw[:n], rate).flagged(draw[n:])[0] for draw in draws])
    attainable = rate if tied else np.floor(rate * (n + 1) + 1e-9) / (n + 1)
    margin = 3 * np.sqrt(attainable * (1 - attainable) / splits)
    assert rejected <= attainable + margin
    assert tied or rejected >= attainable - margin  # and no escapes given away


@pytest.mark.parametrize(("rate", "needed"), [(0.5, 1), (0.3, 3), (0.1, 9), (0.05, 19), (0.01, 99), (0.001, 999)])
def test_needs_one_over_alpha_minus_one_images(rate: float, needed: int) -> None:
    """A detector would be calibrated that can never flag anything."""
    assert required_calibration_images(rate) == needed
    calibration = Calibration.fit(np.arange(needed), rate)
    assert calibration.flagged([needed])[0]
    message = rf"^{needed - 1} calibration images.*{rate:g} takes at least {needed} "
    with pytest.raises(TrainingDataError, match=message):
        Calibration.fit(np.arange(needed - 1), rate)


@pytest.mark.parametrize(
    ("n", "rate", "best"),
    [
        (51, 0.05, 59),
        (38, 0.05, 39),
        (142, 0.05, 139),
        (18, 0.05, 18),
        (19, 0.05, 19),
        (29, 0.05, 19),
        (10, 0.3, 9),
        (150, 0.01, 99),
    ],
)
def test_no_part_of_the_rate_is_wasted(n: int, rate: float, best: int) -> None:
    """51 images would keep 5 % by flagging 3.8 %, and miss defects for nothing."""
    assert without_waste(n, rate) == best
    assert without_waste(n, rate, 0.9) == n  # a confidence has no such steps
    if n >= required_calibration_images(rate):
        beyond = (best + 1) * rate
        assert beyond == pytest.approx(round(beyond))  # a whole number of scores lies beyond the limit


@pytest.mark.parametrize(
    ("rate", "confidence", "needed"),
    [(0.05, 0.95, 59), (0.01, 0.99, 459), (0.1, 0.9, 22), (0.05, 0.5, 19), (0.5, 0.75, 2)],
)
def test_confidence_needs_more_images(rate: float, confidence: float, needed: int) -> None:
    """A confidence would be promised that so few images cannot give, or images be asked for without need."""
    assert required_calibration_images(rate, confidence) == needed
    assert (1 - rate) ** needed <= 1 - confidence + 1e-12
    calibration = Calibration.fit(np.arange(needed), rate, confidence)
    assert calibration.flagged([needed])[0]
    message = rf"^{needed - 1} calibration .*rate of {rate:g} with confidence {confidence:g} takes at least {needed} "
    with pytest.raises(TrainingDataError, match=message):
        Calibration.fit(np.arange(needed - 1), rate, confidence)


CASES = [(59, 0.05, 0.95), (100, 0.05, 0.9), (300, 0.05, 0.95), (200, 0.1, 0.9), (60, 0.2, 0.99), (1000, 0.01, 0.95)]


@pytest.mark.parametrize("levels", [None, 40, 7], ids=["continuous", "40 levels", "7 levels"])
@pytest.mark.parametrize(("n", "rate", "confidence"), CASES)
def test_confident_limit_keeps_the_rate_in_enough_calibrations(
    n: int, rate: float, confidence: float, levels: int | None
) -> None:
    """More calibrations than delta would reject more good parts than promised, and nobody would notice until they do.

    Scores are uniform, or rounded down to a few levels: then the true rate of a limit is known, and each of 2,000
    calibrations can be compared with it.
    """
    rng = np.random.default_rng(n)
    splits, tests = 2000, 50
    draws = rng.uniform(size=(splits, n + tests))
    draws = draws if levels is None else np.floor(levels * draws) / levels
    fitted = [Calibration.fit(draw[:n], rate, confidence) for draw in draws]
    true_rates = np.array([1 - calibration.limit - (0 if levels is None else 1 / levels) for calibration in fitted])
    above = np.mean(true_rates > rate + 1e-12)
    delta = 1 - confidence
    assert above <= delta + 3 * np.sqrt(delta * (1 - delta) / splits)
    r = fitted[0].n_above
    realised = np.mean([calibration.flagged(draw[n:]).mean() for calibration, draw in zip(fitted, draws, strict=True)])
    error = 3 * np.sqrt(true_rates.var() / splits + rate / (splits * tests))
    assert abs(realised - true_rates.mean()) < error
    if levels is None:
        attainable = 1 - beta.cdf(rate, r + 1, n - r)
        assert above >= attainable - 3 * np.sqrt(attainable / splits)  # and no escapes given away
        assert 1 - beta.cdf(rate, r + 2, n - r - 1) > delta  # one more score above the limit would be too many
        assert abs(realised - (r + 1) / (n + 1)) < error


@settings(deadline=None)
@given(st.integers(20, 400), RATES, st.sampled_from([0.5, 0.8, 0.95, 0.999]))
def test_confidence_only_raises_the_limit(n: int, rate: float, confidence: float) -> None:
    """A promise with confidence would be weaker on average than the one without."""
    scores = np.arange(n)
    if n < required_calibration_images(rate, confidence):
        return
    average, confident = Calibration.fit(scores, rate), Calibration.fit(scores, rate, confidence)
    assert confident.limit >= average.limit
    assert confident.p_value_limit <= rate + 1e-12
    everything = np.arange(-1, n + 1) + 0.5
    np.testing.assert_array_equal(
        confident.flagged(everything), confident.p_value(everything) <= confident.p_value_limit + 1e-12
    )


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_refuses_scores_that_are_no_numbers(broken: float) -> None:
    """A limit of nan would let every defect pass."""
    with pytest.raises(ValueError, match="not finite"):
        Calibration.fit([*range(30), broken], 0.1)


def test_a_score_that_is_no_number_is_flagged() -> None:
    """A numerical fault while scoring would pass a part as good."""
    assert Calibration.fit(np.arange(30), 0.1).flagged([np.nan])[0]


def test_id_is_of_the_content() -> None:
    """Scores of two calibrations would be mixed up, or the same one be taken for two."""
    scores = np.arange(30) / 7
    first = Calibration.fit(scores, 0.1)
    assert first.id == Calibration.fit(scores[::-1], 0.1).id
    assert first.id != Calibration.fit(scores, 0.2).id
    assert first.id != Calibration.fit(scores + 1e-12, 0.1).id
    assert len({Calibration.fit(scores, 0.2, confidence).id for confidence in (None, 0.8, 0.9)}) == 3
    assert len(first.id) == 12


def test_promise_names_rate_images_and_limit() -> None:
    """The report would promise something else than was calibrated."""
    calibration = Calibration.fit(np.arange(39), 0.05)
    assert calibration.limit == 37
    assert "39 calibration images" in calibration.promise
    assert "5.00%" in calibration.promise
    assert "37.0000" in calibration.promise
    assert "expected" in calibration.promise
    assert "confidence" not in calibration.promise


def test_promise_names_its_confidence() -> None:
    """Nobody could tell a promise on average from one for this calibration."""
    promise = Calibration.fit(np.arange(100), 0.05, 0.95).promise
    assert promise.startswith("With 95% confidence, at most 5.00% of good parts like the 100 calibration images are ")
    assert "expected" not in promise


def test_fractions_must_leave_images_for_training() -> None:
    """All images could be held out and none be left to learn from."""
    with pytest.raises(ValidationError, match=r"calibrate_fraction \+ statistics_fraction = 1.1"):
        CalibrationConfig(calibrate_fraction=0.6, statistics_fraction=0.5)


@pytest.mark.parametrize(("images", "calibration", "alpha"), [(153, 85, 0.05), (20_000, 2000, 0.01), (1, 19, 0.05)])
def test_plausible_false_rejects_are_beta_binomial(images: int, calibration: int, alpha: float) -> None:
    """The report would call an ordinary night a surprise, or the other way round."""
    k = int(np.floor(alpha * (calibration + 1) + 1e-9))
    n_above = Calibration.fit(np.arange(calibration), alpha).n_above

    assert n_above == k - 1
    assert plausible_false_rejects(images, calibration, n_above) == stats.betabinom.ppf(
        0.95, images, k, calibration + 1 - k
    )


def test_plausible_false_rejects_at_the_edges() -> None:
    """An empty night, or a limit that flags nothing, would end in a traceback."""
    assert plausible_false_rejects(0, 85, 3) == 0
    assert plausible_false_rejects(100, 5, -1) is None


def test_a_promise_with_confidence_leaves_less_to_chance() -> None:
    """A night with 50 % more false rejects than are plausible would be called an ordinary one."""
    plain, sure = (Calibration.fit(np.arange(200), 0.05, confidence) for confidence in (None, 0.9))
    assert plausible_false_rejects(2000, 200, plain.n_above) == 157
    assert plausible_false_rejects(2000, 200, sure.n_above) == 106


def test_what_was_left_out_weakens_the_promise() -> None:
    """A line would promise 5 % although a tenth of its good parts was called suspect and never calibrated."""
    scores = np.linspace(0, 1, 99)
    plain, trimmed = Calibration.fit(scores, 0.05), Calibration.fit(scores, 0.05, trimmed_share=0.1)
    assert trimmed.limit == plain.limit
    assert trimmed.guaranteed_rate == pytest.approx(0.15)
    assert "10.0% of the parts, which look least like all others, were left out" in trimmed.promise
    assert "up to 15.00% of good parts are flagged" in trimmed.promise
    assert trimmed.id != plain.id
    assert trimmed.with_rate(0.1).guaranteed_rate == pytest.approx(0.2)
    assert Calibration.fit(scores, 0.05, fold_size=5, trimmed_share=0.1).guaranteed_rate == pytest.approx(
        Calibration.fit(scores, 0.05, fold_size=5).guaranteed_rate + 0.1
    )
    few = Calibration.fit(scores, 0.05, fold_size=5, trimmed_share=0.1)
    bound = few.guaranteed_rate - 0.1
    assert f"guaranteed is at most {bound:.2%}, because statistics were cross-fitted" in few.promise
    assert f"up to {few.guaranteed_rate:.2%} of good parts are flagged" in few.promise


def test_sure_is_a_second_promise_that_moves_no_limit() -> None:
    """A sure flag would be as frequent on good parts as any, or move verdicts."""
    rng = np.random.default_rng(7)
    sure_n, flagged_n = [], []
    for _ in range(400):
        plain = Calibration.fit(rng.normal(size=199), 0.05)
        both = Calibration.fit(plain.scores_n, 0.05, sure_rate=0.01)
        assert (both.limit, both.id) == (plain.limit, plain.id)
        good = rng.normal(size=200)
        sure, flagged = both.is_sure(good), both.flagged(good)
        assert (flagged == plain.flagged(good)).all()
        assert not (sure & ~flagged).any()
        assert both.sure is not None
        np.testing.assert_array_equal(sure, both.p_value(good) <= 0.01)
        sure_n.append(sure.mean())
        flagged_n.append(flagged.mean())
    assert np.mean(sure_n) == pytest.approx(0.01, abs=0.0015)  # of 80,000
    assert np.mean(flagged_n) == pytest.approx(0.05, abs=0.004)
    assert not plain.is_sure([1e9]).any()
    assert not both.is_sure([np.nan]).any()


def test_too_few_scores_make_no_flag_sure_and_say_so() -> None:
    """A line would be told that flags are sure on the word of 40 images."""
    few = Calibration.fit(np.arange(40), 0.05, sure_rate=0.01)
    assert few.sure is None
    assert not few.is_sure([1e9]).any()
    assert "No flag is sure: a false-reject rate of 0.01 takes at least 99" in few.promise
    assert "there are 40 calibration images" in few.promise
    enough = Calibration.fit(np.arange(99), 0.05, sure_rate=0.01)
    assert "Sure are flags with a raw score above 98.0000: 1.00% of good parts." in enough.promise
    assert enough.is_sure([98.0, 98.1]).tolist() == [False, True]
    assert enough.with_rate(0.1).sure_rate == 0.01
    crossed = Calibration.fit(np.arange(99), 0.05, fold_size=9, sure_rate=0.01)
    assert crossed.sure is not None
    assert crossed.sure.guaranteed_rate == pytest.approx(9 / 108)
    assert "1.00% of good parts, guaranteed is at most 8.33%." in crossed.promise
    assert enough.with_rate(0.01).sure_rate is None  # a limit that strict leaves no stricter one


def test_the_second_promise_must_be_stricter() -> None:
    """Every flag would be sure, and nobody look."""
    with pytest.raises(ValidationError, match=r"sure_rate = 0\.05: must be less than false_reject_rate = 0\.05"):
        CalibrationConfig(sure_rate=0.05)
