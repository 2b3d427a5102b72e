"""JPEG. libjpeg goes on after most damage with a warning; `simplejpeg` makes its warnings errors.

By hand remains what libjpeg never tells (scans that are missing) and what it complains of without need: odd bytes in
the header of a baseline scan, stray bytes between segments, an end marker that was left out.
"""

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import simplejpeg

from ganomaly.errors import ImageError
from ganomaly.images.formats.common import Reduction, Stored, check_size, exif_turn, rgb_of_cmyk, truncated

SIGNATURE = b"\xff\xd8\xff"
_END = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9), 0xFF}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # C4, C8, CC are tables, the others hold the size
_ONE_SCAN_OF_ALL_BITS = {0xC0, 0xC1, 0xC9}
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}
_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # FF 00 is a data byte, FF D0 to D7 restart inside a scan
_MARKER = re.compile(rb"\xff[\xc0-\xfe]")
_MOST_STRAY = 64
_WHOLE_BAND = b"\x00\x3f\x00"
_EXIF = b"Exif\x00\x00"
_MODES = {1: "GRAY", 3: "RGB", 4: "CMYK"}


@dataclass
class _Structure:
    """What the segments say."""

    frame: int = 0
    bits: int = 0
    width: int = 0
    height: int = 0
    components: int = 0
    turn: int = 1
    adobe: bool = False
    unsent: dict[int, bytearray] = field(default_factory=dict)
    """By component: which bits of its 64 coefficients are still to come."""


def read(data: bytes, reduction: Reduction, max_pixels: int) -> Stored:
    """Decode a JPEG of 8 bits: grey, colour (as RGB) or CMYK; the orientation in its EXIF is handed on."""
    found, whole = _Structure(), bytearray(data[:2])
    for marker, segment, scan in _segments(data):
        content = _note(found, marker, segment)
        whole += bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + scan
    if not found.frame:
        raise ImageError("unreadable", "a JPEG without a frame header")
    check_size(found.width, found.height, max_pixels)
    if found.bits != 8 or found.frame in _LOSSLESS or found.components not in _MODES:
        kind = "lossless" if found.frame in _LOSSLESS else f"{found.bits} bits and {found.components} channels"
        raise ImageError("unsupported", f"a JPEG of {kind}: save it with 8 bits as grey or RGB")
    if any(any(bits) for bits in found.unsent.values()):
        raise truncated(data, "a part of its scans")
    sides = found.height, found.width
    times = min(reduction(found.width, found.height), reduction(found.height, found.width))
    least = {"min_height": math.ceil(sides[0] / times), "min_width": math.ceil(sides[1] / times)} if times > 1 else {}
    pixels = decode(bytes(whole + _END), _MODES[found.components], min_factor=times, **least)
    if pixels.shape[:2] != tuple(math.ceil(side / times) for side in sides):
        raise ImageError(
            "unreadable", f"the header says {sides[1]} x {sides[0]} px, the pixels are {pixels.shape[1::-1]}"
        )
    if found.components == 4:
        pixels = rgb_of_cmyk(255 - pixels if found.adobe else pixels)
    return Stored(pixels[..., 0] if found.components == 1 else pixels, sides, found.turn)


def decode(data: bytes, mode: str, **least: int) -> np.ndarray:
    """Decode a whole JPEG with libjpeg's warnings as errors, to (H, W, C).

    Raises:
        ImageError: "truncated" or "unreadable" with libjpeg's words, "unsupported" for rare ratios of colour to grey.
    """
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(data, mode, strict=True, **least)
    except IndexError:
        raise ImageError(
            "unsupported", "a JPEG of a rare colour sampling: save it with 4:2:0, 4:2:2 or 4:4:4"
        ) from None
    except ValueError as error:
        words = " ".join(str(error).split())
        if "subsampling" in words:
            raise ImageError("unsupported", f"{words}: save it with 4:2:0, 4:2:2 or 4:4:4") from None
        reason = "truncated" if "remature end" in words else "unreadable"
        raise ImageError(reason, f"{words}: the file is damaged, transfer it again") from None
    return pixels


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Marker, content and, behind the header of a scan, entropy-coded data of each segment up to the end marker.

    Stray bytes between the segments before the first scan are stepped over. A last scan may lack the end marker.
    """
    at, scanned = 2, False
    while data[at : at + 2] != _END:
        if at == len(data) and scanned:
            return
        if data[at] != 0xFF or (data[at + 1] < 0xC0 and data[at + 1] != 0x01):
            following = None if scanned else _MARKER.search(data, at, at + _MOST_STRAY)
            if following is None:
                raise ImageError("unreadable", f"no JPEG marker at byte {at}: the file is damaged")
            at = following.start()
        marker = data[at + 1]
        if marker in _WITHOUT_LENGTH:
            at += 1 if marker == 0xFF else 2  # FF fills up
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        segment, end = data[at + 4 : at + 2 + length], at + 2 + length
        if end > len(data):
            raise truncated(data, f"a part of its segment at byte {at}")
        if marker == _START_OF_SCAN:
            scanned, after = True, _AFTER_SCAN.search(data, end)
            if after is None and data.endswith(b"\x00") and not data.endswith(b"\xff\x00"):  # reserved, never written
                raise truncated(data, "everything after some point, where zeros begin")
            at, end = end, len(data) if after is None else after.start()
            yield marker, segment, data[at:end]
        else:
            yield marker, segment, b""
        at = end


def _note(found: _Structure, marker: int, segment: bytes) -> bytes:
    """Note what a segment says; gives it back as libjpeg wants it."""
    if marker in _FRAMES:
        found.frame = marker
        found.bits, found.height, found.width, found.components = struct.unpack_from(">BHHB", segment)
        bits = b"\x00" if marker in _LOSSLESS else b"\xff"
        found.unsent = {segment[6 + 3 * number]: bytearray(bits * 64) for number in range(found.components)}
    elif marker == 0xE1 and segment.startswith(_EXIF) and found.turn == 1:
        found.turn = exif_turn(segment[len(_EXIF) :])
    elif marker == 0xEE and segment.startswith(b"Adobe"):
        found.adobe = True
    elif marker == _START_OF_SCAN:
        if found.frame in _ONE_SCAN_OF_ALL_BITS:  # what else stands there means nothing
            segment = segment[: 1 + 2 * segment[0]] + _WHOLE_BAND
        _note_scan(segment, found.unsent)
    return segment


def _note_scan(segment: bytes, unsent: dict[int, bytearray]) -> None:
    """Note which bits of which coefficients a scan brings (ITU T.81, B.2.3).

    A file whose scans end early decodes all the same, blurred or in wrong colours: every coefficient of every component
    must have been sent to its last bit.
    """
    n_components = segment[0]
    first, last, low_bit = struct.unpack_from("BBB", segment, 1 + 2 * n_components)
    for component in segment[1 : 1 + 2 * n_components : 2]:
        if component in unsent and first <= last < 64:  # otherwise lossless, or an error that the decoder finds
            unsent[component][first : last + 1] = bytes([low_bit & 15]) * (last + 1 - first)
