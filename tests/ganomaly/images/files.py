"""Image files of one small picture in every kind that is read: what the tests damage and bend."""

import io
import struct
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import tifffile
from PIL import Image

HEIGHT, WIDTH = 120, 168
_ROWS, _COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH]
_NOISE = np.random.default_rng(0).normal(0, 6, (HEIGHT, WIDTH))
GREY = np.clip(120 + 60 * np.sin(_ROWS / 9) + 50 * np.cos(_COLUMNS / 13) + _NOISE, 0, 255).astype(np.uint8)
RGB = np.dstack([GREY, GREY[::-1], 255 - GREY[:, ::-1]])
GREY_16 = GREY.astype(np.uint16) * 257 + 3
RGB_16 = RGB.astype(np.uint16) * 257


def opencv(extension: str, pixels: np.ndarray, *parameters: int) -> bytes:
    """A file as OpenCV writes it."""
    bgr = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    return cv2.imencode(extension, bgr, parameters)[1].tobytes()


def pillow(kind: str, pixels: np.ndarray, **settings: object) -> bytes:
    """A file as Pillow writes it."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **settings)
    return out.getvalue()


def tiff(compression: str, pixels: np.ndarray = GREY, **tags: int) -> bytes:
    """A TIFF in strips of 32 rows, or with `tile` in tiles of so many pixels."""
    out, side = io.BytesIO(), tags.pop("tile", 0)
    layout = {"tile": (side, side)} if side else {"rowsperstrip": 32}
    photometric = "rgb" if pixels.ndim == 3 else "minisblack"
    tifffile.imwrite(out, pixels, compression=compression or None, photometric=photometric, **layout, **tags)
    return out.getvalue()


def jpeg(pixels: np.ndarray = GREY, *, progressive: int = 0, restarts: int = 0) -> bytes:
    """A JPEG file."""
    options = (cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    return opencv(".jpg", pixels, *options, cv2.IMWRITE_JPEG_RST_INTERVAL, restarts)


def bmp(
    pixels: np.ndarray,
    *,
    header: int = 40,
    bits: int = 24,
    masks: Sequence[int] = (),
    said: int | None = None,
    padded: bool = True,
) -> bytes:
    """A bitmap with any header.

    Args:
        pixels: RGB (H, W, 3) for 24 and 32 bits and masks, otherwise palette indices (H, W).
        header: its length, bytes; 12 is OS/2's.
        bits: of a pixel.
        masks: of red, green and blue, for 16 and 32 bits.
        said: where the file says that the pixels begin; default where they do.
        padded: whether the last row is filled up to a multiple of four bytes.
    """
    height, width = pixels.shape[:2]
    if masks:
        scales = [(mask >> ((mask & -mask).bit_length() - 1), (mask & -mask).bit_length() - 1) for mask in masks]
        values = sum((pixels[..., n].astype(np.int64) * top // 255) << shift for n, (top, shift) in enumerate(scales))
        rows = [row.astype(f"<u{bits // 8}").tobytes() for row in np.asarray(values)]
    elif bits == 24:
        rows = [row[:, ::-1].tobytes() for row in pixels]
    else:
        spread = np.unpackbits(pixels[..., None], axis=2)[..., -bits:].reshape(height, -1)
        rows = [np.packbits(row).tobytes() for row in spread]
    side = (width * bits + 31) // 32 * 4
    body = b"".join(row.ljust(side, b"\x00") for row in rows[::-1])
    body = body if padded else body[: side * (height - 1) + len(rows[0])]
    grey = range(1 << bits) if bits <= 8 else ()
    palette = b"".join(bytes([n * 255 // ((1 << bits) - 1)] * 3) + b"\x00" * (header != 12) for n in grey)
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        compression = 3 if masks else 0
        info = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, compression, len(body), 0, 0, 0, 0)
        info += struct.pack("<III", *masks) if masks else b""
        info = info.ljust(header, b"\x00") if header > 40 else info
    begin = 14 + len(info) + len(palette)
    return (
        struct.pack("<2sIHHI", b"BM", begin + len(body), 0, 0, begin if said is None else said) + info + palette + body
    )


def palette_png() -> bytes:
    """A PNG of 256 colours."""
    out = io.BytesIO()
    Image.fromarray(RGB).quantize(256).save(out, "PNG")
    return out.getvalue()


PROVEN: Mapping[str, bytes] = {
    "PNG grey": opencv(".png", GREY),
    "PNG RGB": opencv(".png", RGB),
    "PNG 16 bit": opencv(".png", GREY_16),
    "PNG palette": palette_png(),
    "TIFF deflate": tiff("zlib"),
    "TIFF deflate, tiles": tiff("zlib", RGB, tile=64),
    "TIFF deflate, 16 bit": tiff("zlib", GREY_16),
    "TIFF deflate, predictor": tiff("zlib", RGB, predictor=2),
}
"""Kinds with a checksum over every pixel: whatever is damaged there is refused, or changes nothing."""
COUNTED: Mapping[str, bytes] = {
    "JPEG": jpeg(),
    "JPEG RGB": jpeg(RGB),
    "JPEG progressive": jpeg(RGB, progressive=1),
    "JPEG restarts": jpeg(RGB, restarts=4),
    "TIFF": tiff(""),
    "TIFF tiles": tiff("", RGB, tile=64),
    "TIFF LZW": tiff("lzw"),
    "TIFF LZW, predictor": tiff("lzw", RGB_16, predictor=2),
    "TIFF PackBits": tiff("packbits"),
    "TIFF JPEG": pillow("TIFF", RGB, compression="jpeg"),
    "BMP 24": bmp(RGB),
    "BMP 8": bmp(GREY, bits=8),
}
"""Kinds that count their pixels and no more: whatever is missing is refused, but not every changed byte can be seen."""
