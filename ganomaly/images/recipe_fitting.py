"""Decides by a line's images what its recipe leaves open: bits, sizes of camera image and input, alignment."""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from ganomaly.errors import ImageError, TrainingDataError
from ganomaly.images.formats.common import Pixels
from ganomaly.images.frame import FEWEST, fit_reference
from ganomaly.images.pixels import SHRUNK_PX, shrunk
from ganomaly.images.recipe import Mask, Recipe
from ganomaly.images.recipe_settings import FEWER_BITS


class _LookedAt(NamedTuple):
    """An image that helps to decide: its size, its region's, the region shrunk, its mask."""

    camera_px: tuple[int, int]
    sides: tuple[int, ...]
    region: Pixels
    ignored_hw: Mask


def fit_recipe(recipe: Recipe, images: Iterable[Pixels]) -> Recipe:
    """The recipe with what is still open decided.

    Args:
        recipe: what it states stays.
        images: some camera images of good parts, gone through once; those in which the region does not lie are
            passed over.

    Raises:
        TrainingDataError: if parts are to be aligned and there are too few images to learn from.
    """
    found, brightest = list[_LookedAt](), 0
    for image in images:
        with suppress(ImageError):
            region, size = recipe.crop(image), (image.shape[0], image.shape[1])
            small = shrunk(region, SHRUNK_PX).copy()  # a view would keep the whole image in memory
            found.append(_LookedAt(size, region.shape[:2], small, recipe.ignored_at(size, size, small.shape)))
            brightest = max(brightest, int(image.max()) if image.dtype == np.uint16 else 0)
    if recipe.is_partial and recipe.camera_px is None and found:
        camera_px, _ = Counter(one.camera_px for one in found).most_common(1)[0]
        recipe = recipe.model_copy(update={"camera_px": camera_px})
        found = [one for one in found if one.camera_px == camera_px]  # the others will be unusable
    sides, regions = [one.sides for one in found], [one.region for one in found]
    if recipe.bits == "auto" and sides:
        fewest = next((bits for bits in FEWER_BITS if 0 < brightest < 1 << bits), 16)
        recipe = recipe.model_copy(update={"bits": fewest})
        regions = [recipe.full_range(region) for region in regions]
    if recipe.keep_aspect and recipe.input_px is None and sides:
        height, width = np.median(np.array(sides), axis=0)
        recipe = recipe.model_copy(update={"input_px": recipe.scaled_down(float(height), float(width))})
    if recipe.align != "none" and recipe.reference is None:
        any_size = recipe.model_copy(update={"resize": True})
        masks = [one.ignored_hw for one in found]
        placed = [any_size.to_input(region, mask) for region, mask in zip(regions, masks, strict=True)]
        reference = fit_reference(placed, recipe.align)
        if reference is None and recipe.align != "auto":
            raise TrainingDataError(
                f'recipe.align = "{recipe.align}": {len(regions)} images are too few to learn a frame from, at least '
                f'{FEWEST} are needed; add images of good parts or set recipe.align = "none"'
            )
        update = {"reference": reference, "align": "none" if reference is None else reference.kind}
        recipe = recipe.model_copy(update=update)
    return recipe
