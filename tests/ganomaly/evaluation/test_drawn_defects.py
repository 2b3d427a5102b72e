"""Drawn defects: pixels change inside of the mask and nowhere else, as strongly and as large as asked."""

from importlib.util import find_spec

import cv2
import numpy as np
import pytest

from ganomaly.evaluation.drawn_defects import (
    CONTRASTS,
    EXTENT,
    KINDS,
    OF_EXTENT,
    SIZES,
    Contrast,
    Kind,
    Size,
    draw_defect,
)
from ganomaly.evaluation.protocols import elpv
from ganomaly.images.preparation import read_image


def surface(height: int = 240, width: int = 300, *, colour: bool = False) -> np.ndarray:
    """A rough surface of grey level 120 and deviation 12 with a black corner, uint8."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(height, width)), (0, 0), 2)
    image = np.clip(120 + 12 * noise / noise.std(), 0, 255).astype(np.uint8)
    image[: height // 3, : width // 3] = 2
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if colour else image


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("contrast", CONTRASTS)
def test_the_mask_is_exactly_what_changed(kind: Kind, size: Size, contrast: Contrast, colour: bool) -> None:
    """A heat map would be judged by a truth that is not in the image."""
    good = surface(colour=colour)
    before = good.copy()
    for seed in range(4):
        drawn = draw_defect(good, kind, np.random.default_rng(seed), size=size, contrast=contrast)
        changed = (drawn.image != good).reshape(*good.shape[:2], -1).any(axis=2)
        np.testing.assert_array_equal(changed, drawn.mask)
        assert (drawn.image.dtype, drawn.image.shape, drawn.mask.shape) == (np.uint8, good.shape, good.shape[:2])
        rows, columns = np.nonzero(drawn.mask)
        extent = OF_EXTENT[kind] * EXTENT[size] * 240
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(extent, abs=max(5, 0.2 * extent))
    np.testing.assert_array_equal(good, before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_decides_and_nothing_else(kind: Kind) -> None:
    """A table could not be repeated, or all images carry the same defect."""
    first, again, other = (draw_defect(surface(), kind, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.mask != other.mask).any()


@pytest.mark.parametrize("kind", KINDS)
def test_contrast_and_size_grow(kind: Kind) -> None:
    """The rows of a table would say faint or small where they are not."""
    good = surface()

    def measure(size: Size, contrast: Contrast) -> tuple[float, float]:
        drawn = [draw_defect(good, kind, np.random.default_rng(s), size=size, contrast=contrast) for s in range(16)]
        change = [np.abs(d.image.astype(float) - good)[d.mask].mean() for d in drawn]
        return float(np.mean(change)), float(np.mean([d.mask.sum() for d in drawn]))

    strengths = [measure("medium", contrast)[0] for contrast in CONTRASTS]
    areas = [measure(size, "medium")[1] for size in SIZES]
    assert strengths[0] * 1.2 < strengths[1] < strengths[2] / 1.2
    assert areas[0] * 1.5 < areas[1] < areas[2] / 1.5


def test_lines_are_thin_and_change_by_local_deviations() -> None:
    """A crack would be a bar, and faint depend on the camera's exposure instead of the part's texture."""
    good = surface(300, 300)
    for kind in ("crack", "scratch", "missing_finger"):
        for seed in range(8):
            drawn = draw_defect(good, kind, np.random.default_rng(seed), contrast="medium")
            widest = cv2.distanceTransform(np.pad(drawn.mask, 1).astype(np.uint8), cv2.DIST_L2, 5).max()
            assert widest <= 3.5  # the distance to the edge is about half the width; branches are wider where they part
            change = np.abs(drawn.image.astype(float) - good)[drawn.mask].max()
            assert 15 < change < 60  # two deviations of about 12, somewhat more beside the black corner


def test_signs_are_those_of_the_kind() -> None:
    """A crack would shine and a scratch be dark; a missing finger and a spot must come both ways."""
    good = surface().astype(float)
    signs: dict[str, set[bool]] = {}
    for kind in ("crack", "dark_patch", "scratch", "missing_finger", "spot"):
        drawn = [draw_defect(surface(), kind, np.random.default_rng(seed)) for seed in range(12)]
        signs[kind] = {bool((d.image - good)[d.mask].mean() > 0) for d in drawn}
    both = {True, False}
    assert signs == {"crack": {False}, "dark_patch": {False}, "scratch": {True}, "missing_finger": both, "spot": both}


def test_nothing_is_drawn_where_the_part_is_black() -> None:
    """A crack in a black corner would count as missed although nobody could see it."""
    for kind in KINDS:
        for seed in range(20):
            mask = draw_defect(surface(), kind, np.random.default_rng(seed)).mask
            assert mask[:80, :100].sum() < 0.6 * mask.sum()


def test_mistakes_are_named() -> None:
    """A misspelt kind would be a KeyError, an image without texture a mask without a defect."""
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="kind = 'hole': must be one of crack, dark_patch"):
        draw_defect(surface(), "hole", rng)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"array of uint16 \(64, 64\)"):
        draw_defect(np.zeros((64, 64), np.uint16), "spot", rng)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="300 x 20 px: both sides must be at least 32 px"):
        draw_defect(np.zeros((20, 300), np.uint8), "spot", rng)
    with pytest.raises(ValueError, match="where a medium texture_patch of size medium can be seen"):
        draw_defect(np.full((64, 64), 9, np.uint8), "texture_patch", rng)


def test_small_images_carry_every_defect() -> None:
    """A defect on a crop of 32 px would be no pixel at all, or lie outside."""
    for kind in KINDS:
        for size in SIZES:
            good = surface(32, 32)
            assert 3 <= draw_defect(good, kind, np.random.default_rng(3), size=size).mask.sum() < 400


@pytest.mark.skipif(find_spec("elpv_dataset") is None, reason="needs the package elpv-dataset")
def test_real_cells_take_every_defect() -> None:
    """The benchmark would stop at a real cell that has no place for a defect."""
    data = elpv("mono")
    for i in range(0, 300, 30):
        good = read_image(data.images[i])
        for kind in KINDS:
            drawn = draw_defect(good, kind, np.random.default_rng(i), size="large", contrast="faint")
            np.testing.assert_array_equal(drawn.image != good, drawn.mask)
