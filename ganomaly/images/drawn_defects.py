"""Defects drawn into images of good parts: lines, spots and ragged patches of all sizes, in many looks.

Nobody has defects to learn from, but what a defect does to a picture is known: somewhere it is lighter or darker, of
another colour, blurred, rough, or shows what belongs elsewhere. What is drawn need not look like a real one; it has to
differ from what light and position do to the picture of a good part. (The idea: Zavrtanik, Kristan, Skocaj 2021, DRAEM,
arXiv 2108.07610; Li, Sohn, Yoon, Pfister 2021, CutPaste, arXiv 2104.04015.)
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""A prepared image (H, W, 3)."""
Pixels = NDArray[Any]
"""The same, as float32."""

SMALLEST, LARGEST = 0.012, 0.3
"""Size of a defect, of the image's longer side."""
MOST_DEFECTS = 3
SHAPES = {"line": 0.4, "spot": 0.35, "patch": 0.25}
LOOKS = {"level": 0.4, "colour": 0.05, "moved": 0.15, "other": 0.15, "blur": 0.08, "rough": 0.07, "contrast": 0.1}
"""Shares of the defects that are drawn. A grey image stays grey."""
LEAST_SPREAD = 8.0
"""Grey levels: contrasts are in units of the image's own spread, at least this."""
AS_IT_IS = 1 / 3
"""Of the images, those whose light and position stay. The others change by at most ..."""
GAIN, OFFSET, SHIFT_PX, BLUR_PX = 0.08, 8.0, 3.0, 0.8
"""... a factor of contrast, grey levels, pixels of the network's input."""


def with_defects(image: Image, others: Sequence[Image], rng: np.random.Generator) -> tuple[Image, NDArray[np.float32]]:
    """A copy of a good part's image in slightly other light and position, with defects, and how much they changed it.

    Args:
        image: uint8 (H, W, 3).
        others: images of good parts of the same size, whose pixels defects may show.
        rng: draws everything.

    Returns:
        The copy, and float32 (H, W): by how many grey levels the defects changed each pixel, at most of all channels.
    """
    before = _elsewhere(image, rng)
    after = before
    for _ in range(int(rng.integers(1, MOST_DEFECTS + 1))):
        opacity = _shape(image.shape[0], image.shape[1], rng)[..., None]
        after = np.clip(after * (1 - opacity) + _look(after, others, rng) * opacity, 0, 255)
    drawn = after.astype(np.uint8)
    return drawn, np.abs(drawn - before.astype(np.uint8).astype(np.float32)).max(axis=2)


def _elsewhere(image: Image, rng: np.random.Generator) -> Pixels:
    """The image as a slightly different light and position would show it."""
    if rng.random() < AS_IT_IS:
        return image.astype(np.float32)
    height, width = image.shape[:2]
    moved = np.array([[1, 0, rng.uniform(-SHIFT_PX, SHIFT_PX)], [0, 1, rng.uniform(-SHIFT_PX, SHIFT_PX)]])
    pixels = image.astype(np.float32) * rng.uniform(1 - GAIN, 1 + GAIN) + rng.uniform(-OFFSET, OFFSET)
    pixels = np.asarray(cv2.warpAffine(pixels, moved, (width, height), borderMode=cv2.BORDER_REFLECT_101))
    if rng.random() < 0.5:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.3, BLUR_PX)))
    return _floats(np.clip(pixels, 0, 255))


def _shape(height: int, width: int, rng: np.random.Generator) -> Pixels:
    """Opacity (H, W) in [0, 1] of one defect anywhere in the image."""
    size = max(height, width) * np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST)))
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    opacity = np.zeros((height, width), np.float32)
    kind = rng.choice(list(SHAPES), p=list(SHAPES.values()))
    if kind == "line":
        steps, angle, points = int(rng.integers(2, 6)), rng.uniform(0, 2 * np.pi), [(x, y)]
        step_px = size * rng.uniform(1, 3) / steps
        for _ in range(steps):
            angle += rng.normal(0, 0.5)
            x, y = x + step_px * np.cos(angle), y + step_px * np.sin(angle)
            points.append((x, y))
        thickness = max(1, round(size * rng.uniform(0.02, 0.2)))
        cv2.polylines(opacity, [np.array(points, np.int32)], False, 1.0, thickness, cv2.LINE_AA)
    else:
        axes = max(1, int(size / 2)), max(1, int(size / 2 * rng.uniform(0.3, 1)))
        cv2.ellipse(opacity, (int(x), int(y)), axes, rng.uniform(0, 180), 0, 360, 1.0, -1, cv2.LINE_AA)
    if kind == "patch":
        coarse = [max(2, int(3 * side / max(2.0, size)) + 2) for side in (height, width)]
        noise = cv2.resize(rng.standard_normal(coarse).astype(np.float32), (width, height))
        opacity *= noise > rng.uniform(-0.5, 0.5)
    return _floats(cv2.GaussianBlur(opacity, (0, 0), rng.uniform(0.4, max(0.5, size / 10))))


def _look(pixels: Pixels, others: Sequence[Image], rng: np.random.Generator) -> Pixels:
    """The pixels that the image shows where the defect is, (H, W, 3)."""
    height, width = pixels.shape[:2]
    spread = max(LEAST_SPREAD, float(pixels.std()))
    kind = rng.choice(list(LOOKS), p=list(LOOKS.values()))
    if kind == "colour" and np.ptp(pixels, axis=2).max() > 1:
        return _floats(pixels + spread * rng.uniform(-1.5, 1.5, 3).astype(np.float32))
    if kind in ("moved", "other"):
        source = pixels if kind == "moved" else others[int(rng.integers(len(others)))].astype(np.float32)
        far = [int(rng.choice([-1, 1]) * rng.uniform(0.08, 0.4) * side) for side in (height, width)]
        return _floats(np.roll(source, far, (0, 1)))
    if kind == "blur":
        return _floats(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(1.5, 5)))
    if kind == "rough":
        noise = rng.standard_normal((height, width, 1)).astype(np.float32)
        return _floats(pixels + spread * rng.uniform(0.2, 0.8) * noise)
    if kind == "contrast":
        mean = pixels.mean(axis=(0, 1))
        return _floats((pixels - mean) * rng.uniform(0.3, 1.8) + mean)
    return _floats(pixels + rng.choice([-1, 1]) * spread * rng.uniform(0.3, 2))


def _floats(pixels: Any) -> Pixels:
    return np.asarray(pixels, np.float32)
