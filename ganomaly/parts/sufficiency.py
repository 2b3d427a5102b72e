"""Normal images that are too few, or too few parts: refusals that say the way out, and warnings."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ganomaly.errors import TrainingDataError
from ganomaly.images.preparation import Prepared
from ganomaly.scoring.calibration import CalibrationConfig, required_calibration_images, too_few_images

FEW_PARTS = 0.5
"""Parts per part id (or image, without ids) up to which a folder counts as photos of a few parts."""
LARGE_PART = 0.25
"""Share of the images from which near-duplicates of one part outweigh the others."""


def check_usable(prepared: Sequence[Prepared]) -> None:
    """Raise `TrainingDataError` if no image can be judged, or a recipe that does not resize meets several sizes."""
    reasons = Counter(image.reason for image in prepared if not image.usable)
    if not prepared:
        raise TrainingDataError("no images to train on: none were found")
    if reasons["wrong_size"]:
        sizes = Counter(f"{i.figures.width_px} x {i.figures.height_px}" for i in prepared if i.figures is not None)
        listed = ", ".join(f"{size} ({count} images)" for size, count in sizes.most_common(5))
        example = next(image.detail for image in prepared if image.reason == "wrong_size")
        raise TrainingDataError(
            f"the recipe does not resize, but {reasons['wrong_size']} of {len(prepared)} images have another size "
            f"than it needs: {example}. Sizes found: {listed}. Set recipe.resize = true, or recipe.roi and "
            "recipe.size_px to the size of the images"
        )
    if sum(reasons.values()) == len(prepared):
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise TrainingDataError(f"no images to train on: none of {len(prepared)} can be judged ({listed})")


def unusable_in_words(prepared: Sequence[Prepared]) -> str:
    """Number of the images that cannot be judged, and why, for the middle of a sentence."""
    reasons = Counter(image.reason for image in prepared if not image.usable)
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return f", {reasons.total()} more are unusable: {listed}" if reasons else ""


def check_counts(counts: Counter[str], n_parts: int, n_stated: int, config: CalibrationConfig, unusable: str) -> None:
    """Raise `TrainingDataError` if too few parts are held out for the limit, or too few images train.

    Args:
        counts: images of each role.
        n_parts: different parts, with near-duplicates united.
        n_stated: different parts before that.
        config: the fractions and the false-reject rate.
        unusable: `unusable_in_words` of all images.
    """
    usable = counts.total()
    fault = too_few_images(counts["calibrate"], config.false_reject_rate, config.confidence)
    if fault is not None:
        needed = required_calibration_images(config.false_reject_rate, config.confidence)
        raise TrainingDataError(
            f"too few parts to calibrate: {counts['calibrate']} of {n_parts} parts ({usable} usable images{unusable}) "
            f"are held out for calibration, but {fault}, each of another part; {_more_parts(needed, config)}"
            f"{_way_out(n_parts, n_stated)}"
        )
    if counts["train"] < 2:
        raise TrainingDataError(
            f"too few images to train: {counts['train']} of {usable} usable ones are left for the networks{unusable}; "
            f"add images of good parts or lower calibration.calibrate_fraction and calibration.statistics_fraction"
            f"{_way_out(n_parts, n_stated)}"
        )


def _more_parts(needed: int, config: CalibrationConfig) -> str:
    """The way out of too few parts: cross-fitted, all of them calibrate."""
    if config.cross_fit == "auto" and config.confidence is None:
        return (
            f"add images of other good parts ({max(needed, 3)} parts suffice, all of which calibrate then) or raise "
            "calibration.false_reject_rate"
        )
    return (
        f"add images of other good parts (about {math.ceil(needed / config.calibrate_fraction)} parts suffice), raise "
        "calibration.calibrate_fraction or calibration.false_reject_rate"
    )


def _way_out(n_parts: int, n_stated: int) -> str:
    if n_parts >= n_stated:
        return ""
    return (
        f". Near-duplicates made {n_parts} parts of {n_stated}: if they are different parts that look alike, set "
        'calibration.near_duplicates = "ignore"'
    )


def warning_of(parts: NDArray[np.str_], n_stated: int) -> str | None:
    """Fault of the images as a sample of parts, for people; None if there is none.

    Args:
        parts: part of each usable image, with near-duplicates united, (N,).
        n_stated: different parts before that.
    """
    counts = Counter(parts.tolist())
    largest = counts.most_common(1)[0][1]
    if len(counts) <= FEW_PARTS * n_stated:
        return (
            f"most images are photos of a few parts: {n_stated:,} images or part ids, but near-duplicates make them "
            f"{len(counts):,} parts, the largest with {largest:,} images. What was learned may not hold for other "
            "parts; add images of other good parts"
        )
    if len(counts) < n_stated and largest > LARGE_PART * len(parts):
        return (
            f"{largest:,} of {len(parts):,} images look like photos of one part. They outweigh the others; add images "
            "of other good parts"
        )
    return None
