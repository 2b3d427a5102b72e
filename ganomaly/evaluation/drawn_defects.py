"""Defects with known masks, drawn into images of good parts in the camera's own pixels.

Where nobody has outlined real defects, these say whether a heat map points at the right place. Each is as reproducible
as its random generator: the same generator, image and settings give the same pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import median_abs_deviation  # type: ignore[import-untyped]

Kind = Literal["crack", "dark_patch", "missing_finger", "scratch", "spot", "texture_patch"]
Size = Literal["small", "medium", "large"]
Contrast = Literal["faint", "medium", "strong"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SIZES: tuple[Size, ...] = get_args(Size)
CONTRASTS: tuple[Contrast, ...] = get_args(Contrast)

EXTENT: dict[Size, float] = {"small": 0.1, "medium": 0.2, "large": 0.4}
"""Length of a line as a fraction of the image's shorter side."""
OF_EXTENT: dict[Kind, float] = {
    "crack": 1.0,
    "dark_patch": 0.75,
    "missing_finger": 1.0,
    "scratch": 1.0,
    "spot": 0.25,
    "texture_patch": 0.75,
}
"""Greatest diameter of a kind as a fraction of a line's length."""
DEVIATIONS: dict[Contrast, float] = {"faint": 1.0, "medium": 2.0, "strong": 4.0}
"""Change of a line or spot in standard deviations of the grey value around it, robustly estimated."""
DARKENING: dict[Contrast, float] = {"faint": 0.15, "medium": 0.3, "strong": 0.6}
"""Share of the light that the middle of a dark patch lacks."""
OPACITY: dict[Contrast, float] = {"faint": 0.5, "medium": 0.75, "strong": 1.0}
"""Weight of the other texture in a texture patch."""

LEAST_DEVIATION = 4.0
"""Grey levels: a smooth surface counts as one with so much texture, so that faint is not invisible."""
LEAST_COVER = 0.2
"""Pixels that the defect covers less are left as they are; they belong to no mask."""
FINE = 4
"""Steps per pixel at which outlines are drawn before they are averaged to pixels."""
PLACES_TRIED = 200
LEAST_CHANGED = 0.9

Points = NDArray[np.float64]
"""(K, 2) columns and rows in pixels, relative to the middle of the defect."""
Cover = NDArray[np.float32]
"""(h, w) share of each pixel that the defect covers, 0 or from `LEAST_COVER` to 1."""


@dataclass(frozen=True)
class DrawnDefect:
    """An image with a defect and the truth about it.

    Attributes:
        image: uint8 (H, W) or (H, W, 3), like the good image.
        mask: bool (H, W), exactly the pixels that differ from the good image.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def draw_defect(
    image: NDArray[np.uint8],
    kind: Kind,
    rng: np.random.Generator,
    *,
    size: Size = "medium",
    contrast: Contrast = "medium",
) -> DrawnDefect:
    """Draw one defect at a random place of an image; the image itself is not changed.

    The shape lies wholly inside of the image, and not where the part is dark: black corners hide a crack.

    Args:
        image: a good part, uint8 (H, W) grey or (H, W, 3) RGB, sides from 32 px.
        kind: what is drawn.
        rng: draws shape, place and appearance.
        size: see `EXTENT`.
        contrast: see `DEVIATIONS`, `DARKENING` and `OPACITY`.

    Raises:
        ValueError: for an unknown kind, size or contrast, another array, or an image in which such a defect cannot be
            seen anywhere, such as one of a single grey level for a texture patch.
    """
    _check_image(image)
    for name, value, allowed in (("kind", kind, KINDS), ("size", size, SIZES), ("contrast", contrast, CONTRASTS)):
        if value not in allowed:
            raise ValueError(f"{name} = {value!r}: must be one of {', '.join(allowed)}")
    side_px = min(image.shape[:2])
    cover = _SHAPES[kind](max(3.0, OF_EXTENT[kind] * EXTENT[size] * side_px), side_px, rng)
    paint = _PAINTS[kind]
    brighter = kind == "scratch" or (kind in ("missing_finger", "spot") and bool(rng.integers(2)))
    dark = np.median(image) / 2
    for _ in range(PLACES_TRIED):
        window = _somewhere(image, cover, rng)
        good = image[window]
        drawn = paint(image, window, cover, contrast, brighter, rng)
        covered = cover > 0
        if good[covered].mean() >= dark and _differs(good, drawn)[covered].mean() >= LEAST_CHANGED:
            return _insert(image, window, drawn, covered)
    raise ValueError(
        f"no place in the image of {image.shape[1]} x {image.shape[0]} px where a {contrast} {kind} of size {size} can "
        "be seen: give an image that is not of one grey level"
    )


def _check_image(image: NDArray[Any]) -> None:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise ValueError(f"array of {image.dtype} {image.shape}: must be uint8 of shape (H, W) or (H, W, 3)")
    if min(image.shape[:2]) < 32:
        raise ValueError(f"image of {image.shape[1]} x {image.shape[0]} px: both sides must be at least 32 px")


def _somewhere(image: NDArray[np.uint8], cover: Cover, rng: np.random.Generator) -> tuple[slice, slice]:
    """A random place for the shape inside of the image."""
    y, x = (int(rng.integers(0, n - m + 1)) for n, m in zip(image.shape[:2], cover.shape, strict=True))
    return slice(y, y + cover.shape[0]), slice(x, x + cover.shape[1])


def _differs(good: NDArray[np.uint8], drawn: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(h, w), where any channel differs."""
    different = (good != drawn).reshape(*good.shape[:2], -1)
    return np.asarray(different.any(axis=2), dtype=np.bool_)


