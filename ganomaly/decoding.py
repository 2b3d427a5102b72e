"""From the bytes of an image file to pixels: PNG, JPEG, TIFF and BMP, 8 or 16 bit, grey or colour.

The header is read here before any pixel is decoded: its size decides whether the image may be decoded at all, and its
structure whether the file is whole. OpenCV decodes a JPEG whose tail was never written into a half-grey picture, and
such a picture must not be judged.
"""

import struct
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from ganomaly.errors import ImageError

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
"""Decoded pixels, (H, W) grey or (H, W, 3) RGB."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_JPEG = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_JPEG_START_OF_SCAN = 0xDA
_JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # C4, C8, CC are tables, the others hold the size
_BMP = b"BM"
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")  # little and big endian, classic and BigTIFF
_TIFF_TYPES = {3: "u2", 4: "u4", 16: "u8"}  # SHORT, LONG, LONG8: the types of every tag that is read here


@dataclass(frozen=True)
class _Header:
    width_px: int
    height_px: int
    inverted: bool = False  # a TIFF in which 0 is white


def decode_image(data: bytes, *, max_pixels: int = 100_000_000) -> Pixels:
    """Decode one PNG, JPEG, TIFF or BMP file.

    Palettes and 1-bit images become 8 bit (a palette becomes RGB), 10 to 14 packed bits are stretched to 16. Alpha is
    dropped (only that of an 8-bit TIFF OpenCV blends with black). Of a file with several pages or frames the first is
    the image. The orientation tag is honoured: pixels stand as every viewer shows them, so that a region of interest
    measured in a viewer, the heat map and the report agree. Floating point and signed pixels are refused: they have no
    white that they could be scaled by.

    OpenCV may write a line about a broken file to stderr; an application that minds calls
    `cv2.utils.logging.setLogLevel(0)`.

    Args:
        data: the whole file.
        max_pixels: refuse images with more pixels (width times height), before memory is spent on them.

    Returns:
        uint8 or uint16 array, (H, W) grey or (H, W, 3) RGB, full range of its type.

    Raises:
        ImageError: "empty" (no bytes), "unreadable" (no such format, or broken inside), "truncated" (the end of the
            file is missing), "too_large" (more than `max_pixels`), "unsupported" (neither 8 nor 16 bit).
    """
    header = _read_header(data)
    _check_size(header.width_px, header.height_px, max_pixels)
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    except cv2.error as error:
        raise ImageError("unreadable", f"OpenCV cannot decode the file: {error.err}") from None
    if decoded is None:  # OpenCV's stubs deny it
        raise ImageError("unreadable", "the header is whole, but what follows cannot be decoded: write the file again")
    return _as_rgb(np.asarray(decoded), header)


def _read_header(data: bytes) -> _Header:
    if not data:
        raise ImageError("empty", "the file has 0 bytes")
    try:
        if data.startswith(_PNG):
            return _read_png(data)
        if data.startswith(_JPEG):
            return _read_jpeg(data)
        if data.startswith(_TIFF):
            return _read_tiff(data)
        if data.startswith(_BMP):
            return _read_bmp(data)
    except (struct.error, IndexError):
        raise ImageError(
            "truncated", f"the file ends in the middle of its structure, after {len(data)} bytes"
        ) from None
    raise ImageError("unreadable", f"not a PNG, JPEG, TIFF or BMP file: it starts with {bytes(data[:8])!r}")


def _read_png(data: bytes) -> _Header:
    """Walk the chunks to the end: OpenCV takes up to 4 GB for a chunk before it sees that the file is shorter."""
    width, height = struct.unpack_from(">II", data, 16)
    at = len(_PNG)
    while not data.startswith(_PNG_END, at):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind.endswith(b"\x00"):  # space that was reserved but never written
            raise _truncated(data, f"everything from byte {at}")
        if not kind.isalpha():
            raise ImageError("unreadable", f"no PNG chunk at byte {at}")
        at += 12 + length
        if at >= len(data):
            raise _truncated(data, "its end")
    return _Header(width, height)


def _read_jpeg(data: bytes) -> _Header:
    """Walk the segments up to the first scan; thumbnails lie inside segments and are stepped over."""
    header = None
    at = 2
    while True:
        if data[at] != 0xFF:
            raise ImageError("unreadable", f"no JPEG marker at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _JPEG_WITHOUT_LENGTH:
            at += 2
        elif marker == _JPEG_START_OF_SCAN:
            break
        else:
            (length,) = struct.unpack_from(">H", data, at + 2)
            if marker in _JPEG_FRAMES:
                height, width = struct.unpack_from(">HH", data, at + 5)
                header = _Header(width, height)
            at += 2 + length
    if header is None:
        raise ImageError("unreadable", "a JPEG without a frame header")
    if data.rfind(_JPEG_END, at) < 0:
        raise _truncated(data, "its end-of-image marker")
    return header


def _read_bmp(data: bytes) -> _Header:
    pixels_at, header_size = struct.unpack_from("<II", data, 10)
    if header_size == 12:  # OS/2
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)  # negative: stored from the top
    row_bytes = (width * bits + 31) // 32 * 4
    if compression == 0 and pixels_at + row_bytes * height > len(data):
        raise _truncated(data, f"{pixels_at + row_bytes * height - len(data)} bytes of pixels")
    return _Header(width, height)


def _read_tiff(data: bytes) -> _Header:
    """Read the first directory: the size, and whether all of its strips or tiles lie inside the file."""
    tags = _tiff_tags(data)
    one = {tag: int(values[0]) for tag, values in tags.items()}
    if 256 not in one or 257 not in one:
        raise ImageError("unreadable", "a TIFF without width or height")
    for offset_tag, count_tag in ((273, 279), (324, 325)):  # strips, tiles
        offsets, counts = tags.get(offset_tag), tags.get(count_tag)
        if offsets is None or counts is None or len(offsets) != len(counts):
            continue
        # as floats: two damaged 64-bit numbers must not wrap around to a small one
        if np.max(offsets.astype(np.float64) + counts) > len(data):
            raise _truncated(data, "a part of its pixels")
    return _Header(one[256], one[257], inverted=one.get(262) == 0)


def _tiff_tags(data: bytes) -> dict[int, NDArray[np.unsignedinteger[Any]]]:
    """Values of the unsigned integer tags in the first directory of a classic TIFF or a BigTIFF."""
    order = "<" if data[:1] == b"I" else ">"
    big = 43 in data[2:4]
    count_format, entry_format, value_bytes = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
    (directory_at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (n_entries,) = struct.unpack_from(order + count_format, data, directory_at)
    entry_bytes = struct.calcsize(order + entry_format) + value_bytes
    entries_at = directory_at + struct.calcsize(order + count_format)
    if entries_at + n_entries * entry_bytes > len(data):
        raise _truncated(data, "a part of its directory")
    tags = {}
    for entry_at in range(entries_at, entries_at + n_entries * entry_bytes, entry_bytes):
        tag, kind, count = struct.unpack_from(order + entry_format, data, entry_at)
        if kind not in _TIFF_TYPES or count == 0:
            continue
        dtype = np.dtype(order + _TIFF_TYPES[kind])
        values_at = entry_at + entry_bytes - value_bytes
        if count * dtype.itemsize > value_bytes:
            (values_at,) = struct.unpack_from(order + ("Q" if big else "I"), data, values_at)
        if values_at + count * dtype.itemsize > len(data):
            raise _truncated(data, f"the values of tag {tag}")
        tags[tag] = np.frombuffer(data, dtype, count, values_at)
    return tags


def _truncated(data: bytes, missing: str) -> ImageError:
    return ImageError("truncated", f"the file has {len(data)} bytes and lacks {missing}: transfer it again")


def _check_size(width_px: int, height_px: int, max_pixels: int) -> None:
    if width_px <= 0 or height_px <= 0:
        raise ImageError("unreadable", f"the header says {width_px} x {height_px} px")
    if width_px * height_px > max_pixels:
        raise ImageError(
            "too_large", f"{width_px} x {height_px} px are {width_px * height_px} pixels, at most {max_pixels} allowed"
        )


def _as_rgb(decoded: NDArray[Any], header: _Header) -> Pixels:
    """OpenCV's (H, W) or (H, W, 3 or 4) BGR array as grey or RGB; checks what the header could not promise."""
    if decoded.dtype not in (np.uint8, np.uint16):
        raise ImageError("unsupported", f"{decoded.dtype} pixels: save the image with 8 or 16 bits per channel")
    if sorted(decoded.shape[:2]) != sorted((header.height_px, header.width_px)):  # sorted: it may have been turned
        raise ImageError(
            "unreadable",
            f"the header says {header.width_px} x {header.height_px} px, "
            f"the pixels are {decoded.shape[1]} x {decoded.shape[0]}",
        )
    if header.inverted and decoded.dtype == np.uint16:  # OpenCV inverts 8 bits itself
        decoded = ~decoded
    if decoded.ndim == 2:
        return decoded
    if decoded.shape[2] not in (3, 4):
        raise ImageError("unsupported", f"{decoded.shape[2]} channels: save the image as grey or RGB")
    rgb = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB if decoded.shape[2] == 3 else cv2.COLOR_BGRA2RGB)
    return cast("Pixels", rgb)
