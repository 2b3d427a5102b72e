"""Alignment: turned and shifted parts come back into one frame, others stay as they are."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ganomaly.errors import ImageError, TrainingDataError
from ganomaly.images.alignment import Transform, _matrix, into_frame, out_of_frame
from ganomaly.images.frame import fit_reference
from ganomaly.images.recipe import Recipe
from ganomaly.images.recipe_fitting import fit_recipe

SIDE = 160


def bracket(rng: np.random.Generator) -> NDArray[np.uint8]:
    """An image of a part without any symmetry, uint8 (160, 160, 3)."""
    image = np.full((SIDE, SIDE, 3), 60.0)
    cv2.rectangle(image, (50, 40), (80, 120), (200, 180, 160), -1)
    cv2.rectangle(image, (50, 95), (115, 120), (200, 180, 160), -1)
    cv2.circle(image, (65, 58), 8, (30, 30, 60), -1)
    return np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)


def moved(image: NDArray[np.uint8], transform: Transform) -> NDArray[np.uint8]:
    """The part as it would look if it lay there."""
    size = (image.shape[1], image.shape[0])
    return cv2.warpAffine(image, _matrix(transform, image.shape), size, borderMode=cv2.BORDER_REPLICATE)


def draw(n: int, seed: int, degrees: float, shift: float) -> tuple[list[NDArray[np.uint8]], list[Transform]]:
    """N parts that turn and shift by at most so much, and how they lie."""
    rng = np.random.default_rng(seed)
    lie = [Transform(rng.uniform(-degrees, degrees), *rng.uniform(-shift, shift, 2)) for _ in range(n)]
    return [moved(bracket(rng), where) for where in lie], lie


@pytest.mark.parametrize(("degrees", "shift", "kind"), [(180, 0.05, "rigid"), (15, 0.05, "rigid"), (0, 0.08, "shift")])
def test_what_parts_do_is_found_out_and_undone(degrees: float, shift: float, kind: str) -> None:
    """A part that turns would be compared with itself at another angle."""
    reference = fit_reference(draw(24, 0, degrees, shift)[0], "auto")
    assert reference is not None
    assert reference.kind == kind
    images, lie = draw(12, 1, degrees, shift)
    found = [reference.locate(image) for image in images]
    # the frame itself may lie anywhere: angles and shifts agree up to one and the same difference
    turned = [(where.degrees - true.degrees + 180) % 360 - 180 for (where, _), true in zip(found, lie, strict=True)]
    assert np.ptp(np.unwrap(np.radians(turned))) < np.radians(3)
    assert all(quality > reference.min_quality for _, quality in found)
    frames = np.stack(
        [into_frame(image, where)[40:120, 40:120] for image, (where, _) in zip(images, found, strict=True)]
    )
    assert frames.astype(float).std(0).mean() < 0.5 * np.stack(images)[:, 40:120, 40:120].astype(float).std(0).mean()


def test_nothing_is_aligned_where_nothing_would_be_gained() -> None:
    """Parts that lie still, or textures without a shape, would be moved about."""
    rng = np.random.default_rng(0)
    still = [bracket(rng) for _ in range(16)]
    noise = [cv2.resize(rng.integers(0, 256, (20, 20, 3), np.uint8), (SIDE, SIDE)) for _ in range(16)]
    assert fit_reference(still, "auto") is None
    assert fit_reference(noise, "auto") is None
    assert fit_reference(still[:4], "rigid") is None


def test_a_part_that_matches_no_frame_is_unusable_and_says_so() -> None:
    """A wrong part would be judged at an angle that means nothing."""
    images, _ = draw(24, 0, 180, 0.05)
    recipe = fit_recipe(Recipe(align="rigid", size_px=160, channels=3, illumination="none"), images)
    assert recipe.reference is not None
    assert recipe.apply(images[0]).shape == (160, 160, 3)
    with pytest.raises(ImageError, match="matches the frame of good parts by") as caught:
        recipe.apply(np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8))
    assert caught.value.reason == "misaligned"


def test_a_map_goes_back_to_where_the_part_lies() -> None:
    """The report would outline a defect beside the part."""
    images, _ = draw(24, 0, 180, 0.03)
    recipe = fit_recipe(Recipe(align="rigid", size_px=160, channels=3, illumination="none"), images)
    spotted = images[3].copy()
    cv2.circle(spotted, (96, 70), 4, (255, 0, 255), -1)
    difference = np.abs(recipe.apply(spotted).astype(float) - recipe.apply(images[3]).astype(float)).sum(2)
    placed = recipe.to_image_pixels(difference, spotted)
    row, column = np.unravel_index(cv2.GaussianBlur(placed, (0, 0), 3).argmax(), placed.shape)
    assert abs(row - 70) <= 3
    assert abs(column - 96) <= 3
    assert np.abs(out_of_frame(np.ones((20, 30), np.float32), Transform(0, 0, 0)) - 1).max() == 0


def test_places_that_some_image_does_not_show_are_not_scored() -> None:
    """The mirrored border of a turned image would be taken for a defect."""
    images, _ = draw(24, 0, 180, 0.05)
    recipe = fit_recipe(Recipe(align="rigid", keep_aspect=True, channels=3, illumination="none"), images)
    inside = recipe.scored_places
    assert inside is not None
    assert inside.shape == recipe.input_px
    assert inside[80, 80]
    assert not inside[2, 2]
    assert Recipe().scored_places is None


def test_a_long_part_that_shifts_along_itself_is_still_judged() -> None:
    """Where shifts count in both directions alike, nothing of a long part would be left to score, in silence."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(24):
        image = np.full((128, 640, 3), 60, np.uint8)
        at = 260 + int(rng.integers(-60, 60))
        cv2.rectangle(image, (at, 40), (at + 110, 90), (200, 180, 160), -1)
        cv2.circle(image, (at + 30, 60), 9, (30, 30, 60), -1)
        images.append(cv2.add(image, rng.integers(0, 12, image.shape, np.uint8)))
    recipe = fit_recipe(Recipe(align="auto", keep_aspect=True, channels=3, illumination="none"), images)
    inside = recipe.scored_places
    assert inside is not None
    assert inside.mean() > 0.6
    assert f"{inside.mean():.0%} of it scored" in recipe.summary


