"""BMP, every header, palette and mask, plain or in runs. Read here: no library gets all of the headers right."""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganomaly.errors import ImageError
from ganomaly.images.formats.common import Stored, check_size, truncated

SIGNATURE = b"BM"
_FILE_HEADER = 14
_OS2 = 12
_HEADERS = (40, 52, 56, 64, 108, 124)
_PLAIN, _RUNS, _MASKS, _MASKS_WITH_ALPHA = 0, 1, 3, 6
_END_OF_ROW, _END, _SKIP = 0, 1, 2
_MASKS_OF_16 = (0x7C00, 0x3E0, 0x1F)
_MASKS_AT = 54


@dataclass(frozen=True)
class _Header:
    size: int
    width: int
    height: int
    bits: int
    compression: int
    colours: int
    from_top: bool

    @property
    def entry(self) -> int:
        """Bytes of a colour of the palette."""
        return 3 if self.size == _OS2 else 4

    @property
    def palette_at(self) -> int:
        """Where the palette begins: behind the header, and behind masks that are no part of it."""
        masks = {_MASKS: 12, _MASKS_WITH_ALPHA: 16}.get(self.compression, 0) if self.size == 40 else 0
        return _FILE_HEADER + self.size + masks

    @property
    def following(self) -> int:
        """Where what follows the palette begins."""
        return self.palette_at + self.colours * self.entry

    @property
    def row(self) -> int:
        """Bytes of a row, filled up to a multiple of four."""
        return (self.width * self.bits + 31) // 32 * 4


def read(data: bytes, max_pixels: int) -> Stored:
    """Decode a BMP of 1 to 32 bits; a palette of colours becomes RGB, one of greys grey. Alpha is left out."""
    header = _read_header(data)
    check_size(header.width, header.height, max_pixels)
    if header.compression == _RUNS and header.bits == 8:
        rows = _runs(data, header)
        return Stored(_by_palette(data, header, rows, header.following), (header.height, header.width))
    if header.compression not in (_PLAIN, _MASKS, _MASKS_WITH_ALPHA) or header.bits not in (1, 4, 8, 16, 24, 32):
        raise ImageError(
            "unsupported", f"a BMP of {header.bits} bits with compression {header.compression}: save it without"
        )
    if header.compression != _PLAIN and header.bits < 16:
        raise ImageError("unreadable", f"a BMP of {header.bits} bits with masks of colours")
    at, size = _place(data, header), header.row * header.height
    rows = np.frombuffer(data[at : at + size].ljust(size, b"\x00"), np.uint8).reshape(header.height, header.row)
    rows = rows if header.from_top else rows[::-1]
    full_size = header.height, header.width
    if header.bits <= 8:
        return Stored(_by_palette(data, header, rows, at), full_size)
    values = rows[:, : header.width * header.bits // 8]
    if header.compression == _PLAIN and header.bits != 16:
        return Stored(values.reshape(*full_size, header.bits // 8)[..., 2::-1], full_size)
    masks = _MASKS_OF_16 if header.compression == _PLAIN else struct.unpack_from("<III", data, _MASKS_AT)
    return Stored(_by_masks(values.copy().view(f"<u{header.bits // 8}"), masks, header.bits), full_size)


def _read_header(data: bytes) -> _Header:
    (size,) = struct.unpack_from("<I", data, _FILE_HEADER)
    if size == _OS2:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = used = 0
    elif size in _HEADERS:
        width, height, _, bits, compression, used = struct.unpack_from("<iiHHI12xI", data, 18)
    else:
        raise ImageError("unreadable", f"a BMP with a header of {size} bytes, which none has")
    most = 1 << bits if bits <= 8 else 0
    colours = min(used, most) or most if most else used
    return _Header(size, width, abs(height), bits, compression, colours, height < 0)  # negative: stored from the top


def _place(data: bytes, header: _Header) -> int:
    """Where the pixels begin: what the file says, if they end there where the file ends, or where they follow.

    The last row may lack what fills it up.
    """
    said: int = struct.unpack_from("<I", data, 10)[0]
    size = header.row * header.height
    least = header.row * (header.height - 1) + (header.width * header.bits + 7) // 8
    following = header.following
    for at in (said, following):
        if at >= header.palette_at and at + least <= len(data) <= at + size:
            return at
    if said >= following and said + least <= len(data):
        return said
    if following + least > len(data) or said + least > len(data) >= said >= following:
        raise truncated(data, f"{max(following, said) + least - len(data)} bytes of pixels")
    raise ImageError("unreadable", f"the pixels begin at byte {said}, says the BMP, but its header ends at {following}")


def _runs(data: bytes, header: _Header) -> NDArray[np.uint8]:
    """The palette's indices (H, W) of a picture in runs, from the top. Each row must be filled to its end."""
    at: int = max(struct.unpack_from("<I", data, 10)[0], header.following)
    rows, row = list[bytes](), bytearray()
    while True:
        count, value = data[at], data[at + 1]
        at += 2
        if count:
            row += bytes([value]) * count
        elif value > _SKIP:
            row += data[at : at + value]
            at += value + value % 2
        elif value == _SKIP:
            raise ImageError("unsupported", "a BMP with pixels that are left out: save it without compression")
        if count == 0 and value in (_END_OF_ROW, _END) and (row or value == _END_OF_ROW):
            rows.append(bytes(row))
            row = bytearray()
        if len(row) > header.width or len(rows) > header.height:
            raise ImageError("unreadable", f"row {len(rows)} of the BMP has more than {header.width} pixels")
        if count == 0 and value == _END:
            break
    if len(rows) < header.height or any(len(row) < header.width for row in rows):
        raise truncated(data, f"a part of its {header.height} rows")
    return np.frombuffer(b"".join(rows[::-1]), np.uint8).reshape(header.height, header.width)


def _by_palette(data: bytes, header: _Header, rows: NDArray[np.uint8], pixels_at: int) -> NDArray[Any]:
    colours = min(header.colours, (pixels_at - header.palette_at) // header.entry)
    palette = np.frombuffer(data, np.uint8, colours * header.entry, header.palette_at)
    palette = palette.reshape(-1, header.entry)[:, 2::-1]
    bits = header.bits
    if bits == 8:
        index = rows[:, : header.width]
    else:
        single = np.unpackbits(rows, axis=1)[:, : header.width * bits].reshape(*rows.shape[:1], -1, bits)
        index = (single @ (1 << np.arange(bits)[::-1])).astype(np.uint8)
    if index.max() >= len(palette):
        raise ImageError("unreadable", f"a pixel has colour {index.max()}, but the BMP's palette only {len(palette)}")
    pixels = palette[index]
    return pixels[..., 0] if (palette == palette[:, :1]).all() else pixels


def _by_masks(values: NDArray[Any], masks: tuple[int, ...], bits: int) -> NDArray[np.uint8]:
    channels = []
    for mask in masks:
        shift = (mask & -mask).bit_length() - 1
        highest = mask >> max(shift, 0)
        if mask == 0 or highest & (highest + 1) or mask >> bits:
            raise ImageError("unreadable", f"a BMP with the mask {mask:#x}, which is no row of bits")
        channels.append(np.rint(((values & mask) >> shift) * (255 / highest)).astype(np.uint8))
    return np.dstack(channels)
