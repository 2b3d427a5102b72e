"""TIFF. `tifffile` reads the directories; each strip or tile is decoded alone and must come out at exactly its size.

libtiff paints black what a piece lacks, and goes on after most damage without an error that OpenCV would pass on. Only
the compressions are taken in which a piece shows that it is whole: see docs/images.md for what each can prove.
"""

import io
import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from ganomaly.errors import ImageError
from ganomaly.images.formats import jpeg
from ganomaly.images.formats.common import Stored, check_size, rgb_of_cmyk, truncated

SIGNATURES = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")  # little and big endian, classic and BigTIFF
_NONE, _LZW, _JPEG, _DEFLATE, _OLD_DEFLATE, _PACKBITS = 1, 5, 7, 8, 32946, 32773
_DECODERS = {
    _LZW: imagecodecs.lzw_decode,
    _DEFLATE: imagecodecs.deflate_decode,
    _OLD_DEFLATE: imagecodecs.deflate_decode,
    _PACKBITS: imagecodecs.packbits_decode,
}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _MASK, _CMYK, _YCBCR = range(7)
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
_REDUCED_OR_MASK = 1 | 4
_ORIENTATION = 274
_OF_THE_PIXELS = {254, *range(256, 260), 262, 266, 273, 277, 278, 279, 284, 317, *range(320, 326), 338, 339, 347}
"""Tags that decide what the pixels are."""
_SPARE = 64
"""Bytes of room behind a piece, in which one that is too long shows."""
_FIRST_PLACE = 8
_ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"

_log = logging.getLogger("tifffile")
_log.addHandler(logging.NullHandler())
_log.propagate = False  # broken images are reported with their reason


def read(data: bytes, max_pixels: int) -> Stored:
    """Decode the one image in full resolution of a TIFF: 1 to 16 bits, grey, palette, RGB or CMYK, strips or tiles."""
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = _full_page(file, data)
            return _Reader(data, page, max_pixels).read()
    except (ImageError, struct.error, IndexError, OverflowError):
        raise
    except RuntimeError as error:  # of imagecodecs
        raise ImageError("unreadable", f"{error}: a piece of the TIFF is damaged, transfer it again") from None
    except Exception as error:  # tifffile promises no kind of error
        raise truncated(data, f"a part of its directory ({type(error).__name__}: {error})") from None


def _full_page(file: tifffile.TiffFile, data: bytes) -> Any:
    """The one directory that is neither a preview nor a mask, among pages and what lies below them."""
    pages = list(_pages(file.pages))
    if not pages or not all(_is_whole(page, data) for page in pages):
        raise truncated(data, "a part of its directory")
    found = [page for page in pages if not int(page.subfiletype) & _REDUCED_OR_MASK and int(page.photometric) != _MASK]
    if len(found) > 1:
        raise ImageError("unsupported", f"{len(found)} images in one TIFF, and nobody says which is meant: save one")
    if not found:
        raise ImageError("unreadable", "a TIFF of nothing but previews and masks")
    return found[0]


def _is_whole(page: Any, data: bytes) -> bool:
    """Whether all that a directory says of the pixels is in the file: tifffile takes what it finds."""
    layout = page.parent.tiff
    (n_entries,) = struct.unpack_from(layout.tagnoformat, data, page.offset)
    at = page.offset + layout.tagnosize
    if at + n_entries * layout.tagsize > len(data):
        return False
    order = page.parent.byteorder
    entries = {struct.unpack_from(f"{order}H", data, at + n * layout.tagsize)[0] for n in range(n_entries)}
    return not entries & _OF_THE_PIXELS - {tag.code for tag in page.tags}


def _pages(pages: Any) -> Iterator[Any]:
    for number in range(len(pages)):
        page = pages[number].aspage()
        yield page
        if page.subifds:
            yield from _pages(page.pages)