def _insert(
    image: NDArray[np.uint8], window: tuple[slice, slice], drawn: NDArray[np.uint8], covered: NDArray[np.bool_]
) -> DrawnDefect:
    """Put the defect into a copy; what happens to be as before moves by one grey level, so that masks have no holes."""
    good = image[window]
    same = covered & ~_differs(good, drawn)
    drawn[same] = np.where(good[same] < 255, good[same] + 1, 254)
    result, mask = image.copy(), np.zeros(image.shape[:2], dtype=bool)
    result[window][covered] = drawn[covered]
    mask[window] = covered
    return DrawnDefect(result, mask)


# --- shapes: (diameter in pixels, the image's shorter side in pixels, rng) -> cover ---


def _crack(extent_px: float, side_px: int, rng: np.random.Generator) -> Cover:
    """A random walk with one to three branches."""
    trunk = _walk(np.zeros(2), rng.uniform(0, 2 * np.pi), 24, 0.35, rng)
    lines = [trunk]
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(4, len(trunk) - 4))
        along = trunk[at + 1] - trunk[at]
        turn = rng.choice([-1, 1]) * rng.uniform(0.5, 1.2)
        lines.append(_walk(trunk[at], np.arctan2(along[1], along[0]) + turn, int(rng.integers(4, 12)), 0.35, rng))
    scale = extent_px / np.ptp(np.concatenate(lines), axis=0).max()
    return _stroke([line * scale for line in lines], _line_width(1, 3, side_px, rng))


def _scratch(extent_px: float, side_px: int, rng: np.random.Generator) -> Cover:
    """A line that bends a little."""
    line = _walk(np.zeros(2), rng.uniform(0, 2 * np.pi), 24, 0.03, rng)
    return _stroke([line * extent_px / np.ptp(line, axis=0).max()], _line_width(1, 2, side_px, rng))


def _finger(extent_px: float, side_px: int, rng: np.random.Generator) -> Cover:
    """A straight line along one axis."""
    line = np.array([[0.0, 0.0], [extent_px, 0.0]])
    return _stroke([line if rng.integers(2) else line[:, ::-1]], _line_width(1, 3, side_px, rng))


def _disc(extent_px: float, _side_px: int, _rng: np.random.Generator) -> Cover:
    """A round spot."""
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return _filled(extent_px / 2 * np.column_stack([np.cos(angles), np.sin(angles)]), 0.0)


def _blob(extent_px: float, _side_px: int, rng: np.random.Generator) -> Cover:
    """A patch with an irregular outline and a smooth edge."""
    return _filled(_outline(extent_px, rng), 0.08 * extent_px)


def _piece(extent_px: float, _side_px: int, rng: np.random.Generator) -> Cover:
    """A patch with an irregular outline and a narrow edge."""
    return _filled(_outline(extent_px, rng), 0.02 * extent_px)


def _walk(start: Points, heading: float, steps: int, bend: float, rng: np.random.Generator) -> Points:
    """Steps of length 1 whose direction changes by about `bend` radians each."""
    headings = heading + np.cumsum(rng.normal(0, bend, steps))
    steps_k2 = np.column_stack([np.cos(headings), np.sin(headings)])
    points: Points = start + np.concatenate([np.zeros((1, 2)), np.cumsum(steps_k2, axis=0)])
    return points


def _outline(extent_px: float, rng: np.random.Generator) -> Points:
    """A closed curve around the middle: an ellipse with a few waves."""
    angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    radius = np.ones_like(angles)
    for waves in (2, 3, 4, 5):
        radius += rng.normal(0, 0.25 / waves) * np.cos(waves * angles + rng.uniform(0, 2 * np.pi))
    radius = np.maximum(radius, 0.3)
    points = radius[:, None] * np.column_stack([np.cos(angles), np.sin(angles) * rng.uniform(0.6, 1.0)])
    scaled: Points = points * extent_px / np.ptp(points, axis=0).max()
    return scaled


def _line_width(least: float, most: float, side_px: int, rng: np.random.Generator) -> float:
    """Pixels; `least` and `most` hold for an image of 300 px, no line is thinner than a pixel."""
    return max(1.0, rng.uniform(least, most) * side_px / 300)


