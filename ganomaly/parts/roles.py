"""Who trains, who fits the score's statistics and who sets the limit. Views of one part always stay together."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ganomaly.errors import TrainingDataError
from ganomaly.images.preparation import Prepared
from ganomaly.images.recipe import Recipe
from ganomaly.parts.near_duplicates import SIDE_PX, content_ids, find_groups
from ganomaly.scoring.calibration import CalibrationConfig, required_calibration_images, too_few_images

Role = Literal["train", "fit", "calibrate"]
ROLES: tuple[Role, ...] = get_args(Role)
CROSS = "cross"
"""The role of an image that fits and calibrates, by statistics that were fitted without it."""

FOLDS = 10
"""Of cross-fitted statistics, about."""
CROSS_FIT_BELOW = 2
"""Times the calibration images that are needed at least: with fewer held out, the limit is hardly more than the
highest score of a handful."""
SUSPICIOUS_IMAGES = 20
SUSPICIOUS_VALUES = 4
SUSPICIOUS_IMAGES_EACH = 5
"""Images per value from which a field of file names is taken for a part, where nobody named parts."""
FEW_PARTS = 0.5
"""Parts per part id (or image, without ids) up to which a folder counts as photos of a few parts."""
MOST_ALIKE = 10
"""Near-duplicates of one another that are learned from: a conveyor that stands still must not outweigh other parts."""
LARGE_PART = 0.25
"""Share of the images from which near-duplicates of one part outweigh the others."""


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
    _check_usable(prepared)
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
        calibrate_fraction=config.calibrate_fraction,
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
    _check_counts(Counter(roles.tolist()), len(set(united.tolist())), n_stated, config, _unusable(prepared))
    return Plan(
        roles=_spread(roles, usable),
        parts=_spread(united, usable),
        images=len(united),
        stated=n_stated,
        spare=int(spare.sum()),
        warning=_warning(united, n_stated),
        surplus=int(surplus.sum()),
    )


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
        warning=_warning(united, n_stated),
        folds=folds,
        surplus=int(surplus.sum()),
    )


def unite_parts(parts: Sequence[str] | NDArray[np.str_], groups: NDArray[np.intp]) -> NDArray[np.str_]:
    """Unite parts that share a group, and groups that share a part.

    Args:
        parts: part id of each image, (N,).
        groups: group number of each image, (N,).

    Returns:
        The smallest part id of all that hang together, for each image, (N,).
    """
    names, part_n = np.unique(np.asarray(parts, dtype=np.str_), return_inverse=True)
    size = len(names) + int(groups.max(initial=-1)) + 1
    graph = coo_array((np.ones(len(groups)), (part_n, len(names) + groups)), shape=(size, size))
    component = connected_components(graph, directed=False)[1][: len(names)]
    _, first = np.unique(component, return_index=True)  # names ascend: the first is the smallest
    united: NDArray[np.str_] = names[first[component[part_n]]]
    return united


def parts_from_names(names: Sequence[str], pattern: str) -> list[str]:
    """The part id in each file name.

    Args:
        names: paths with forward slashes, (N,).
        pattern: regular expression, searched in each name; the part id is the group named ``part`` or else the first.

    Raises:
        ValueError: if the pattern is no regular expression, has no group, or a name does not match it.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"part pattern {pattern!r}: is no regular expression ({error})") from None
    if not expression.groups:
        raise ValueError(f"part pattern {pattern!r}: has no group; put the part id in brackets, as in '^([^_]+)_'")
    group = expression.groupindex.get("part", 1)
    found = [expression.search(name) for name in names]
    parts = [match[group] if match else None for match in found]
    missing = [name for name, part in zip(names, parts, strict=True) if not part]
    if missing:
        raise ValueError(
            f"part pattern {pattern!r}: finds no part id in {len(missing)} of {len(names)} names, for example "
            f"{missing[0]!r}; it is searched in the path below the folder"
        )
    return [part for part in parts if part]


def _comparable(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A prepared image as near-duplicates are compared: square, grey where it was large, (S, S, C)."""
    height, width, channels = pixels.shape
    square = height == width and (channels == 1 or height <= SIDE_PX)
    return pixels if square else Recipe(resize=True).apply(pixels[:, :, 0] if channels == 1 else pixels)


def suspected_parts(names: Sequence[str]) -> str | None:
    """What file names suggest about parts, for people; None if nothing.

    Names such as `kos07_Part3.jpg` or `01_20200905_277500_crop.png` are cut at their separators. A field that has
    a few values, each in many names, may be the part, the position or
    the day: images that share it are no independent samples.
    """
    fields = [re.split(r"[_\-. /]+", name.rsplit(".", 1)[0]) for name in names]
    if len(names) < SUSPICIOUS_IMAGES or len({len(parts) for parts in fields}) != 1:
        return None
    for at, values in enumerate(zip(*fields, strict=True)):
        counts = Counter(values)
        if SUSPICIOUS_VALUES <= len(counts) <= len(names) / SUSPICIOUS_IMAGES_EACH and min(counts.values()) > 1:
            example = ", ".join(sorted(counts)[:3])
            pattern = "^" + r"[^_\-. /]+[_\-. /]+" * at + r"([^_\-. /]+)"
            return (
                f"file names have a field with only {len(counts)} values ({example}, ...). If it names the part, the "
                f"position or the day, good parts of other ones will be flagged more often than promised: try "
                f"--part-pattern '{pattern}', which leaves whole ones out when calibrating"
            )
    return None


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


def _warning(parts: NDArray[np.str_], n_stated: int) -> str | None:
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


def _unusable(prepared: Sequence[Prepared]) -> str:
    """Number of the images that cannot be judged, and why, for the middle of a sentence."""
    reasons = Counter(image.reason for image in prepared if not image.usable)
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return f", {reasons.total()} more are unusable: {listed}" if reasons else ""


def _check_counts(counts: Counter[str], n_parts: int, n_stated: int, config: CalibrationConfig, unusable: str) -> None:
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
