"""Brings parts that lie shifted or turned into one frame, learned from images of good parts.

An image is compared with a reference by brightness and edge strength: first all angles and shifts at once by Fourier
transforms at 64 px, then the best few by Gauss-Newton steps at 64 and 128 px (inverse compositional, Baker and Matthews
2004, "Lucas-Kanade 20 years on"). `ganomaly.images.frame` learns the reference.
"""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Floats = NDArray[np.float32]
Kind = Literal["shift", "rigid"]

COARSE_PX, FINE_PX = 64, 128
"""Longer side for the search and for the refinement."""
STEP = 5.0
"""Degrees between the angles that are searched."""
MAX_SHIFT = 0.15
"""Of the longer side."""
CANDIDATES = 4
GROWTH, SLACK = 1.25, 0.01
"""By how much more than any good image seen an image may turn and shift, and shifts at least."""


class Transform(NamedTuple):
    """Where a point of the reference lies in an image: turned about the middle, then shifted.

    Attributes:
        degrees: angle.
        x: shift to the right, of the longer side.
        y: shift down, of the longer side.
    """

    degrees: float
    x: float
    y: float


STILL = Transform(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class _Level:
    """The reference at one size, with what Gauss-Newton needs of it."""

    reference_hwc: Floats
    weight_hw1: Floats
    solve: Floats


class Reference(BaseModel):
    """What good parts look like in one frame, and how far they lie from it.

    Attributes:
        kind: shift: parts shift; rigid: they shift and turn.
        max_degrees: largest angle that is looked for.
        max_x: largest shift to the side that is looked for, of the longer side.
        max_y: largest shift up or down, likewise.
        min_quality: correlation with the reference below which an image counts as not aligned.
        shape: height and width of the reference.
        pixels: float16 (height, width, 2), brightness and edges, in base64.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    max_degrees: float
    max_x: float
    max_y: float
    min_quality: float
    shape: tuple[int, int]
    pixels: str

    def locate(self, image: NDArray[np.uint8]) -> tuple[Transform, float]:
        """Where the part lies in an image (H, W) or (H, W, 3) RGB, and how well it matches, in [-1, 1]."""
        return self.locate_look(look_at(image, self.shape))

    def locate_look(self, look_hwc: Floats) -> tuple[Transform, float]:
        """`locate` of an image that was looked at, see `look_at`."""
        coarse, fine = self._levels
        height, width = coarse.reference_hwc.shape[:2]
        small_hwc = np.asarray(cv2.resize(look_hwc, (width, height), interpolation=cv2.INTER_AREA), np.float32)
        tried = sorted((_refine(coarse, small_hwc, start, 6) for start in self._search(small_hwc)), key=lambda t: -t[1])
        close = [found for found, quality in tried[:3] if quality > tried[0][1] - 0.1]
        apart = [
            t for at, t in enumerate(close) if all(abs(_wrap(t.degrees - u.degrees)) > 2 * STEP for u in close[:at])
        ]
        found, quality = max((_refine(fine, look_hwc, start, 12) for start in apart), key=lambda t: t[1])
        return found._replace(degrees=_wrap(found.degrees)), quality

    def _search(self, look_hwc: Floats) -> list[Transform]:
        """The best transforms of a correlation over all angles and shifts, best first."""
        angles, spectra = self._turned
        size = spectra.shape[2]
        grey, edges = np.fft.rfft2(np.moveaxis(look_hwc, -1, 0), s=(size, size))
        surface = np.fft.irfft2(grey * spectra[0] + edges * spectra[1], s=(size, size))
        reach_x, reach_y = (max(1, int(shift * COARSE_PX)) for shift in (self.max_x, self.max_y))
        rows, columns = np.arange(-reach_y, reach_y + 1), np.arange(-reach_x, reach_x + 1)
        surface = surface[:, rows[:, None], columns[None]].reshape(len(angles), -1)
        best, where = surface.max(1), surface.argmax(1)
        before, after = np.roll(best, 1), np.roll(best, -1)
        if self.max_degrees < 180:
            before[0] = after[-1] = -np.inf
        peaks = (best >= before) & (best >= after)
        order = [at for at in np.argsort(-best, kind="stable") if peaks[at]][:CANDIDATES]
        dy, dx = np.divmod(where, len(columns))
        return [
            Transform(float(angles[at]), float(dx[at] - reach_x) / COARSE_PX, float(dy[at] - reach_y) / COARSE_PX)
            for at in order
        ]

    def fault(self, transform: Transform, quality: float) -> str | None:
        """What is unusual about how a part lies, None if nothing is."""
        if quality < self.min_quality:
            return (
                f"matches the frame of good parts by {quality:.2f}, usual is {self.min_quality:.2f} or more: another "
                "part, one that lies elsewhere, or none"
            )
        if abs(transform.x) > self.max_x or abs(transform.y) > self.max_y or abs(transform.degrees) > self.max_degrees:
            return (
                f"lies {transform.degrees:.0f} degrees and {transform.x:.1%}, {transform.y:.1%} of the longer side off "
                f"the frame of good parts, usual is at most {self.max_degrees:.0f} degrees and {self.max_x:.1%}, "
                f"{self.max_y:.1%}"
            )
        return None

    @cached_property
    def _levels(self) -> tuple[_Level, _Level]:
        data = np.frombuffer(base64.b64decode(self.pixels), np.float16).astype(np.float32)
        fine_hwc = data.reshape(*self.shape, 2)
        height, width = (max(4, round(side * COARSE_PX / FINE_PX)) for side in self.shape)
        coarse_hwc = np.asarray(cv2.resize(fine_hwc, (width, height), interpolation=cv2.INTER_AREA), np.float32)
        return _level(coarse_hwc, self.kind), _level(fine_hwc, self.kind)

    @cached_property
    def _turned(self) -> tuple[NDArray[np.float64], NDArray[np.complex64]]:
        """The angles that are searched, and spectra of the reference turned by them, (2, angles, ...)."""
        angles = np.zeros(1)
        if self.kind == "rigid" and self.max_degrees >= 180:
            angles = np.arange(0, 360, STEP)
        elif self.kind == "rigid":
            angles = np.linspace(-self.max_degrees, self.max_degrees, 2 * math.ceil(self.max_degrees / STEP) + 1)
        coarse = self._levels[0]
        weighted_hwc = coarse.reference_hwc * coarse.weight_hw1
        height, width = weighted_hwc.shape[:2]
        size = cv2.getOptimalDFTSize(round(COARSE_PX * (1 + max(self.max_x, self.max_y))))
        turned = np.zeros((len(angles), size, size, 2), np.float32)
        for at, angle in enumerate(angles):
            matrix = _matrix(Transform(float(angle), 0, 0), (height, width))
            turned[at, :height, :width] = cv2.warpAffine(weighted_hwc, matrix, (width, height))
        return angles, np.conj(np.fft.rfft2(np.moveaxis(turned, -1, 0))).astype(np.complex64)

    def always_inside(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Which pixels (H, W) of the frame all good images show: none that is mirrored border in one of them."""
        x_seen, y_seen = ((shift - SLACK) / GROWTH for shift in (self.max_x, self.max_y))
        inside = np.ones(shape, bool)
        turns = np.linspace(-self.max_degrees, self.max_degrees, 25) if self.kind == "rigid" else (0.0,)
        for degrees in turns:
            for x, y in product((-x_seen, x_seen), (-y_seen, y_seen)):
                matrix = _matrix(Transform(float(degrees), x, y), shape)
                flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
                inside &= cv2.warpAffine(np.ones(shape, np.uint8), matrix, shape[::-1], flags=flags) > 0
        return inside


def into_frame(image: NDArray[Any], transform: Transform) -> NDArray[Any]:
    """Bring an image of any resolution into the frame of the reference; what is not in it is mirrored."""
    if transform == STILL:
        return image
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (image.shape[1], image.shape[0])
    return cv2.warpAffine(image, _matrix(transform, image.shape), size, flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def out_of_frame(map_hw: Floats, transform: Transform) -> Floats:
    """Bring a map over the frame back to where its places lie in the image; 0 where the frame saw nothing."""
    if transform == STILL:
        return map_hw
    size = (map_hw.shape[1], map_hw.shape[0])
    return np.asarray(cv2.warpAffine(map_hw, _matrix(transform, map_hw.shape), size), np.float32)


def reference_of(look_hwc: Floats, kind: Kind) -> Reference:
    """A reference that looks for anything that can be."""
    pixels = base64.b64encode(look_hwc.astype(np.float16).tobytes()).decode("ascii")
    shape = look_hwc.shape[0], look_hwc.shape[1]
    limits = {"max_degrees": 180, "max_x": MAX_SHIFT, "max_y": MAX_SHIFT, "min_quality": -1}
    return Reference(kind=kind, shape=shape, pixels=pixels, **limits)


def look_at(image: NDArray[np.uint8], shape: tuple[int, int]) -> Floats:
    """Brightness and edge strength of an image, (height, width, 2), each with mean 0 and deviation 1."""
    shrinks = image.shape[1] > shape[1]
    small = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY) if small.ndim == 3 else small
    grey = np.asarray(cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 1.0), np.float32)
    edges = np.sqrt(cv2.magnitude(cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1)))
    both = np.dstack([grey, cv2.GaussianBlur(edges, (0, 0), 1.0)])
    return np.asarray((both - both.mean((0, 1))) / (both.std((0, 1)) + 1e-6), np.float32)


