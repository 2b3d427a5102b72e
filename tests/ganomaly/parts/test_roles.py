"""The split into images that train, fit the score and calibrate: by part, reproducible, of the sizes asked for."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ganomaly.errors import TrainingDataError
from ganomaly.images.preparation import Prepared
from ganomaly.images.recipe import Recipe
from ganomaly.parts.roles import (
    MOST_ALIKE,
    Plan,
    _count_folds,
    plan_roles,
    split_by_part,
)
from ganomaly.scoring.calibration import CalibrationConfig
from tests.ganomaly.photos import Photo, draw_textures, session

EMPTY = Prepared(None, None, "empty", "the file has 0 bytes")
LOOSE = CalibrationConfig(false_reject_rate=0.1)


def usable(n: int) -> list[Prepared]:
    """Images of n different parts."""
    pixels = np.random.default_rng(0).integers(0, 255, (n, 32, 32, 1), dtype=np.uint8)
    return [Prepared(image, None) for image in pixels]


def prepared(photos: list[Photo]) -> list[Prepared]:
    """Photos by a recipe."""
    return [Prepared(Recipe(size_px=32).apply(photo), None) for photo in photos]


def leaks(plan: Plan, parts: np.ndarray) -> int:
    """Photos that train or fit although their part calibrates."""
    calibrates = set(parts[plan.roles == "calibrate"].tolist())
    return sum(part in calibrates for part in parts[np.isin(plan.roles, ("train", "fit"))].tolist())


@settings(deadline=None)
@given(st.lists(st.integers(0, 30).map(str), min_size=1, max_size=100), st.integers(0, 5), st.randoms())
def test_views_of_a_part_stay_together(parts: list[str], seed: int, random: np.random.Generator) -> None:
    """A part's second view would calibrate a detector that was trained on its first one."""
    roles = split_by_part(parts, statistics_fraction=0.2, calibrate_fraction=0.3, seed=seed)
    assert len(set(zip(parts, roles.tolist(), strict=True))) == len(set(parts))
    order = list(range(len(parts)))
    random.shuffle(order)
    again = split_by_part([parts[i] for i in order], statistics_fraction=0.2, calibrate_fraction=0.3, seed=seed)
    assert again.tolist() == [roles[i] for i in order]  # whatever order the bucket lists them in


@pytest.mark.parametrize(("fit", "calibrate"), [(0.1, 0.2), (0.0, 0.5), (0.25, 0.05)])
def test_fractions_are_of_the_parts(fit: float, calibrate: float) -> None:
    """Fewer parts would be held out than the line's settings say."""
    parts = [str(i) for i in range(200)]
    counts = Counter(split_by_part(parts, statistics_fraction=fit, calibrate_fraction=calibrate, seed=0).tolist())
    assert counts["fit"] == 200 * fit
    assert counts["calibrate"] == 200 * calibrate
    assert counts["train"] == 200 * (1 - fit - calibrate)


def test_seed_draws_the_split() -> None:
    """All seeds would share one calibration set, and their spread would be understated."""
    parts = [str(i) for i in range(100)]
    first, second = (
        split_by_part(parts, statistics_fraction=0.1, calibrate_fraction=0.2, seed=s).tolist() for s in (0, 1)
    )
    assert first != second


def test_unusable_images_get_no_role_and_count_for_nothing() -> None:
    """Images without pixels would be counted as calibration images."""
    images = [image for pair in zip(usable(50), [EMPTY] * 50, strict=True) for image in pair]
    plan = plan_roles(images, [str(i) for i in range(100)], LOOSE, seed=0)
    assert (plan.roles[1::2] == "").all()
    assert (plan.parts[1::2] == "").all()
    assert Counter(plan.roles[::2].tolist()) == {"train": 36, "calibrate": 9, "fit": 5}
    assert (plan.images, plan.stated, plan.n_parts, plan.spare, plan.warning) == (50, 50, 50, 0, None)


