"""Is an image fit to be judged at all? An image that is not gets the verdict "unusable", never "ok"."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ganomaly.errors import ImageError
from ganomaly.images.formats.common import Pixels
from ganomaly.images.pixels import shrunk

MEASURED_SIDE_PX = 256
SATURATED = 0.98
_OF_THE_PART = (None, "overexposed", "blurred")
OF_ITS_KIND = 0.25
"""Share of a line's good images that fail a limit from which it is the limit that does not suit the line."""


@dataclass(frozen=True)
class QualityFigures:
    """What the gate measures, independent of bit depth and, but for the sides, of the camera's resolution.

    Attributes:
        width_px: width of the camera image.
        height_px: height of the camera image.
        brightness: 99th percentile of the grey value, [0, 1]: how bright the bright places are. (A dark part keeps some
            bright places; a frame without light has none.)
        contrast: standard deviation of the grey value, [0, 0.5].
        saturated_fraction: share of pixels at 98 % of white or more, [0, 1].
        sharpness: energy of fine detail divided by energy of coarser detail, from 0; below 0.1 when blurred.
        red: share of red in the mean colour, [0, 1]; a third where the image is grey. The gate does not look at it.
        blue: share of blue, likewise.
        centre_x: where the detail lies on average, from the left edge 0 to the right 1. The gate does not look at it.
        centre_y: the same from the upper edge to the lower.
    """

    width_px: int
    height_px: int
    brightness: float
    contrast: float
    saturated_fraction: float
    sharpness: float
    red: float = 1 / 3
    blue: float = 1 / 3
    centre_x: float = 0.5
    centre_y: float = 0.5