def soft_ellipse(shape: Sequence[int]) -> Floats:
    """Weights (height, width, 1) that sum to 1 over a soft ellipse in the image."""
    rows, columns = np.linspace(-1, 1, shape[0])[:, None], np.linspace(-1, 1, shape[1])[None]
    weight = np.clip((1 - np.hypot(rows, columns)) / 0.15, 0, 1).astype(np.float32)[..., None]
    weighted: Floats = weight / weight.sum()
    return weighted


def normalised(look_hwc: Floats, weight_hw1: Floats) -> Floats:
    """Channels with weighted mean 0 and weighted variance 1."""
    share = weight_hw1.ravel()
    centred = look_hwc.reshape(-1, look_hwc.shape[2])
    centred = centred - share @ centred
    return np.asarray(centred / (np.sqrt(share @ np.square(centred)) + 1e-6), np.float32).reshape(look_hwc.shape)


def _level(look_hwc: Floats, kind: Kind) -> _Level:
    weight_hw1 = soft_ellipse(look_hwc.shape)
    reference_hwc = normalised(look_hwc, weight_hw1)
    gx, gy = np.gradient(reference_hwc, axis=1), np.gradient(reference_hwc, axis=0)
    height, width = reference_hwc.shape[:2]
    rows = np.arange(height)[:, None, None] - (height - 1) / 2
    columns = np.arange(width)[None, :, None] - (width - 1) / 2
    jacobian = np.stack([gy * columns - gx * rows, gx, gy] if kind == "rigid" else [gx, gy]).astype(np.float32)
    project = (jacobian * weight_hw1).reshape(len(jacobian), -1)
    hessian = project @ jacobian.reshape(len(jacobian), -1).T
    hessian += np.eye(len(hessian)) * (1e-4 * np.trace(hessian) / len(hessian) + 1e-9)
    return _Level(reference_hwc, weight_hw1, (np.linalg.inv(hessian) @ project).astype(np.float32))


