"""PNG. OpenCV's libpng checks every checksum and counts the rows; here the chunks are walked first.

OpenCV takes up to 4 GB for a chunk before it sees that the file is shorter, and needs an end that some cameras leave
out.
"""

import io
import struct

import cv2
import numpy as np
from PIL import Image

from ganomaly.errors import ImageError
from ganomaly.images.formats.common import Stored, check_size, truncated

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_PALETTE = 3


def read(data: bytes, max_pixels: int) -> Stored:
    """Decode a PNG, 1 to 16 bits; a palette becomes RGB. Alpha is left out, the orientation in its EXIF is heeded."""
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    if data[12:16] != b"IHDR":
        raise ImageError("unreadable", f"a PNG that begins with {data[12:16]!r} and not with its header")
    check_size(width, height, max_pixels)
    end, chunks = _walk(data)
    has_end = data.startswith(b"IEND", end + 4)
    if colour == _PALETTE and len(chunks.get(b"PLTE", b"")) // 3 < 1 << bits:
        _check_palette(data[:end] + _END, len(chunks.get(b"PLTE", b"")) // 3)
    decoded = cv2.imdecode(np.frombuffer(data[:end] + _END, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    if decoded is None and not has_end:  # OpenCV's stubs deny it
        raise truncated(data, "a part of its pixels")
    if decoded is None:
        raise ImageError("unreadable", "the PNG's checksums do not fit its pixels, or some are missing: it is damaged")
    pixels = np.asarray(decoded)
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGB)
    return Stored(pixels, pixels.shape[:2])  # OpenCV has turned it


def _walk(data: bytes) -> tuple[int, dict[bytes, bytes]]:
    """Where the chunks before the end stop, and their contents by kind."""
    at, chunks = len(SIGNATURE), dict[bytes, bytes]()
    while at + 8 <= len(data):  # less is a rest of the end, which may be missing
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND":
            break
        if kind.endswith(b"\x00"):  # space that was reserved but never written
            raise truncated(data, f"everything from byte {at}")
        if not kind.isalpha():
            raise ImageError("unreadable", f"no PNG chunk at byte {at}")
        chunks[kind] = data[at + 8 : at + 8 + length] if kind == b"PLTE" else b""
        at += 12 + length
        if at > len(data):
            raise truncated(data, f"{at - len(data)} bytes of its chunk {kind.decode()}")
    if b"IDAT" not in chunks and at + 8 > len(data):
        raise truncated(data, "its pixels")
    if b"IDAT" not in chunks:  # OpenCV would look for pixels behind the end, and take what it finds for a chunk
        raise ImageError("unreadable", "a PNG without pixels")
    return at, chunks


def _check_palette(data: bytes, colours: int) -> None:
    """Refuse pixels of a colour that the palette does not have: OpenCV makes them black."""
    try:
        highest = int(np.asarray(Image.open(io.BytesIO(data))).max())
    except (OSError, ValueError, SyntaxError):  # OpenCV will say so
        return
    if highest >= colours:
        raise ImageError("unreadable", f"a pixel has colour {highest}, but the PNG's palette only {colours} of them")
