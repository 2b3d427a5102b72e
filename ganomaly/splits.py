"""Who trains, who fits the score's statistics and who sets the limit. Views of one part always stay together."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ganomaly.calibration import CalibrationConfig, too_few_images
from ganomaly.errors import TrainingDataError
from ganomaly.preparation import Prepared

Role = Literal["train", "fit", "calibrate"]
ROLES: tuple[Role, ...] = get_args(Role)


def split_by_part(
    parts: Sequence[str], *, fit_fraction: float, calibrate_fraction: float, seed: int
) -> NDArray[np.str_]:
    """Assign a role to each image so that all images of one part share it.

    Args:
        parts: part id of each image, (N,).
        fit_fraction: share of the parts that joins in fitting the score but does not train the networks.
        calibrate_fraction: share of the parts that only sets the limit.
        seed: draws the assignment; the order of ``parts`` does not matter.

    Returns:
        One of "train", "fit", "calibrate" for each image, (N,).
    """
    unique = np.array(sorted(set(parts)), dtype=np.str_)
    shuffled = np.random.default_rng(seed).permutation(unique).tolist()
    n_calibrate = round(len(unique) * calibrate_fraction)
    n_fit = round(len(unique) * fit_fraction)
    roles: dict[str, Role] = dict.fromkeys(shuffled, "train")
    roles |= dict.fromkeys(shuffled[:n_calibrate], "calibrate")
    roles |= dict.fromkeys(shuffled[n_calibrate : n_calibrate + n_fit], "fit")
    return np.array([roles[part] for part in parts], dtype=np.str_)


def plan_roles(
    prepared: Sequence[Prepared], parts: Sequence[str], config: CalibrationConfig, seed: int
) -> NDArray[np.str_]:
    """Check that normal images can train and calibrate a detector as asked, and give each usable one its role.

    Args:
        prepared: the images after decoding, quality gate and recipe, (N,).
        parts: part id of each image, (N,).
        config: the fractions and the false-reject rate.
        seed: draws the assignment.

    Returns:
        One of "train", "fit", "calibrate", or "" for an image that cannot be judged, (N,).

    Raises:
        TrainingDataError: if there are no usable images, if their sizes differ although the recipe does not resize, or
            if too few are left to train or to calibrate.
    """
    if len(prepared) != len(parts):
        raise ValueError(f"{len(parts)} part ids for {len(prepared)} images: give one for each image")
    _check_usable(prepared)
    usable = np.array([image.usable for image in prepared])
    roles = np.full(len(prepared), "", dtype="<U9")
    roles[usable] = split_by_part(
        [part for part, take in zip(parts, usable, strict=True) if take],
        fit_fraction=config.fit_fraction,
        calibrate_fraction=config.calibrate_fraction,
        seed=seed,
    )
    _check_counts(roles, config)
    return roles


def _check_usable(prepared: Sequence[Prepared]) -> None:
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


def _check_counts(roles: NDArray[np.str_], config: CalibrationConfig) -> None:
    counts = Counter(roles.tolist())
    usable = sum(counts[role] for role in ROLES)
    fault = too_few_images(counts["calibrate"], config.false_reject_rate, config.confidence)
    if fault is not None:
        raise TrainingDataError(
            f"too few images to calibrate: {counts['calibrate']} of {usable} usable ones are held out for calibration, "
            f"but {fault}; add images of good parts, raise calibration.calibrate_fraction or "
            "calibration.false_reject_rate"
        )
    if counts["train"] < 2:
        raise TrainingDataError(
            f"too few images to train: {counts['train']} of {usable} usable ones are left for the networks; add images "
            "of good parts or lower calibration.calibrate_fraction and calibration.fit_fraction"
        )