def _refine(level: _Level, look_hwc: Floats, start: Transform, rounds: int) -> tuple[Transform, float]:
    """A transform improved by Gauss-Newton steps, and its correlation."""
    side = max(level.reference_hwc.shape[:2])
    weighted = level.reference_hwc * level.weight_hw1
    best, quality, here = start, -1.0, start
    for _ in range(rounds + 1):
        seen = normalised(np.asarray(into_frame(look_hwc, here), np.float32), level.weight_hw1)
        found = float(np.vdot(seen, weighted)) / seen.shape[2]
        if found > quality:
            best, quality = here, found
        step = level.solve @ (seen - level.reference_hwc).ravel()
        turn, dx, dy = (0.0, *step) if len(step) == 2 else step
        if abs(turn) * side / 2 < 0.02 and math.hypot(dx, dy) < 0.02:
            break
        angle = math.radians(here.degrees) - turn
        cos, sin = math.cos(angle), math.sin(angle)
        here = Transform(
            math.degrees(angle),
            float(here.x - (cos * dx - sin * dy) / side),
            float(here.y - (sin * dx + cos * dy) / side),
        )
    return best, quality


def _matrix(transform: Transform, shape: Sequence[int]) -> NDArray[np.float64]:
    """The 2 x 3 matrix that takes a point of the reference to its place in an image of this size."""
    height, width = shape[:2]
    angle, side = math.radians(transform.degrees), max(height, width)
    cos, sin, cx, cy = math.cos(angle), math.sin(angle), (width - 1) / 2, (height - 1) / 2
    return np.array(
        [
            [cos, -sin, cx - cos * cx + sin * cy + transform.x * side],
            [sin, cos, cy - sin * cx - cos * cy + transform.y * side],
        ]
    )


def _wrap(degrees: float) -> float:
    return (degrees + 180) % 360 - 180
