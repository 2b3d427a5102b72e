"""From the bytes of an image file to pixels: PNG, JPEG, TIFF and BMP, 8 or 16 bit, grey or colour.

The header is read here before any pixel is decoded: its size decides whether the image may be decoded at all, and its
structure whether the file is whole. OpenCV decodes a JPEG whose tail was never written into a half-grey picture, and
such a picture must not be judged.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
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
_JPEG_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9), 0xFF}
_JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # C4, C8, CC are tables, the others hold the size
_JPEG_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}
_JPEG_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # FF 00 is a data byte, FF D0 to D7 restart inside a scan
_BMP = b"BM"
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")  # little and big endian, classic and BigTIFF
_TIFF_TYPES = {3: "u2", 4: "u4", 16: "u8"}  # SHORT, LONG, LONG8: the types of every tag that is read here
_TIFF_CHECKED = (1, 8, 32946)  # not compressed, deflated, deflated by older software
_TIFF_YCBCR = 6
_REDUCED = {  # by components and reduction
    1: {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 8: cv2.IMREAD_REDUCED_GRAYSCALE_8},
    3: {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8},
}

Reduction = Callable[[int, int], int]
"""How many times smaller than its width and height (pixels) an image may be decoded: 1, 2, 4 or 8."""


@dataclass(frozen=True)
class _Header:
    width_px: int
    height_px: int
    inverted: bool = False  # a TIFF in which 0 is white
    jpeg_components: int = 0


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
            file, some of its scans or pixels are missing), "too_large" (more than `max_pixels`, also in one tile),
            "unsupported" (neither 8 nor 16 bit, or a kind of TIFF that OpenCV reads wrongly).
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
    header = _read_header(data, max_pixels)
    _check_size(header.width_px, header.height_px, max_pixels)
    flags, times = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR, 1
    if header.jpeg_components in _REDUCED:
        sides = header.width_px, header.height_px
        times = min(reduction(*sides), reduction(*reversed(sides)))
        if sides[0] != sides[1] and -(-sides[0] // times) == -(-sides[1] // times):
            times = 1  # nearly square: afterwards nothing would tell whether the image was turned
        flags = _REDUCED[header.jpeg_components].get(times, flags)
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError("unreadable", f"OpenCV cannot decode the file: {error.err}") from None
    if decoded is None:  # OpenCV's stubs deny it
        raise ImageError(
            "unreadable",
            "the header is whole, but what follows is damaged or of a rare kind: save it as grey or RGB, 8 or 16 bits",
        )
    pixels = _as_rgb(np.asarray(decoded), header, times)
    full = header.height_px, header.width_px
    turned = pixels.shape[:2] != tuple(-(-side // times) for side in full)
    return pixels, full[::-1] if turned else full


def _read_header(data: bytes, max_pixels: int) -> _Header:
    if not data:
        raise ImageError("empty", "the file has 0 bytes")
    try:
        if data.startswith(_PNG):
            return _read_png(data)
        if data.startswith(_JPEG):
            return _read_jpeg(data)
        if data.startswith(_TIFF):
            return _read_tiff(data, max_pixels)
        if data.startswith(_BMP):
            return _read_bmp(data)
    except (struct.error, IndexError, OverflowError):  # the last: a 64-bit offset beyond any file
        raise ImageError(
            "truncated", f"the file ends in the middle of its structure, after {len(data)} bytes"
        ) from None
    raise ImageError("unreadable", f"not a PNG, JPEG, TIFF or BMP file: it starts with {bytes(data[:8])!r}")


def _read_png(data: bytes) -> _Header:
    """Walk the chunks to the end: OpenCV takes up to 4 GB for a chunk before it sees that the file is shorter."""
    width, height = struct.unpack_from(">II", data, 16)
    at, kinds = len(_PNG), set()
    while not data.startswith(_PNG_END, at):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind.endswith(b"\x00"):  # space that was reserved but never written
            raise _truncated(data, f"everything from byte {at}")
        if not kind.isalpha():
            raise ImageError("unreadable", f"no PNG chunk at byte {at}")
        kinds.add(kind)
        at += 12 + length
        if at >= len(data):
            raise _truncated(data, "its end")
    if b"IDAT" not in kinds:  # OpenCV would look for pixels behind the end, and take what it finds for a chunk
        raise ImageError("unreadable", "a PNG without pixels")
    return _Header(width, height)


def _read_jpeg(data: bytes) -> _Header:
    """The size, and whether all scans are there; thumbnails lie inside segments and are stepped over.

    A file whose scans end early decodes all the same, blurred or in wrong colours: every coefficient of every component
    must have been sent to its last bit.
    """
    header: _Header | None = None
    unsent: dict[int, bytearray] = {}  # by component: which bits of its 64 coefficients are still to come
    for marker, segment in _jpeg_segments(data):
        if marker in _JPEG_FRAMES:
            height, width, components = struct.unpack_from(">HHB", segment, 1)
            header = _Header(width, height, jpeg_components=components)
            bits = b"\x00" if marker in _JPEG_LOSSLESS else b"\xff"
            unsent = {segment[6 + 3 * n]: bytearray(bits * 64) for n in range(components)}
        elif marker == _JPEG_START_OF_SCAN:
            _note_scan(segment, unsent)
    if header is None:
        raise ImageError("unreadable", "a JPEG without a frame header")
    if any(any(bits) for bits in unsent.values()):
        raise _truncated(data, "a part of its scans")
    return header


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment up to the end marker, stepping over the scans' entropy-coded data."""
    at = 2
    while data[at : at + 2] != _JPEG_END:
        marker = data[at + 1]
        if data[at] != 0xFF or (marker < 0xC0 and marker != 0x01):
            raise ImageError("unreadable", f"no JPEG marker at byte {at}: the file is damaged")
        if marker in _JPEG_WITHOUT_LENGTH:
            at += 1 if marker == 0xFF else 2  # FF fills up
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        yield marker, data[at + 4 : at + 2 + length]
        at += 2 + length
        if marker == _JPEG_START_OF_SCAN:
            after = _JPEG_AFTER_SCAN.search(data, at)
            if after is None:
                raise _truncated(data, "its end-of-image marker")
            at = after.start()