class QualityGate(BaseModel):
    """The figures an image must reach. The defaults refuse what is of no use on any line.

    Values of cameras that store 10 or 12 bits unshifted in 16-bit files use only the lowest 1/64 or 1/16 of the range:
    `min_brightness` and `min_contrast` must be lowered by that factor.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_side_px: int = Field(32, ge=1, description="shortest allowed side of the camera image")
    min_brightness: float = Field(
        0.06, ge=0, le=1, description="lowest allowed 99th percentile of the grey value; 0 switches the check off"
    )
    max_saturated_fraction: float = Field(
        0.75, ge=0, le=1, description="largest allowed share of pixels near white; 1 switches the check off"
    )
    min_contrast: float = Field(
        0.01, ge=0, le=0.5, description="lowest allowed deviation of the grey value; 0 switches the check off"
    )
    min_sharpness: float = Field(
        0.102,
        ge=0,
        description="lowest allowed ratio of fine to coarse detail; 0 for parts that are smooth by nature",
    )

    def measure(self, image: Pixels, full_size: tuple[int, int] | None = None) -> QualityFigures:
        """Measure an image, uint8 or uint16, (H, W) or (H, W, 3) RGB.

        Height and width of the camera image are given where it was decoded at a reduced size.

        Everything is measured on a copy of at most 256 px a side: exposure does not depend on the resolution, single
        pixels' noise should not count, and blur matters relative to the part, not to the camera's pixels.
        """
        height_px, width_px = full_size or image.shape[:2]
        if image.size == 0:
            return QualityFigures(width_px, height_px, 0.0, 0.0, 0.0, 0.0)
        small = shrunk(image, MEASURED_SIDE_PX)
        grey = small if small.ndim == 2 else cast("Pixels", cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
        red, blue = _colour(small)
        white = np.iinfo(image.dtype).max
        unit = np.multiply(grey, np.float32(1 / white), dtype=np.float32)
        sharpness, detail = _sharpness(unit, step=1 / white)
        centre_x, centre_y = _centre(detail)
        return QualityFigures(
            width_px=width_px,
            height_px=height_px,
            brightness=_percentile_99(grey, white),
            contrast=math.sqrt(_variance(unit)),
            saturated_fraction=float(np.count_nonzero(unit >= SATURATED) / unit.size),
            sharpness=sharpness,
            red=red,
            blue=blue,
            centre_x=centre_x,
            centre_y=centre_y,
        )

    def judge(self, figures: QualityFigures) -> ImageError | None:
        """The first fault of an image with these figures; None if it is fit to judge.

        Reasons are "too_small", "underexposed", "overexposed", "blank" and "blurred".
        """
        side_px = min(figures.width_px, figures.height_px)
        if side_px < self.min_side_px:
            return ImageError("too_small", f"the shorter side has {side_px} px, at least {self.min_side_px} px needed")
        if figures.brightness < self.min_brightness:
            return ImageError(
                "underexposed", f"brightness {figures.brightness:.3f}, at least {self.min_brightness:g} needed"
            )
        if figures.saturated_fraction > self.max_saturated_fraction:
            return ImageError(
                "overexposed",
                f"{figures.saturated_fraction:.1%} of the pixels are near white, at most "
                f"{self.max_saturated_fraction:.1%} allowed",
            )
        if figures.contrast < self.min_contrast:
            return ImageError("blank", f"contrast {figures.contrast:.4f}, at least {self.min_contrast:g} needed")
        if figures.sharpness < self.min_sharpness:
            return ImageError("blurred", f"sharpness {figures.sharpness:.3f}, at least {self.min_sharpness:g} needed")
        return None

    def fitted_to(self, figures: Sequence[QualityFigures]) -> Self:
        """The gate for a line whose good parts are smooth, or stand before white, beyond what the defaults allow.

        A default that more than a quarter of the good images fail moves to half way between the middle one of them and
        the end of the scale. A limit that somebody stated stays, and so do those of light and contrast: an image
        without them shows nothing on any line, and says nothing of the other limits.

        Args:
            figures: of images of good parts.
        """
        gate = self
        saturated_n = np.array([one.saturated_fraction for one in figures if self._fault_of(one) in _OF_THE_PART])
        if "max_saturated_fraction" not in self.model_fields_set and _many(saturated_n > gate.max_saturated_fraction):
            middle = round((1 + float(np.median(saturated_n))) / 2, 4)
            gate = gate.model_copy(update={"max_saturated_fraction": max(gate.max_saturated_fraction, middle)})
        sharpness_n = np.array([one.sharpness for one in figures if gate._fault_of(one) in (None, "blurred")])
        if "min_sharpness" not in self.model_fields_set and _many(sharpness_n < gate.min_sharpness):
            middle = round(float(np.median(sharpness_n)) / 2, 4)
            gate = gate.model_copy(update={"min_sharpness": min(gate.min_sharpness, middle)})
        return gate

    def moved_from(self, before: "QualityGate") -> list[str]:
        """The limits that are not those of another gate, each in words for people."""
        limits = self.model_dump()
        return [
            f"quality.{name} = {limits[name]:g}: good parts of this line call for it, not for {limit:g}"
            for name, limit in before.model_dump().items()
            if limit != limits[name]
        ]

    def _fault_of(self, figures: QualityFigures) -> str | None:
        fault = self.judge(figures)
        return None if fault is None else fault.reason


def _many(failed_n: NDArray[np.bool_]) -> bool:
    return failed_n.size > 0 and float(failed_n.mean()) > OF_ITS_KIND


def _colour(image: Pixels) -> tuple[float, float]:
    """Shares of red and blue in the mean colour."""
    if image.ndim == 2:
        return 1 / 3, 1 / 3
    red, green, blue, _ = cv2.mean(image)
    total = red + green + blue
    return (round(red / total, 6), round(blue / total, 6)) if total else (1 / 3, 1 / 3)


def _centre(detail: NDArray[np.float32]) -> tuple[float, float]:
    """Centre (x, y) of the energy of an image's detail, as fractions of its width and height."""
    energy = np.square(detail)
    columns, rows = energy.sum(axis=0, dtype=np.float64), energy.sum(axis=1, dtype=np.float64)
    total = float(columns.sum())
    if total == 0:
        return 0.5, 0.5
    x, y = ((np.arange(len(sums)) + 0.5) @ sums / (len(sums) * total) for sums in (columns, rows))
    return float(x), float(y)


def _percentile_99(grey: Pixels, white: int) -> float:
    histogram = cv2.calcHist([grey], [0], None, [white + 1], [0, white + 1]).ravel()
    return float(np.searchsorted(np.cumsum(histogram), 0.99 * grey.size) / white)


def _sharpness(unit: NDArray[np.float32], step: float) -> tuple[float, NDArray[np.float32]]:
    """The figure, and the detail (H / 2, W / 2) that it was measured on.

    Energy between blurs of 0 and 0.8 px over energy between blurs of 0.8 and 2 px, on an image of half the size.

    A blur takes energy from the fine band first, so that the ratio falls whatever the contrast and the motif. Halving
    the image first keeps the sensor's noise, which is finest of all, from passing as sharpness; so does the share of
    a grey step in the denominator where an image is so dark and blurred that rounding is all that both bands hold.
    """
    half = cv2.pyrDown(unit)
    fine = cv2.GaussianBlur(half, (0, 0), 0.8)
    coarse = cv2.GaussianBlur(half, (0, 0), 2)
    detail = fine - coarse
    return _variance(half - fine) / (_variance(detail) + 0.3 * step**2), detail


def _variance(band: NDArray[Any]) -> float:
    _, deviation = cv2.meanStdDev(band)
    return float(deviation[0, 0]) ** 2
