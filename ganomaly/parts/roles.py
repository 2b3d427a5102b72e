"""Who trains, who fits the score's statistics and who sets the limit. Views of one part always stay together."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ganomaly.images.preparation import Prepared
from ganomaly.images.recipe import Recipe
from ganomaly.parts.near_duplicates import SIDE_PX, content_ids, find_groups
from ganomaly.parts.part_names import unite_parts
from ganomaly.parts.sufficiency import check_counts, check_usable, unusable_in_words, warning_of
from ganomaly.scoring.calibration import CalibrationConfig, required_calibration_images, without_waste

Role = Literal["train", "fit", "calibrate"]
ROLES: tuple[Role, ...] = get_args(Role)
CROSS = "cross"
"""The role of an image that fits and calibrates, by statistics that were fitted without it."""

FOLDS = 10
"""Of cross-fitted statistics, about."""
CROSS_FIT_BELOW = 2
"""Times the calibration images that are needed at least: with fewer held out, the limit is hardly more than the
highest score of a handful."""
MOST_ALIKE = 10
"""Near-duplicates of one another that are learned from: a conveyor that stands still must not outweigh other parts."""


@dataclass(frozen=True)
class Plan:
    """What becomes of each of N images.

    Attributes:
        roles: (N,) one of "train", "fit", "calibrate" or, where statistics are cross-fitted, "cross" and "fit"; ""
            for an image that cannot be judged or is spare.
        folds: (N,) the fold of each image, -1 for those without a role, the number of folds for those that are never
            left out; None where nothing is cross-fitted.
        parts: (N,) the part of each usable image, "" for the others: part ids and near-duplicates united.
        images: usable images.
        stated: different part ids among them; where there are no ids, the images.
        spare: usable images without a role: further images of parts that calibrate, which count once.
        surplus: usable images without a role: near-duplicates of `MOST_ALIKE` others.
        warning: what is wrong with the images as a sample of parts, for people; None if nothing is.
        suspects: which of the N images were left out because they look least like all others, see
            `CalibrationConfig.trim`.
        trimmed_share: share of the parts that these are, in [0, 1).
    """

    roles: NDArray[np.str_]
    parts: NDArray[np.str_]
    images: int
    stated: int
    spare: int
    warning: str | None
    folds: NDArray[np.intp] | None = None
    surplus: int = 0
    suspects: tuple[int, ...] = ()
    trimmed_share: float = 0.0

    @property
    def n_parts(self) -> int:
        """Different parts among the usable images."""
        return len(set(self.parts[self.parts != ""].tolist()))

    @property
    def summary(self) -> str:
        """The plan in one line for people."""
        counts = Counter(self.roles.tolist())
        listed = ", ".join(f"{counts[role]:,} to {role}" for role in ROLES)
        if self.folds is not None:
            n_folds = self.folds[self.roles == CROSS].max() + 1
            listed = f"{counts[CROSS]:,} calibrate, one of each part, cross-fitted in {n_folds} folds"
        spare = f", {self.spare:,} more of parts that calibrate" if self.spare else ""
        united = " (near-duplicates count as one)" if self.n_parts < self.stated else ""
        surplus = f", {self.surplus:,} left out as near-duplicates of {MOST_ALIKE} others" if self.surplus else ""
        suspects = f", {len(self.suspects):,} left out as suspects" if self.suspects else ""
        return f"{self.images:,} images of {self.n_parts:,} parts{united}: {listed}{spare}{surplus}{suspects}"


def split_by_part(
    parts: Sequence[str], *, statistics_fraction: float, calibrate_fraction: float, seed: int
) -> NDArray[np.str_]:
    """Assign a role to each image so that all images of one part share it.

    Args:
        parts: part id of each image, (N,).
        statistics_fraction: share of the parts that joins in fitting the score but does not train the networks.
        calibrate_fraction: share of the parts that only sets the limit.
        seed: draws the assignment; the order of ``parts`` does not matter.

    Returns:
        One of "train", "fit", "calibrate" for each image, (N,).
    """
    unique = np.array(sorted(set(parts)), dtype=np.str_)
    shuffled = np.random.default_rng(seed).permutation(unique).tolist()
    n_calibrate = round(len(unique) * calibrate_fraction)
    n_fit = round(len(unique) * statistics_fraction)
    roles: dict[str, Role] = dict.fromkeys(shuffled, "train")
    roles |= dict.fromkeys(shuffled[:n_calibrate], "calibrate")
    roles |= dict.fromkeys(shuffled[n_calibrate : n_calibrate + n_fit], "fit")
    return np.array([roles[part] for part in parts], dtype=np.str_)


def plan_roles(prepared: Sequence[Prepared], parts: Sequence[str] | None, config: CalibrationConfig, seed: int) -> Plan:
    """Check that normal images can train and calibrate a detector as asked, and give each usable one its role.

    Two images are of one part if their part ids say so or if they are near-duplicates
    (`ganomaly.parts.near_duplicates`), directly or through others: no part trains and calibrates. The promise of the
    limit is about a new *part*, and only parts are
    exchangeable: ten photos of a part say hardly more about the next part than one. So a part that calibrates does so
    with one image, drawn by the seed, its others are spare, and the number n of the promise counts parts. (With all of
    V photos of each of K parts the false-reject rate could be up to 1 / (K + 1) above the promised one.)

    Args:
        prepared: the images after decoding, quality gate and recipe, (N,).
        parts: part id of each image, (N,); None if nobody knows.
        config: the fractions, the false-reject rate, and whether near-duplicates count.
        seed: draws the assignment, which depends on the images (and their part ids) but not on their order.

    Raises:
        TrainingDataError: if there are no usable images, if their sizes differ although the recipe does not resize, or
            if too few are left to train or too few parts to calibrate.
    """
    if parts is not None and len(prepared) != len(parts):
        raise ValueError(f"{len(parts)} part ids for {len(prepared)} images: give one for each image")
    check_usable(prepared)
    usable = np.array([image.usable for image in prepared])
    pixels = [image.pixels for image in prepared if image.pixels is not None]
    contents = content_ids(pixels)
    stated = contents if parts is None else np.array(parts, dtype=np.str_)[usable]
    united, surplus = stated, np.zeros(len(stated), dtype=bool)
    if config.near_duplicates == "group":
        groups = find_groups(np.array([_comparable(one) for one in pixels]))
        united, surplus = unite_parts(stated, groups), _surplus(groups, contents, seed)
    roles = split_by_part(
        united.tolist(),
        statistics_fraction=config.statistics_fraction,
        calibrate_fraction=_held_out(united, config) / len(set(united.tolist())),
        seed=seed,
    )
    n_stated = len(united) if parts is None else len(set(stated.tolist()))
    spare = _spare(united, contents, seed)
    if _cross_fits(united, config):
        needed = required_calibration_images(config.false_reject_rate)
        return _cross_fitted(united, spare, surplus & spare, usable, n_stated, needed, seed)
    spare &= roles == "calibrate"
    surplus &= roles != "calibrate"
    roles = np.where(spare | surplus, "", roles)
    check_counts(Counter(roles.tolist()), len(set(united.tolist())), n_stated, config, unusable_in_words(prepared))
    return Plan(
        roles=_spread(roles, usable),
        parts=_spread(united, usable),
        images=len(united),
        stated=n_stated,
        spare=int(spare.sum()),
        warning=warning_of(united, n_stated),
        surplus=int(surplus.sum()),
    )


def _held_out(united: NDArray[np.str_], config: CalibrationConfig) -> int:
    """How many parts only calibrate."""
    asked = round(len(set(united.tolist())) * config.calibrate_fraction)
    return without_waste(asked, config.false_reject_rate, config.confidence)


def _cross_fits(united: NDArray[np.str_], config: CalibrationConfig) -> bool:
    """Whether every part is to calibrate, because few could be held out and all of them together are enough.

    Never with a confidence: its distribution is that of held-out scores.
    """
    needed = required_calibration_images(config.false_reject_rate)
    n_parts = len(set(united.tolist()))
    held_out = round(n_parts * config.calibrate_fraction)
    may = config.cross_fit == "auto" and config.confidence is None
    return may and held_out < CROSS_FIT_BELOW * needed and n_parts >= max(needed, 3)


def _count_folds(n_parts: int, needed: int) -> int:
    """How many folds of equal size: about ten, with as few parts left over as possible, all of them if need be.

    Folds have to be equal for the bound that `Calibration.guaranteed_rate` states.
    """
    for folds in range(min(FOLDS, n_parts), FOLDS // 2 - 1, -1):
        calibrate = n_parts - n_parts % folds
        if calibrate >= max(needed, 0.9 * n_parts):
            return folds
    return max(range(2, min(2 * FOLDS, n_parts) + 1), key=lambda folds: (n_parts - n_parts % folds, -folds))


def _cross_fitted(
    united: NDArray[np.str_],
    spare: NDArray[np.bool_],
    surplus: NDArray[np.bool_],
    usable: NDArray[np.bool_],
    n_stated: int,
    needed: int,
    seed: int,
) -> Plan:
    """All images fit, one of each part calibrates by the statistics of the other folds.

    Parts that are left over when folds have equal size get a fold of their own that is never left out.
    """
    names = np.random.default_rng(seed).permutation(np.unique(united))
    n_folds = _count_folds(len(names), needed)
    dealt = len(names) - len(names) % n_folds
    fold_of = {name: at % n_folds if at < dealt else n_folds for at, name in enumerate(names.tolist())}
    folds = np.full(len(usable), -1, dtype=np.intp)
    folds[usable] = np.where(surplus, -1, [fold_of[part] for part in united.tolist()])
    fits_only = spare | (folds[usable] == n_folds)
    roles = np.where(fits_only, "fit", CROSS)
    return Plan(
        roles=_spread(np.where(surplus, "", roles), usable),
        parts=_spread(united, usable),
        images=len(united),
        stated=n_stated,
        spare=0,
        warning=warning_of(united, n_stated),
        folds=folds,
        surplus=int(surplus.sum()),
    )


def _comparable(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A prepared image as near-duplicates are compared: square, grey where it was large, (S, S, C)."""
    height, width, channels = pixels.shape
    square = height == width and (channels == 1 or height <= SIDE_PX)
    return pixels if square else Recipe(resize=True).apply(pixels[:, :, 0] if channels == 1 else pixels)