def _note_scan(segment: bytes, unsent: dict[int, bytearray]) -> None:
    """Note which bits of which coefficients a JPEG scan brings (ITU T.81, B.2.3)."""
    n_components = segment[0]
    first, last, low_bit = struct.unpack_from("BBB", segment, 1 + 2 * n_components)
    for component in segment[1 : 1 + 2 * n_components : 2]:
        if component not in unsent or not first <= last < 64:
            continue  # lossless, or an error that the decoder finds
        unsent[component][first : last + 1] = bytes([low_bit & 15]) * (last + 1 - first)


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


def _read_tiff(data: bytes, max_pixels: int) -> _Header:
    """Read the first directory: the size, and whether all of its strips or tiles are whole."""
    tags = _tiff_tags(data)
    one = {tag: int(values[0]) for tag, values in tags.items()}
    if 256 not in one or 257 not in one:
        raise ImageError("unreadable", "a TIFF without width or height")
    width, height = one[256], one[257]
    _check_size(width, height, max_pixels)
    _check_tiff_kind(one)
    if {322, 323, 324} & one.keys():  # OpenCV holds a whole tile, which may be much larger than the image
        _check_size(one.get(322, 0), one.get(323, 0), max_pixels, "a tile of ")
    for offset_tag, count_tag in ((273, 279), (324, 325)):  # strips, tiles
        offsets, counts = tags.get(offset_tag), tags.get(count_tag)
        if offsets is None or counts is None or len(offsets) != len(counts):
            continue
        # as floats: two damaged 64-bit numbers must not wrap around to a small one
        if np.max(offsets.astype(np.float64) + counts) > len(data):
            raise _truncated(data, "a part of its pixels")
        view = memoryview(data)
        blocks = [view[at : at + count] for at, count in zip(offsets.tolist(), counts.tolist(), strict=True)]
        _check_blocks(blocks, one, tiled=offset_tag == 324)
    return _Header(width, height, inverted=one.get(262) == 0)


