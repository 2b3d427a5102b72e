"""The pixels of a camera image that are looked at: polygons and a mask image, the same for every image of a line.

What is ignored is filled before the networks see the image, evenly, with the mean of what is left of it: no pixel there
can move a score by a bit. A filled area has an outline, which is that of all normal images, too.
"""

import base64
import binascii
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ganomaly.errors import ImageError

Polygon = Annotated[tuple[tuple[float, float], ...], Field(min_length=3)]
"""Corners (x, y) in pixels of the camera image, from its upper left corner."""

STRIPE_PX = 6
"""Width of the stripes over what is ignored, in pixels of a picture of 300 px."""


class Areas(NamedTuple):
    """The area that is looked at: in one of `include` (all where there is none), not in `ignore`, white in `mask`.

    Attributes:
        include: polygons.
        ignore: polygons.
        mask: a PNG file in base64, of the size of the camera image; black is ignored. None for none.
    """

    include: tuple[Polygon, ...] = ()
    ignore: tuple[Polygon, ...] = ()
    mask: str | None = None

    def ignored(self, height_px: int, width_px: int) -> NDArray[np.bool_] | None:
        """The ignored pixels (H, W) of a camera image of this size; None where everything is looked at.

        Raises:
            ImageError: "other_size" if the mask has another size, "all_ignored" if nothing is left to look at.
        """
        return _ignored(self, height_px, width_px) if any(self) else None


@lru_cache(maxsize=16)
def _ignored(areas: Areas, height_px: int, width_px: int) -> NDArray[np.bool_]:
    ignored_hw = np.zeros((height_px, width_px), np.uint8)
    if areas.include:
        ignored_hw = 1 - _filled(areas.include, height_px, width_px)
    ignored_hw |= _filled(areas.ignore, height_px, width_px)
    if areas.mask is not None:
        looked_at_hw = read_mask(areas.mask)
        if looked_at_hw.shape != (height_px, width_px):
            raise ImageError(
                "other_size",
                f"{width_px} x {height_px} px, but the mask of ignored areas is for images of "
                f"{looked_at_hw.shape[1]} x {looked_at_hw.shape[0]} px",
            )
        ignored_hw |= ~looked_at_hw
    found = ignored_hw.astype(bool)
    refuse_nothing(found, "image")
    found.flags.writeable = False  # it is shared
    return found


def refuse_nothing(ignored_hw: NDArray[np.bool_], what: str) -> None:
    """See that something is left to look at.

    Raises:
        ImageError: "all_ignored".
    """
    if ignored_hw.all():
        height, width = ignored_hw.shape
        raise ImageError("all_ignored", f"nothing of the {what} of {width} x {height} px is looked at")


def _filled(polygons: tuple[Polygon, ...], height_px: int, width_px: int) -> NDArray[np.uint8]:
    filled_hw = np.zeros((height_px, width_px), np.uint8)
    for polygon in polygons:  # one by one: where two overlap, both count
        cv2.fillPoly(filled_hw, [np.rint(np.array(polygon)).astype(np.int32)], 1)
    return filled_hw


def read_mask(mask: str) -> NDArray[np.bool_]:
    """The pixels (H, W) of a mask image in base64 that are brighter than half of its brightest.

    Raises:
        ValueError: if it is no image.
    """
    try:
        data = np.frombuffer(base64.b64decode(mask, validate=True), np.uint8)
    except binascii.Error:
        data = np.empty(0, np.uint8)
    pixels: Any = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH) if data.size else None
    if pixels is None:
        raise ValueError("is no image that can mask: black is not looked at, PNG is best")
    return np.asarray(pixels > pixels.max() / 2)  # JPEG is not quite black beside an edge


def as_mask(data: bytes) -> str:
    """The bytes of a mask image, of any format, as a recipe keeps them.

    Raises:
        ValueError: if it is no image.
    """
    looked_at_hw = read_mask(base64.b64encode(data).decode("ascii"))
    _, png = cv2.imencode(".png", looked_at_hw.astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])
    return base64.b64encode(png.tobytes()).decode("ascii")


def fill(unit_hwc: NDArray[np.float32], ignored_hw: NDArray[np.bool_]) -> None:
    """Give the ignored pixels of an image (H, W) or (H, W, C) the mean of the others, in place."""
    unit_hwc[ignored_hw] = unit_hwc[~ignored_hw].mean(axis=0, dtype=np.float64)


def draw_ignored(picture: NDArray[np.uint8], ignored_hw: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """Lay grey stripes over what is ignored on a picture (H, W, 3) RGB of the camera image's size."""
    if ignored_hw is None:
        return picture
    height, width = ignored_hw.shape
    stripe = max(2, STRIPE_PX * max(height, width) // 300)
    diagonal = np.add.outer(np.arange(height), np.arange(width)) // stripe % 2
    drawn = picture.copy()
    for stripes, grey in ((diagonal == 0, 60), (diagonal == 1, 190)):
        at = ignored_hw & stripes
        drawn[at] = (0.4 * picture[at] + 0.6 * grey).astype(np.uint8)
    return drawn