def _stroke(lines: list[Points], width_px: float) -> Cover:
    canvas, shift = _canvas(np.concatenate(lines), width_px)
    for line in lines:
        cv2.polylines(canvas, [_fine(line + shift)], False, 255, max(1, round(width_px * FINE)))
    return _to_pixels(canvas, 0.0)


def _filled(outline: Points, edge_px: float) -> Cover:
    canvas, shift = _canvas(outline, 6 * edge_px)
    cv2.fillPoly(canvas, [_fine(outline + shift)], 255)
    return _to_pixels(canvas, edge_px)


def _canvas(points: Points, margin_px: float) -> tuple[NDArray[np.uint8], Points]:
    """An empty picture at `FINE` steps per pixel that holds the points, and how far they must move to lie in it."""
    low, high = points.min(axis=0), points.max(axis=0)
    width, height = np.ceil(high - low + 2 * margin_px + 2).astype(int)
    return np.zeros((height * FINE, width * FINE), np.uint8), margin_px + 1 - low


def _fine(points: Points) -> NDArray[np.int32]:
    return np.round(points * FINE).astype(np.int32)


def _to_pixels(canvas: NDArray[np.uint8], edge_px: float) -> Cover:
    """Average to pixels, soften the edge, drop what is hardly covered and crop to what is left."""
    height, width = canvas.shape
    cover = np.asarray(cv2.resize(canvas, (width // FINE, height // FINE), interpolation=cv2.INTER_AREA), np.float32)
    if edge_px > 0.3:
        cover = np.asarray(cv2.GaussianBlur(cover, (0, 0), edge_px), np.float32)
    cover /= cover.max()
    cover[cover < LEAST_COVER] = 0
    rows, columns = np.flatnonzero(cover.any(axis=1)), np.flatnonzero(cover.any(axis=0))
    return cover[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


# --- paints: (image, window, cover, contrast, brighter, rng) -> the window's pixels with the defect ---


def _shift_grey(
    image: NDArray[np.uint8],
    window: tuple[slice, slice],
    cover: Cover,
    contrast: Contrast,
    brighter: bool,
    _rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Brighter or darker by some local standard deviations."""
    margin = min(image.shape[:2]) // 10
    around = tuple(slice(max(0, s.start - margin), s.stop + margin) for s in window)
    # robust: a busbar or the part's edge in the neighbourhood is not its texture
    deviation = max(LEAST_DEVIATION, float(median_abs_deviation(image[around], axis=None, scale="normal")))
    step = (1 if brighter else -1) * DEVIATIONS[contrast] * deviation
    return _to_grey(image[window] + step * _like(cover, image))


def _darken(
    image: NDArray[np.uint8],
    window: tuple[slice, slice],
    cover: Cover,
    contrast: Contrast,
    _brighter: bool,
    _rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """A share of the light is missing."""
    return _to_grey(image[window] * (1 - DARKENING[contrast] * _like(cover, image)))


def _other_texture(
    image: NDArray[np.uint8],
    window: tuple[slice, slice],
    cover: Cover,
    contrast: Contrast,
    _brighter: bool,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """A piece of the same image from elsewhere, or this one turned, blurred or scrambled."""
    good = image[window]
    height, width = good.shape[:2]
    match rng.choice(["shifted", "turned", "blurred", "scrambled"]):
        case "shifted":
            other = image[_somewhere(image, cover, rng)]
        case "turned":
            other = np.asarray(cv2.resize(np.ascontiguousarray(np.rot90(good)), (width, height)), np.uint8)
        case "blurred":
            other = np.asarray(cv2.GaussianBlur(image, (0, 0), max(1.5, 0.12 * max(height, width)))[window], np.uint8)
        case _:
            other = rng.permuted(rng.permuted(good, axis=0), axis=1)
    weight = OPACITY[contrast] * _like(cover, image)
    return _to_grey(good * (1 - weight) + other * weight)


def _like(cover: Cover, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return cover if image.ndim == 2 else cover[:, :, None]


def _to_grey(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    grey: NDArray[np.uint8] = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return grey


_SHAPES: dict[Kind, Callable[[float, int, np.random.Generator], Cover]] = {
    "crack": _crack,
    "dark_patch": _blob,
    "missing_finger": _finger,
    "scratch": _scratch,
    "spot": _disc,
    "texture_patch": _piece,
}
_Paint = Callable[
    [NDArray[np.uint8], tuple[slice, slice], Cover, Contrast, bool, np.random.Generator], NDArray[np.uint8]
]
_PAINTS: dict[Kind, _Paint] = {
    "crack": _shift_grey,
    "dark_patch": _darken,
    "missing_finger": _shift_grey,
    "scratch": _shift_grey,
    "spot": _shift_grey,
    "texture_patch": _other_texture,
}