def _check_blocks(blocks: list[memoryview], one: Mapping[int, int], *, tiled: bool) -> None:
    """Check that strips or tiles hold their pixels, where that is cheap: OpenCV paints black what is missing."""
    compression, bits = one.get(259, 1), one.get(258, 1)
    if compression not in _TIFF_CHECKED or bits > 16 or one.get(262) == _TIFF_YCBCR:
        return
    height = one[257]
    width, rows = (one[322], one[323]) if tiled else (one[256], min(one.get(278, height), height))
    row_bytes = (width * bits * (1 if one.get(284, 1) == 2 else one.get(277, 1)) + 7) // 8
    if rows == 0 or len(blocks) * rows < height:
        raise ImageError("truncated", f"a TIFF with {len(blocks)} pieces of {rows} rows, but {height} rows of pixels")
    for number, block in enumerate(blocks):
        expected = row_bytes * (rows if tiled else min(rows, height - number * rows % (-(-height // rows) * rows)))
        if compression == 1 and len(block) < expected:
            raise ImageError("truncated", f"piece {number} of the TIFF has {len(block)} of {expected} bytes")
        if compression != 1 and _inflated_bytes(block, expected) < expected:
            raise ImageError("unreadable", f"piece {number} of the TIFF is damaged: transfer the file again")


def _inflated_bytes(block: bytes | memoryview, at_most: int) -> int:
    """How many bytes a deflated block holds; 0 if it is damaged."""
    unpacker, size = zlib.decompressobj(), 0
    try:
        while block and size <= at_most and not unpacker.eof:
            size += len(unpacker.decompress(block, 1 << 24))
            block = unpacker.unconsumed_tail
    except zlib.error:
        return 0
    return size + (len(unpacker.flush()) if size < at_most else 0)


def _check_tiff_kind(one: Mapping[int, int]) -> None:
    """Refuse what OpenCV reads without complaint, but wrongly or at any price."""
    bits, samples = one.get(258, 1), one.get(277, 1)
    photometric, planar = one.get(262), one.get(284, 1)
    if samples > 4:
        raise ImageError("unsupported", f"a TIFF of {samples} channels: save it as grey or RGB")
    if samples > 2 and photometric in (0, 1):
        raise ImageError("unsupported", f"a TIFF of {samples} channels that says it is grey: save it as grey or RGB")
    if samples > 1 and bits > 8 and planar == 2:
        raise ImageError("unsupported", f"a TIFF of {bits} bits in separate planes: save it with interleaved channels")


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


def _check_size(width_px: int, height_px: int, max_pixels: int, what: str = "") -> None:
    if width_px <= 0 or height_px <= 0:
        raise ImageError("unreadable", f"the header says {what}{width_px} x {height_px} px")
    if width_px * height_px > max_pixels:
        raise ImageError(
            "too_large",
            f"{what}{width_px} x {height_px} px: {width_px * height_px} pixels, at most {max_pixels} allowed",
        )


def _as_rgb(decoded: NDArray[Any], header: _Header, times: int) -> Pixels:
    """OpenCV's (H, W) or (H, W, 3 or 4) BGR array as grey or RGB; checks what the header could not promise."""
    if decoded.dtype not in (np.uint8, np.uint16):
        raise ImageError("unsupported", f"{decoded.dtype} pixels: save the image with 8 or 16 bits per channel")
    expected = [-(-side // times) for side in (header.height_px, header.width_px)]
    if sorted(decoded.shape[:2]) != sorted(expected):  # sorted: it may have been turned
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
