"""From the bytes of an image file to pixels: PNG, JPEG, TIFF and BMP, 8 or 16 bit, grey or colour.

Two rules decide every case. What cannot be decoded whole is an error with its reason, as far as the format can prove it
(docs/images.md). What a camera's maker meant, and every viewer shows, is decoded.
"""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganomaly.errors import ImageError
from ganomaly.images.formats import bmp, jpeg, png, tiff
from ganomaly.images.formats.common import Pixels, Reduction, Stored

_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
_ON_ITS_SIDE = (5, 6, 7, 8)


def decode_image(data: bytes, *, max_pixels: int = 100_000_000) -> Pixels:
    """Decode one PNG, JPEG, TIFF or BMP file.

    Palettes and 1-bit images become 8 bit (a palette becomes RGB), 9 to 15 packed bits are shifted up to 16. Alpha is
    dropped; CMYK becomes RGB without a colour profile. Previews and masks in a TIFF are passed over. The orientation
    tag is honoured: pixels stand as every viewer shows them, so that a region of interest measured in a viewer, the
    heat map and the report agree. Floating point and signed pixels are refused: they have no white that they could be
    scaled by.

    Args:
        data: the whole file.
        max_pixels: refuse images with more pixels (width times height), before memory is spent on them.

    Returns:
        uint8 or uint16 array, (H, W) grey or (H, W, 3) RGB, full range of its type.

    Raises:
        ImageError: "empty" (no bytes), "unreadable" (no such format, or broken inside), "truncated" (the end of the
            file, some of its scans or pixels are missing), "too_large" (more than `max_pixels`, also in one tile),
            "unsupported" (a kind that is not read, or several images in one file).
    """
    return decode_reduced(data, lambda _width_px, _height_px: 1, max_pixels=max_pixels)[0]


def decode_reduced(
    data: bytes, reduction: Reduction, *, max_pixels: int = 100_000_000
) -> tuple[Pixels, tuple[int, int]]:
    """`decode_image`, but a JPEG only as large as needed: its blocks are decoded to fewer pixels, which is much faster.

    Args:
        data: the whole file.
        reduction: how many times smaller it may be; an image that is stored turned is asked about both ways.
        max_pixels: as for `decode_image`, of the file's own size.

    Returns:
        The pixels, and height and width that they would have without reduction.

    Raises:
        ImageError: as `decode_image`.
    """
    try:
        stored = _read(data, reduction, max_pixels)
    except (struct.error, IndexError, OverflowError):  # the last: a 64-bit offset beyond any file
        raise ImageError(
            "truncated", f"the file ends in the middle of its structure, after {len(data)} bytes"
        ) from None
    pixels = stored.pixels
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError("unsupported", f"{pixels.dtype} pixels: save the image with 8 or 16 bits per channel")
    if pixels.ndim == 3:
        pixels = pixels[..., 0] if pixels.shape[2] < 3 else pixels[..., :3]
    if stored.turn in _TURNS:
        pixels = _TURNS[stored.turn](pixels)
    height, width = stored.full_size
    return np.ascontiguousarray(pixels), (width, height) if stored.turn in _ON_ITS_SIDE else (height, width)


def _read(data: bytes, reduction: Reduction, max_pixels: int) -> Stored:
    if not data:
        raise ImageError("empty", "the file has 0 bytes")
    if data.startswith(png.SIGNATURE):
        return png.read(data, max_pixels)
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.read(data, reduction, max_pixels)
    if data.startswith(tiff.SIGNATURES):
        return tiff.read(data, max_pixels)
    if data.startswith(bmp.SIGNATURE):
        return bmp.read(data, max_pixels)
    raise ImageError("unreadable", f"not a PNG, JPEG, TIFF or BMP file: it starts with {bytes(data[:8])!r}")