@dataclass
class _Reader:
    """Puts the pieces of a directory together."""

    data: bytes
    page: Any
    max_pixels: int

    def read(self) -> Stored:
        """The image."""
        page = self.page
        self.width, self.height, self.bits = page.imagewidth, page.imagelength, page.bitspersample
        self.photometric, self.compression = int(page.photometric), int(page.compression)
        self.separate = int(page.planarconfig) == 2
        check_size(self.width, self.height, self.max_pixels)
        self._check_kind()
        samples = page.samplesperpixel
        self.samples = 1 if self.separate else samples  # of a piece
        rows = min(page.rowsperstrip or self.height, self.height)
        self.piece = (page.tilewidth, page.tilelength) if page.is_tiled else (self.width, rows)
        check_size(*self.piece, self.max_pixels, "a piece of ")
        pixels = np.empty((self.height, self.width, samples), np.uint16 if self.bits > 8 else np.uint8)
        for number, (sample, row, column) in enumerate(self._places()):
            rows = self._rows(row)
            piece = self._decoded(number, rows)[: self.height - row, : self.width - column]
            pixels[row : row + len(piece), column : column + piece.shape[1], sample : sample + self.samples] = piece
        turn = page.tags.valueof(_ORIENTATION, 1)
        return Stored(self._coloured(pixels), (self.height, self.width), turn)

    def _check_kind(self) -> None:
        page, samples, photometric = self.page, self.page.samplesperpixel, self.photometric
        if self.compression not in (_NONE, _JPEG, *_DECODERS):
            raise ImageError(
                "unsupported",
                f"a TIFF with compression {self.compression}: save it without, or with LZW or deflate",
            )
        if int(page.sampleformat) != 1 or not (1 <= self.bits <= 16) or page.fillorder != 1 or page.imagedepth != 1:
            raise ImageError("unsupported", f"a TIFF of {page.dtype} pixels: save it with 8 or 16 bits per channel")
        wanted = _COLOURS.get(photometric)
        if wanted is None or samples > 5 or samples - len(page.extrasamples) != wanted:
            raise ImageError(
                "unsupported",
                f"a TIFF of {samples} channels, {len(page.extrasamples)} of them extra, in colour space {photometric}: "
                "save it as grey or RGB",
            )
        is_jpeg = self.compression == _JPEG
        if (photometric == _YCBCR and not is_jpeg) or (is_jpeg and self.bits != 8) or page.predictor not in (1, 2):
            raise ImageError("unsupported", f"a TIFF in colour space {photometric} of {self.bits} bits: save it as RGB")
        if (photometric == _CMYK or page.predictor == 2) and self.bits not in (8, 16):
            raise ImageError("unsupported", f"a TIFF of {self.bits} bits in this form: save it with 8 or 16")
        if photometric == _PALETTE and (page.colormap is None or self.bits > 8):
            raise ImageError("unreadable", "a TIFF with a palette that is missing or too large")

    def _places(self) -> Iterator[tuple[int, int, int]]:
        """Sample, row and column at which each piece begins, in the order of the file."""
        width, height = self.piece
        samples = range(self.page.samplesperpixel) if self.separate else range(1)
        for sample in samples:
            for row in range(0, self.height, height):
                yield from ((sample, row, column) for column in range(0, self.width, width))

    def _rows(self, row: int) -> int:
        return int(self.piece[1] if self.page.is_tiled else min(self.piece[1], self.height - row))

    def _decoded(self, number: int, rows: int) -> NDArray[Any]:
        """The pixels (rows, W, samples) of a piece."""
        raw: bytes | bytearray | memoryview = self._raw(number, rows)
        if self.compression == _JPEG:
            return self._of_jpeg(raw, rows)
        wanted = self._bytes(rows)
        if self.compression != _NONE:
            raw = _DECODERS[self.compression](bytes(raw), out=bytearray(self._bytes(self.piece[1]) + _SPARE))
        if len(raw) not in (wanted, self._bytes(self.piece[1])):  # some programs fill the last strip up
            reason = "truncated" if len(raw) < wanted else "unreadable"
            raise ImageError(
                reason, f"piece {number} of the TIFF holds {len(raw)} of {wanted} bytes: transfer it again"
            )
        values = self._unpacked(memoryview(raw)[:wanted], rows)
        return imagecodecs.delta_decode(values, axis=1) if self.page.predictor == 2 else values

    def _raw(self, number: int, rows: int) -> bytes | memoryview:
        """The bytes of a piece, as they stand in the file. Where nothing is compressed, their number may be missing."""
        offsets, counts = self.page.dataoffsets, self.page.databytecounts
        if number >= len(offsets):
            raise ImageError("truncated", f"a TIFF of {len(offsets)} pieces, which needs more: transfer it again")
        at, count = offsets[number], counts[number] if number < len(counts) else 0
        if self.compression == _NONE:
            count = self._bytes(rows) if count == 0 or count > self._bytes(rows) else count
        if at < _FIRST_PLACE or count == 0:
            raise ImageError("truncated", f"piece {number} of the TIFF was never written: transfer it again")
        if at + count > len(self.data):
            raise truncated(self.data, "a part of its pixels")
        return memoryview(self.data)[at : at + count]

    def _bytes(self, rows: int) -> int:
        return int((self.piece[0] * self.samples * self.bits + 7) // 8 * rows)

    def _unpacked(self, raw: memoryview, rows: int) -> NDArray[Any]:
        shape = rows, self.piece[0], self.samples
        if self.bits in (8, 16):
            values = np.frombuffer(raw, f"{self.page.parent.byteorder}u{self.bits // 8}").reshape(shape)
            return values.astype(values.dtype.newbyteorder("="), copy=False)
        per_row = shape[1] * shape[2]
        bits = np.unpackbits(np.frombuffer(raw, np.uint8).reshape(rows, -1), axis=1)[:, : per_row * self.bits]
        powers = 1 << np.arange(self.bits)[::-1]
        values = bits.reshape(rows, per_row, self.bits) @ powers.astype(np.uint16)
        return values.reshape(shape)

    def _of_jpeg(self, raw: bytes | bytearray | memoryview, rows: int) -> NDArray[np.uint8]:
        """A piece that is a JPEG of its own, whose tables may stand in the directory."""
        adobe = _ADOBE_RGB if self.photometric == _RGB and self.samples == 3 else b""
        whole = b"\xff\xd8" + adobe + (self.page.jpegtables or b"")[2:-2] + bytes(raw)[2:]
        if self.samples not in (1, 3):
            raise ImageError("unsupported", f"a JPEG of {self.samples} channels in a TIFF: save it as RGB")
        pixels = jpeg.decode(whole, "GRAY" if self.samples == 1 else "RGB")
        if pixels.shape[0] < rows or pixels.shape[1] != self.piece[0]:
            raise ImageError("unreadable", f"a piece of {pixels.shape[1]} x {pixels.shape[0]} px in the TIFF")
        return pixels

    def _coloured(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Stored values as grey or RGB over the full range of their type."""
        if self.photometric == _PALETTE:
            colours = np.asarray(self.page.colormap).T  # 16 bits by the standard, 8 by some programs
            rgb: NDArray[np.uint8] = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
            coloured: NDArray[np.uint8] = rgb[pixels[..., 0]]
            return coloured
        if self.bits < 8:
            pixels = (pixels.astype(np.uint16) * 255 // ((1 << self.bits) - 1)).astype(np.uint8)
        elif 8 < self.bits < 16:
            pixels = pixels << (16 - self.bits)
        if self.photometric == _CMYK:
            return rgb_of_cmyk((pixels >> 8 if self.bits == 16 else pixels)[..., :4].astype(np.uint8))
        return ~pixels if self.photometric == _WHITE_IS_ZERO else pixels
