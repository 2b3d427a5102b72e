"""Learns the frame that parts are brought into: the mean of good images, brought into one frame again and again.

How far good parts turn and shift is learned as well: a part that lies upside down on a line where none does is not put
right in silence.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ganomaly.images.alignment import (
    FINE_PX,
    GROWTH,
    MAX_SHIFT,
    SLACK,
    STEP,
    STILL,
    Floats,
    Kind,
    Reference,
    Transform,
    into_frame,
    look_at,
    normalised,
    reference_of,
    soft_ellipse,
)

SAMPLE = 64
"""Good images that suffice for a reference."""
ROUNDS = 3
FEWEST = 8
"""Good images below which nothing is aligned."""
MIN_GAIN, MIN_STEP = 0.25, 0.02
"""Share of the disagreement of held-out good images, and correlation, that an alignment must gain."""
MIN_AGREEMENT = 0.6
"""Correlation of aligned good images, in brightness and in edges: with less there is no common shape."""
MAX_WORSE = 0.1
"""Share of the picture that may vary 1.5 times as much as before."""
MIN_MARGIN = 0.4
"""Quality below the usual one that is never called a failure: a defect, too, makes a part match less, and is to be
flagged, not called unusable."""
LEAST_SCORED = 0.4
"""Share of the frame that all parts show, below which nothing is aligned unless the recipe asks for it."""


def fit_reference(images: Sequence[NDArray[np.uint8]], kind: Kind | Literal["auto"]) -> Reference | None:
    """Learn the frame from images of good parts, (H, W) or (H, W, 3) RGB.

    Args:
        images: of one line.
        kind: what parts do; "auto": the least that makes held-out good images agree, judged by the correlation of all
            pairs of them.

    Returns:
        None where nothing is to be aligned: parts lie still, have no common shape, or are too few.
    """
    if len(images) < FEWEST:
        return None
    ratio = float(np.median([image.shape[1] / image.shape[0] for image in images]))
    shape = max(8, round(FINE_PX * min(1.0, 1 / ratio))), max(8, round(FINE_PX * min(1.0, ratio)))
    chosen = np.linspace(0, len(images) - 1, min(len(images), SAMPLE)).astype(int)
    looks = [look_at(images[at], shape) for at in chosen]
    found = _decide(looks) if kind == "auto" else kind
    reference = None if found is None else _build(looks, found)
    if reference is not None and kind == "auto" and reference.always_inside(shape).mean() < LEAST_SCORED:
        return None  # of what lies so far apart hardly anything would be judged
    return reference


def _decide(looks: Sequence[Floats]) -> Kind | None:
    """The least alignment by which images that made no reference agree much better, None if none does."""
    halves = [(looks[::2], looks[1::2]), (looks[1::2], looks[::2])]
    weight_hw1 = soft_ellipse(looks[0].shape)
    still = [_variance(others, [STILL] * len(others)) for _, others in halves]
    chosen: Kind | None = None
    agreement = 1 - float((np.mean(still, 0) * weight_hw1).sum((0, 1)).mean())
    kinds: tuple[Kind, ...] = ("shift", "rigid")
    for kind in kinds:
        references = [_build(seen, kind) for seen, _ in halves]
        moved = [
            _variance(others, [reference.locate_look(look)[0] for look in others])
            for reference, (_, others) in zip(references, halves, strict=True)
        ]
        after_c = (np.mean(moved, 0) * weight_hw1).sum((0, 1))
        worse = [
            ((new > 1.5 * old + 0.02) * weight_hw1).sum((0, 1)).max() for new, old in zip(moved, still, strict=True)
        ]
        found = 1 - float(after_c.mean())
        gained = found - agreement >= max(MIN_STEP, MIN_GAIN * (1 - agreement))
        if gained and 1 - float(after_c.max()) >= MIN_AGREEMENT and float(np.mean(worse)) <= MAX_WORSE:
            chosen, agreement = kind, found
    return chosen


def _build(looks: Sequence[Floats], kind: Kind) -> Reference:
    """The mean of images in one frame: from the best of a few, aligned and averaged again and again."""
    few = looks[:: max(1, len(looks) // 12)][:12]
    seeds = [reference_of(look, kind) for look in few[:6]]
    reference = max(seeds, key=lambda one: float(np.median([one.locate_look(look)[1] for look in few])))
    for _ in range(ROUNDS):
        found = [reference.locate_look(look) for look in looks]
        middle, spread = _robust([quality for _, quality in found])
        kept = [
            (look, where) for look, (where, quality) in zip(looks, found, strict=True) if quality >= middle - 3 * spread
        ]
        home = _centre([where for _, where in kept])
        mean = np.mean([into_frame(look, _compose(where, home)) for look, where in kept], axis=0)
        reference = reference_of(mean.astype(np.float32), kind)
    found = [reference.locate_look(look) for look in looks]
    middle, spread = _robust([quality for _, quality in found])
    limit = middle - max(MIN_MARGIN, 5 * spread)
    usual = [where for where, quality in found if quality >= limit]
    degrees = GROWTH * max(abs(where.degrees) for where in usual) + STEP
    limits = {
        "max_degrees": degrees if degrees < 90 else 180.0,
        "max_x": min(GROWTH * max(abs(where.x) for where in usual) + SLACK, MAX_SHIFT),
        "max_y": min(GROWTH * max(abs(where.y) for where in usual) + SLACK, MAX_SHIFT),
        "min_quality": limit,
    }
    return Reference(kind=kind, shape=reference.shape, pixels=reference.pixels, **limits)


def _variance(looks: Sequence[Floats], found: Sequence[Transform]) -> Floats:
    """Variance at each place of images in one frame; its weighted sum is 1 - mean correlation of all pairs."""
    weight_hw1 = soft_ellipse(looks[0].shape)
    moved = [normalised(into_frame(look, where), weight_hw1) for look, where in zip(looks, found, strict=True)]
    variance: Floats = np.var(moved, axis=0, ddof=1)
    return variance


def _compose(outer: Transform, inner: Transform) -> Transform:
    """First the inner one, then the outer one."""
    cos, sin = math.cos(math.radians(outer.degrees)), math.sin(math.radians(outer.degrees))
    return Transform(
        outer.degrees + inner.degrees,
        outer.x + cos * inner.x - sin * inner.y,
        outer.y + sin * inner.x + cos * inner.y,
    )


def _centre(found: Sequence[Transform]) -> Transform:
    """The frame in which these transforms move images least; angle 0 where they point anywhere."""
    turns = np.exp(1j * np.radians([where.degrees for where in found]))
    shifts = np.array([complex(where.x, where.y) for where in found])
    offset = -np.mean(np.conj(turns) * shifts)
    degrees = -float(np.degrees(np.angle(turns.mean()))) if abs(turns.mean()) > 0.7 else 0.0
    return Transform(degrees, float(offset.real), float(offset.imag))


def _robust(values: Sequence[float]) -> tuple[float, float]:
    """Median, and the standard deviation that the median distance from it tells."""
    middle = float(np.median(values))
    return middle, 1.4826 * float(np.median(np.abs(np.array(values) - middle)))