def _spread(values: NDArray[np.str_], usable: NDArray[np.bool_]) -> NDArray[np.str_]:
    """Values of the usable images, "" for the others."""
    spread = np.full(len(usable), "", dtype=values.dtype)
    spread[usable] = values
    return spread


def _spare(parts: NDArray[np.str_], contents: NDArray[np.str_], seed: int) -> NDArray[np.bool_]:
    """All images of each part but one, which the seed draws, whatever the order of the images."""
    by_draw = np.lexsort((_draws(contents, seed), parts))
    spare = np.ones(len(parts), dtype=bool)
    spare[by_draw[np.unique(parts[by_draw], return_index=True)[1]]] = False
    return spare


def _surplus(groups: NDArray[np.intp], contents: NDArray[np.str_], seed: int) -> NDArray[np.bool_]:
    """All images of each group of near-duplicates but `MOST_ALIKE`, which the seed draws."""
    order = np.lexsort((_draws(contents, seed), groups))
    _, first, counts = np.unique(groups[order], return_index=True, return_counts=True)
    place = np.arange(len(groups)) - np.repeat(first, counts)
    surplus = np.zeros(len(groups), dtype=bool)
    surplus[order] = place >= MOST_ALIKE
    return surplus


def _draws(contents: NDArray[np.str_], seed: int) -> NDArray[np.str_]:
    """A number for each image that the seed draws, whatever the order of the images."""
    return np.array([hashlib.blake2b(f"{seed} {one}".encode(), digest_size=8).hexdigest() for one in contents.tolist()])