def test_a_part_that_lies_further_off_than_any_good_one_says_so() -> None:
    """A part at the wrong place would be put right in silence, and mirrored borders be judged."""
    images, _ = draw(24, 0, 0, 0.04)
    recipe = fit_recipe(Recipe(align="shift", size_px=160, channels=3, illumination="none"), images)
    far = moved(bracket(np.random.default_rng(3)), Transform(0, 0.13, 0))
    with pytest.raises(ImageError, match=r"lies .* off the frame|matches the frame") as caught:
        recipe.apply(far)
    assert caught.value.reason == "misaligned"


def test_an_alignment_that_is_asked_for_takes_enough_images() -> None:
    """A setting would be switched off in silence."""
    recipe = Recipe(align="rigid", channels=3, illumination="none")
    with pytest.raises(TrainingDataError, match="at least 8 are needed"):
        fit_recipe(recipe, draw(3, 0, 180, 0.05)[0])


def test_heat_of_a_stretched_region_goes_back_to_the_part() -> None:
    """On a line of pixels, whose input is a square, a shift of the part would move the heat twice as far."""
    images = [cv2.resize(image, (320, 160)) for image in draw(24, 0, 0, 0.07)[0]]
    recipe = fit_recipe(Recipe(align="shift", size_px=160, channels=3, illumination="none"), images)
    spotted = images[5].copy()
    cv2.circle(spotted, (190, 70), 5, (255, 0, 255), -1)
    difference = np.abs(recipe.apply(spotted).astype(float) - recipe.apply(images[5]).astype(float)).sum(2)
    placed = cv2.GaussianBlur(recipe.to_image_pixels(difference, spotted), (0, 0), 3)
    row, column = np.unravel_index(placed.argmax(), placed.shape)
    assert abs(row - 70) <= 4
    assert abs(column - 190) <= 5