def test_too_few_images_to_train_are_refused() -> None:
    """The networks would be trained on nothing."""
    config = CalibrationConfig(false_reject_rate=0.5, calibrate_fraction=0.9, statistics_fraction=0.05)
    with pytest.raises(TrainingDataError, match="too few images to train: 1 of 10 usable ones"):
        plan_roles(usable(10), [str(i) for i in range(10)], config, seed=0)


def test_one_part_with_many_views_cannot_be_split() -> None:
    """A hundred views of one part would pass for a hundred parts."""
    with pytest.raises(TrainingDataError, match=r"too few parts to calibrate: 0 of 1 parts \(100 usable images\)"):
        plan_roles(usable(100), ["the only one"] * 100, CalibrationConfig(), seed=0)


def test_photos_of_a_part_do_not_stand_on_both_sides() -> None:
    """Each file would be its own part: nearly every calibration image would have trained in another exposure."""
    photos, parts = session(draw_textures(100, seed=1), 3, seed=2)
    images = prepared(photos)
    naive = plan_roles(images, None, LOOSE.model_copy(update={"near_duplicates": "ignore"}), seed=0)
    assert leaks(naive, parts) > 60
    plan = plan_roles(images, None, LOOSE, seed=0)
    assert leaks(plan, parts) <= 3  # a photo that was not recognised
    assert 95 <= plan.n_parts <= 115
    assert plan.stated == 300
    assert f"300 images of {plan.n_parts} parts (near-duplicates count as one): " in plan.summary
    assert plan.warning is not None
    assert "most images are photos of a few parts: 300 images or part ids" in plan.warning


