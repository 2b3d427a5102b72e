"""What the kinds of image files have in common."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganomaly.errors import ImageError

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
"""Decoded pixels, (H, W) grey or (H, W, 3) RGB."""
Reduction = Callable[[int, int], int]
"""How many times smaller than its width and height (pixels) an image may be decoded: 1, 2, 4 or 8."""
_ORIENTATION = 0x112


@dataclass(frozen=True)
class Stored:
    """An image as it stands in its file.

    Attributes:
        pixels: (H, W) grey or (H, W, C), C >= 3: RGB and channels to leave out; uint8 or uint16.
        full_size: height and width without reduction.
        turn: how a viewer turns it, 1 to 8 as EXIF has it; 1 is not at all.
    """

    pixels: NDArray[Any]
    full_size: tuple[int, int]
    turn: int = 1


def truncated(data: bytes, missing: str) -> ImageError:
    """The error for a file that lacks something."""
    return ImageError("truncated", f"the file has {len(data)} bytes and lacks {missing}: transfer it again")


def check_size(width_px: int, height_px: int, max_pixels: int, what: str = "") -> None:
    """Refuse an image before memory is spent on it.

    Raises:
        ImageError: "unreadable" (no pixels at all) or "too_large".
    """
    if width_px <= 0 or height_px <= 0:
        raise ImageError("unreadable", f"the header says {what}{width_px} x {height_px} px")
    if width_px * height_px > max_pixels:
        raise ImageError(
            "too_large",
            f"{what}{width_px} x {height_px} px: {width_px * height_px} pixels, at most {max_pixels} allowed, lest a "
            "damaged header takes the machine's memory; recipe.max_megapixels sets it",
        )


def exif_turn(exif: bytes) -> int:
    """The orientation in an EXIF directory; 1 where there is none, or it is broken."""
    try:
        order = "<" if exif[:2] == b"II" else ">"
        (at,) = struct.unpack_from(order + "I", exif, 4)
        (n_entries,) = struct.unpack_from(order + "H", exif, at)
        for number in range(n_entries):
            tag, _, _, value = struct.unpack_from(order + "HHIH", exif, at + 2 + 12 * number)
            if tag == _ORIENTATION:
                return int(value)
    except struct.error:
        pass
    return 1


def rgb_of_cmyk(inks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Light (H, W, 3) that inks (H, W, 4) leave, 255 all of each: what programs show that know no colour profile."""
    light = 255 - inks.astype(np.uint16)
    rgb: NDArray[np.uint8] = ((light[..., :3] * light[..., 3:] + 127) // 255).astype(np.uint8)
    return rgb