def test_a_part_calibrates_with_one_image() -> None:
    """Ten photos of a part would count as ten in the promise, though they say hardly more than one."""
    images = usable(120)
    parts = [str(i // 3) for i in range(120)]
    plan = plan_roles(images, parts, CalibrationConfig(false_reject_rate=0.2), seed=0)
    assert Counter(plan.roles.tolist()) == {"train": 81, "calibrate": 9, "fit": 12, "": 18}
    assert plan.spare == 18
    chosen = [part for part, role in zip(parts, plan.roles, strict=True) if role == "calibrate"]
    assert len(set(chosen)) == 9
    other = plan_roles(images, parts, CalibrationConfig(false_reject_rate=0.2), seed=1)
    assert set(np.flatnonzero(other.roles == "calibrate") % 3) == {0, 1, 2}  # not always the first photo
    with pytest.raises(TrainingDataError, match=r"8 of 40 parts .* at least 9 .*about 45 parts suffice"):
        plan_roles(images, parts, LOOSE, seed=0)


def test_part_ids_that_share_a_photo_are_one_part() -> None:
    """A part that was photographed twice under two ids would train and calibrate."""
    photos, parts = session(draw_textures(100, seed=3), 2, seed=4)
    ids = [f"{part}-{i % 2}" for i, part in enumerate(parts.tolist())]
    plan = plan_roles(prepared(photos), ids, LOOSE, seed=0)
    assert leaks(plan, parts) <= 2
    united = Counter(plan.parts.tolist())
    assert united["7-0"] == 2
    assert "7-1" not in united


def test_roles_depend_on_images_not_on_their_order() -> None:
    """The same folder read in another order would give another detector."""
    photos, _ = session(draw_textures(80, seed=5), 2, seed=6)
    images = prepared(photos)
    order = np.random.default_rng(1).permutation(len(images))
    plan, again = (plan_roles(shown, None, LOOSE, seed=3) for shown in (images, [images[i] for i in order]))
    np.testing.assert_array_equal(again.roles, plan.roles[order])
    np.testing.assert_array_equal(again.parts, plan.parts[order])


def test_too_few_parts_say_how_many_there_are_and_what_to_do() -> None:
    """A limit would be promised to new parts after seeing ten, or the user not learn why 250 photos are too few."""
    photos, _ = session(draw_textures(10, seed=7), 25, seed=8)
    with pytest.raises(TrainingDataError) as caught:
        plan_roles(prepared(photos), None, LOOSE, seed=0)
    message = str(caught.value)
    assert "(250 usable images)" in message
    assert "takes at least 9" in message
    assert 'calibration.near_duplicates = "ignore"' in message


def test_one_part_that_outweighs_the_others_is_named() -> None:
    """A demo part photographed all day would be half of what good looks like."""
    many, _ = session(draw_textures(1, seed=9), 100, seed=10)
    plan = plan_roles(prepared([*many, *draw_textures(150, seed=11)]), None, LOOSE, seed=0)
    assert plan.warning is not None
    assert "of 250 images look like photos of one part" in plan.warning


@pytest.mark.parametrize("cross_fit", ["never", "auto"])
def test_a_conveyor_that_stands_still_does_not_outweigh_the_others(cross_fit: str) -> None:
    """A thousand photos of one part would decide what all parts look like."""
    many, _ = session(draw_textures(1, seed=9), 60, seed=10)
    images = prepared([*many, *draw_textures(30, seed=11)])
    config = CalibrationConfig(false_reject_rate=0.2, cross_fit=cross_fit)
    plan = plan_roles(images, None, config, seed=0)
    of_many = Counter(plan.roles[:60].tolist())
    assert of_many[""] == 60 - (MOST_ALIKE if "calibrate" not in of_many else 1)
    assert plan.surplus + plan.spare == of_many[""]
    assert "" not in plan.roles[60:]
    if plan.folds is not None:
        assert (plan.folds[plan.roles == ""] == -1).all()
        assert f"{60 - MOST_ALIKE} left out as near-duplicates of {MOST_ALIKE} others" in plan.summary
    order = np.random.default_rng(0).permutation(len(images))
    again = plan_roles([images[at] for at in order], None, config, seed=0)
    assert again.roles.tolist() == plan.roles[order].tolist()
    ignoring = config.model_copy(update={"near_duplicates": "ignore"})
    assert plan_roles(images, None, ignoring, seed=0).surplus == 0


def test_few_parts_all_calibrate_and_share_no_fold_with_their_photos() -> None:
    """A handful of held-out parts would set the limit, or a part be judged by another photo of itself."""
    prepared = [Prepared(np.full((64, 64, 1), n, np.uint8), None) for n in range(40)]
    parts = [f"p{n // 2}" for n in range(40)]
    config = CalibrationConfig(cross_fit="auto", near_duplicates="ignore")
    plan = plan_roles(prepared, parts, config, seed=0)
    assert plan.folds is not None
    assert sorted(plan.roles.tolist()) == ["cross"] * 20 + ["fit"] * 20
    assert all(plan.folds[n] == plan.folds[n + 1] for n in range(0, 40, 2))
    assert np.bincount(plan.folds).tolist() == [4] * 10
    assert "20 calibrate, one of each part, cross-fitted in 10 folds" in plan.summary
    again = plan_roles(prepared, parts, config, seed=0)
    np.testing.assert_array_equal(plan.folds, again.folds)
    sure = config.model_copy(update={"confidence": 0.5})
    with pytest.raises(TrainingDataError, match="too few parts"):  # its distribution is that of held-out scores
        plan_roles(prepared, parts, sure, seed=0)
    assert plan_roles(prepared * 6, [f"p{n}" for n in range(240)], config, seed=0).folds is None


@pytest.mark.parametrize(("n_parts", "needed"), [(19, 19), (20, 19), (24, 19), (29, 19), (39, 19), (64, 19), (126, 19)])
def test_folds_have_equal_size_and_leave_few_parts_over(n_parts: int, needed: int) -> None:
    """The stated bound holds for equal folds only, and parts that do not calibrate make the limit worse."""
    folds = _count_folds(n_parts, needed)
    calibrate = n_parts - n_parts % folds
    assert calibrate >= needed
    assert calibrate >= 0.9 * n_parts
    assert folds <= 20
