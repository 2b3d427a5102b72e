"""The corpus of bad input: image files and keys that a night can meet, each with what must become of it.

Everything is made here from one drawn part; nothing is committed. `IMAGES` are files, `KEYS` are object keys. The
builders of valid files serve the fuzz as well (`fuzz.py`).
"""

import base64
import io
import itertools
import struct
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image

SIDE = 96
SCORED = "scored"
STRAY = "key_layout"
UNSEEN = "in no window"
IGNORED = "ignored"
DATE = "2026-03-08"

_PNG = b"\x89PNG\r\n\x1a\n"
# a chequered square of 48 x 48 px, `cjpeg -arithmetic`: neither OpenCV nor Pillow writes this kind
_ARITHMETIC_JPEG = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdASFxOQERXRTc4UG1RV19iZ2hnPk1xeXBk"
    "eFxlZ2P/yQALCAAwADABAREA/8wABgAQEAX/2gAIAQEAAD8A/j0iAntquuV9nECO7IsbTU17xiznjvSPvHYU1A0deuIsKt0zWhdoinMCnzJ0y+X3"
    "qtaA4iMLMBt51QIN2xLWwHa35hekjMqYkPwmHCTkCY0KT5XSNR+r4I5nKpGh8Rul6BTCwYigQkuQ/9k="
)


@dataclass(frozen=True)
class BadImage:
    """A file and what must become of it.

    Attributes:
        name: short and unique; the part's name in the night.
        fault: what is wrong with it, in words, for the table of faults.
        outcome: `SCORED`, or the reason why it is unusable.
        make: gives the file's bytes, the same at every call.
        extension: of the key, which says nothing about the content.
    """

    name: str
    fault: str
    outcome: str
    make: Callable[[], bytes] = field(repr=False)
    extension: str = "png"


@dataclass(frozen=True)
class BadKey:
    """A key (behind the line's prefix) and what must become of the good image that lies under it.

    Attributes:
        name: short and unique.
        fault: what is wrong with it, in words, for the table of faults.
        key: what follows the line's prefix.
        outcome: `SCORED`, `STRAY` (not an image of the line: unusable), `IGNORED`, or `UNSEEN` (in no window).
    """

    name: str
    fault: str
    key: str
    outcome: str


# --- the part -------------------------------------------------------------------------------------------------------


def draw_part(seed: int, side: int = SIDE, *, defect: bool = False) -> np.ndarray:
    """A grey plate with holes and ribs, uint8 (side, side); a defective one has a dark blot."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side), 70.0)
    shift = rng.integers(-2, 3, 2)
    unit = side / 12
    corner = (int(unit + shift[0]), int(unit + shift[1]))
    cv2.rectangle(image, corner, (int(11 * unit + shift[0]), int(11 * unit + shift[1])), 165.0, -1)
    for row, column in itertools.product((3, 6, 9), (3, 6, 9)):
        centre = (int(column * unit + shift[0]), int(row * unit + shift[1]))
        cv2.circle(image, centre, int(unit * 0.8), 40.0 + 10 * row, -1)
        cv2.line(image, (centre[0] - int(unit), centre[1]), (centre[0] + int(unit), centre[1]), 220.0, 1)
    if defect:
        row, column = rng.integers(side // 4, side * 3 // 4, 2)
        cv2.circle(image, (int(column), int(row)), side // 6, 5.0, -1)
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


GREY = draw_part(1)
RGB = np.dstack([GREY, GREY // 2 + 40, 255 - GREY // 2])
GREY_16 = GREY.astype(np.uint16) * 257 + 5


def good_image(seed: int, *, defect: bool = False) -> bytes:
    """A PNG as the line's camera writes it."""
    return encode("png", draw_part(seed, defect=defect))


# --- files ----------------------------------------------------------------------------------------------------------


def encode(extension: str, pixels: np.ndarray, *parameters: int) -> bytes:
    """An image file of RGB or grey pixels, written by OpenCV."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(f".{extension}", pixels, parameters)[1].tobytes()


def pillow(kind: str, mode: str = "L", **settings: object) -> bytes:
    """The part as a file written by Pillow in one of its pixel modes."""
    image = Image.fromarray(RGB)
    if mode in {"LA", "RGBA"}:
        image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, SIDE, dtype=np.uint8), (SIDE, 1))))
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def frames(kind: str) -> bytes:
    """An animation of three parts."""
    first, *others = [Image.fromarray(draw_part(seed)) for seed in (1, 2, 3)]
    out = io.BytesIO()
    first.save(out, kind, save_all=True, append_images=others, duration=100)
    return out.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, bits: int = 8, colour: int = 0, interlace: int = 0) -> bytes:
    """Signature and IHDR."""
    return _PNG + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace))


def png_with(chunk: bytes) -> bytes:
    """The part as PNG with one more chunk behind the header."""
    data = encode("png", GREY)
    return data[:33] + chunk + data[33:]


def inflating(megabytes: int) -> bytes:
    """A deflate stream of so many megabytes of zeros; about a thousandth of them long."""
    packer = zlib.compressobj(9, wbits=-15)
    one = packer.compress(bytes(1_000_000)) + packer.flush(zlib.Z_FULL_FLUSH)
    size = megabytes * 1_000_000
    adler = (size % 65521) << 16 | 1
    return b"\x78\xda" + one * megabytes + b"\x03\x00" + struct.pack(">I", adler)


def interlaced_png() -> bytes:
    """The part as an Adam7 PNG."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b"".join(b"\x00" + row.tobytes() for x, y, dx, dy in passes for row in GREY[y::dy, x::dx])
    return png_header(SIDE, SIDE, interlace=1) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def jpeg_segment(marker: int, data: bytes) -> bytes:
    """One JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpeg(pixels: np.ndarray = GREY, **settings: int) -> bytes:
    """The part as JPEG of quality 95; `progressive` and `rst_interval` as OpenCV takes them."""
    parameters = [cv2.IMWRITE_JPEG_QUALITY, 95]
    for name, value in settings.items():
        parameters += [getattr(cv2, f"IMWRITE_JPEG_{name.upper()}"), value]
    return encode("jpg", pixels, *parameters)


def jpeg_with_orientation(turn: int) -> bytes:
    """The part as a JPEG with an EXIF orientation tag."""
    exif = b"Exif\x00\x00II*\x00" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, turn, 0, 0)
    data = jpeg()
    return data[:2] + jpeg_segment(0xE1, exif) + data[2:]


def jpeg_frame(data: bytes, **fields: int) -> bytes:
    """A JPEG whose frame header says another precision, height or width, or has another marker."""
    at = next(at for at in range(len(data)) if data[at] == 0xFF and data[at + 1] in {0xC0, 0xC1, 0xC2})
    changed = bytearray(data)
    places = {"marker": (at + 1, ">B"), "precision": (at + 4, ">B"), "height": (at + 5, ">H"), "width": (at + 7, ">H")}
    for name, value in fields.items():
        struct.pack_into(places[name][1], changed, places[name][0], value)
    return bytes(changed)


def scans_of(data: bytes) -> list[int]:
    """Where the scans of a JPEG start; the last number is where its end marker stands."""
    return [at for at in range(len(data) - 1) if data[at] == 0xFF and data[at + 1] in {0xDA, 0xD9}]


def tiff_tags(width: int, height: int, **others: int | Sequence[int]) -> dict[int, Sequence[int]]:
    """Tags of a grey 8-bit TIFF; others by their name in the specification."""
    names = {"bits": 258, "compression": 259, "photometric": 262, "samples": 277, "rows": 278, "planar": 284}
    names |= {"predictor": 317, "tile_width": 322, "tile_height": 323, "extra": 338, "sample_format": 339}
    names |= {"colours": 320, "subfile": 254, "orientation": 274}
    values = {"bits": 8, "compression": 1, "photometric": 1, "samples": 1} | others
    tags: dict[int, Sequence[int]] = {256: (width,), 257: (height,)}
    for name, value in values.items():
        tags[names[name]] = (value,) if isinstance(value, int) else tuple(value)
    return tags


def tiff(
    blocks: Sequence[bytes], tags: Mapping[int, Sequence[int]], *, order: str = "<", big: bool = False, pages: int = 1
) -> bytes:
    """A TIFF or BigTIFF: header, blocks (strips, or tiles if the tags name a tile's width), directories."""
    offset_format, count_format, kind = ("Q", "Q", 16) if big else ("I", "H", 4)
    body = b"".join(blocks)
    offsets = [16 + sum(map(len, blocks[:n])) for n in range(len(blocks))]
    places = (324, 325) if 322 in tags else (273, 279)
    every = {**tags, places[0]: offsets, places[1]: [len(block) for block in blocks]}
    arrays = {}
    for tag, values in every.items():
        if len(values) > 1:
            arrays[tag] = 16 + len(body)
            body += struct.pack(f"{order}{len(values)}{offset_format}", *values)
    head = {"<": b"II", ">": b"MM"}[order]
    at = 16 + len(body)
    head += struct.pack(order + "HHHQ", 43, 8, 0, at) if big else struct.pack(order + "HI8x", 42, at)
    for page in range(pages):
        body += struct.pack(order + count_format, len(every))
        for tag, values in sorted(every.items()):
            value = arrays.get(tag, values[0])
            body += struct.pack(f"{order}HH{offset_format * 2}", tag, kind, len(values), value)
        after = 16 + len(body) + struct.calcsize(offset_format) if page + 1 < pages else 0
        body += struct.pack(order + offset_format, after)
    return head + body


def raw_tiff(pixels: np.ndarray, *, order: str = "<", big: bool = False, pages: int = 1, **tags: int) -> bytes:
    """Pixels (H, W) or (H, W, C) as an uncompressed TIFF of one strip; tags replace what follows from the array."""
    height, width, *rest = pixels.shape
    samples = rest[0] if rest else 1
    implied = {"bits": [8 * pixels.dtype.itemsize] * samples, "samples": samples, "rows": height}
    block = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    return tiff([block], tiff_tags(width, height, **implied | tags), order=order, big=big, pages=pages)


def tiled_tiff(side: int = 32, *, big: bool = False) -> bytes:
    """The part in tiles."""
    tiles = [
        GREY[row : row + side, column : column + side].tobytes()
        for row in range(0, SIDE, side)
        for column in range(0, SIDE, side)
    ]
    return tiff(tiles, tiff_tags(SIDE, SIDE, tile_width=side, tile_height=side), big=big)


def packed_12_bit_tiff() -> bytes:
    """The part with 12 bits a pixel, two pixels in three bytes."""
    wide = GREY.astype(np.uint32).reshape(-1, 2) * 16
    both = (wide[:, 0] << 12) | wide[:, 1]
    packed = np.stack([both >> 16, both >> 8 & 255, both & 255], axis=1).astype(np.uint8)
    return tiff([packed.tobytes()], tiff_tags(SIDE, SIDE, bits=12, rows=SIDE))


def separate_planes_tiff() -> bytes:
    """The part in colour, each channel in a strip of its own."""
    planes = [RGB[:, :, channel].tobytes() for channel in range(3)]
    tags = tiff_tags(SIDE, SIDE, bits=(8, 8, 8), samples=3, photometric=2, planar=2, rows=SIDE)
    return tiff(planes, tags)


def bmp(
    pixels: bytes, *, width: int = SIDE, height: int = SIDE, bits: int = 8, compression: int = 0, colours: int = 256
) -> bytes:
    """A Windows bitmap with a grey palette of so many colours."""
    palette = b"".join(bytes((n * 255 // max(1, colours - 1),) * 3) + b"\x00" for n in range(colours))
    start = 54 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(pixels), 2835, 2835, colours, 0)
    return head + info + palette + pixels


def rle_bmp() -> bytes:
    """The part as a run-length encoded bitmap: runs of one pixel."""
    rows = [b"".join(bytes((1, value)) for value in row) + b"\x00\x00" for row in GREY[::-1].tolist()]
    return bmp(b"".join(rows) + b"\x00\x01", compression=1)


def valid_files() -> dict[str, bytes]:
    """Small whole files of every structure that the decoder takes: what the fuzz mutates."""
    grey, rgb = GREY[::2, ::2], RGB[::2, ::2]
    return {
        "png-grey": encode("png", grey),
        "png-rgb": encode("png", rgb),
        "png-16": encode("png", grey.astype(np.uint16) * 257),
        "png-1": encode("png", np.where(grey > 99, 255, 0).astype(np.uint8), cv2.IMWRITE_PNG_BILEVEL, 1),
        "png-interlaced": interlaced_png(),
        "png-palette": pillow("PNG", "P"),
        "png-rgba": pillow("PNG", "RGBA"),
        "png-text": png_with(png_chunk(b"zTXt", b"note\x00\x00" + zlib.compress(b"serial 4711 " * 50))),
        "png-animated": frames("PNG"),
        "jpeg-grey": encode("jpg", grey),
        "jpeg-rgb": encode("jpg", rgb),
        "jpeg-progressive": jpeg(rgb, progressive=1),
        "jpeg-restarts": jpeg(rgb, rst_interval=2),
        "jpeg-exif": jpeg_with_orientation(6),
        "jpeg-cmyk": pillow("JPEG", "CMYK"),
        "jpeg-arithmetic": base64.b64decode(_ARITHMETIC_JPEG),
        "tiff-lzw": encode("tiff", rgb),
        "tiff-raw": raw_tiff(grey),
        "tiff-raw-rgb-16": raw_tiff(rgb.astype(np.uint16) * 257, order=">", photometric=2),
        "tiff-big": raw_tiff(grey, big=True, order=">"),
        "tiff-tiled": tiled_tiff(),
        "tiff-tiled-big": tiled_tiff(big=True),
        "tiff-12": packed_12_bit_tiff(),
        "tiff-planes": separate_planes_tiff(),
        "tiff-deflate": pillow("TIFF", "RGB", compression="tiff_adobe_deflate"),
        "tiff-jpeg": pillow("TIFF", "RGB", compression="jpeg"),
        "tiff-1": pillow("TIFF", "1"),
        "tiff-packbits": pillow("TIFF", "P", compression="packbits"),
        "bmp-8": encode("bmp", grey),
        "bmp-24": encode("bmp", rgb),
        "bmp-rle": rle_bmp(),
        "bmp-1": bmp(np.packbits(GREY > 99, axis=1).tobytes(), bits=1, colours=2),
        "bmp-os2": _os2_bmp(),
    }


def _os2_bmp() -> bytes:
    palette = bytes(value for grey in range(256) for value in (grey, grey, grey))
    start = 26 + len(palette)
    head = struct.pack("<2sIHHIIHHHH", b"BM", start + GREY.size, 0, 0, start, 12, SIDE, SIDE, 1, 8)
    return head + palette + GREY[::-1].tobytes()


# --- the cases ------------------------------------------------------------------------------------------------------


def _cut() -> Iterator[BadImage]:
    """Files whose end is missing, at many offsets."""
    whole: dict[str, Callable[[], bytes]] = {
        "PNG": lambda: encode("png", GREY),
        "JPEG": jpeg,
        "progressive JPEG": lambda: jpeg(RGB, progressive=1),
        "TIFF": lambda: encode("tiff", GREY),
        "BigTIFF": lambda: raw_tiff(GREY, big=True),
        "tiled TIFF": tiled_tiff,
        "BMP": lambda: encode("bmp", GREY),
    }
    for kind, make in whole.items():
        for percent in (3, 10, 25, 50, 75, 90, 99):
            name = f"cut-{kind.lower().replace(' ', '-')}-{percent}"
            yield BadImage(
                name,
                f"{kind} cut off at 3, 10, 25, 50, 75, 90 or 99 % of its bytes",
                "truncated",
                lambda make=make, percent=percent: make()[: len(make()) * percent // 100],
            )


def _incomplete() -> Iterator[BadImage]:
    progressive = jpeg(RGB, progressive=1)
    scans = scans_of(progressive)
    separate = tiff([GREY[:48].tobytes(), b""], tiff_tags(SIDE, SIDE, rows=48))
    cases = {
        "empty": ("0 bytes", "empty", b""),
        "one-byte": ("a single byte", "unreadable", b"\x89"),
        "zeros": ("nothing but zero bytes", "unreadable", bytes(5000)),
        "jpeg-first-scan": (
            "progressive JPEG cut after its first scan",
            "truncated",
            progressive[: scans[1]],
        ),
        "jpeg-first-scan-closed": (
            "progressive JPEG cut after its first scan and closed with an end marker",
            "truncated",
            progressive[: scans[1]] + b"\xff\xd9",
        ),
        "jpeg-last-scan-closed": (
            "progressive JPEG that lacks only its last refinement",
            "truncated",
            progressive[: scans[-2]] + b"\xff\xd9",
        ),
        "jpeg-zero-tail": ("JPEG whose second half is zeros", "truncated", jpeg()[:2500] + bytes(2500)),
        "png-zero-tail": (
            "PNG whose second half is zeros",
            "truncated",
            encode("png", GREY)[:3000] + bytes(3000),
        ),
        "jpeg-end-in-thumbnail": (
            "JPEG cut off, its only end marker is that of the thumbnail in it",
            "truncated",
            _with_thumbnail()[:-1000],
        ),
        "jpeg-closed": (
            "baseline JPEG cut inside its data and closed with an end marker",
            "truncated",
            jpeg()[:3000] + b"\xff\xd9",
        ),
        "png-wrong-crc": ("PNG with a wrong checksum", "unreadable", _with_wrong_crc(b"IDAT")),
        "png-wrong-header-crc": ("PNG with a wrong checksum of its header", "unreadable", _with_wrong_crc(b"IHDR")),
        "png-no-data": ("PNG without pixels", "unreadable", png_header(SIDE, SIDE) + png_chunk(b"IEND", b"")),
        "png-short-data": (
            "PNG with too few pixels for its header",
            "unreadable",
            png_header(SIDE, SIDE) + png_chunk(b"IDAT", zlib.compress(bytes(97 * 40))) + png_chunk(b"IEND", b""),
        ),
        "jpeg-damaged": (
            "JPEG with foreign bytes in its data",
            "unreadable",
            jpeg()[:2500] + b"\xff\x05" + jpeg()[2502:],
        ),
        "jpeg-no-frame": ("JPEG without a frame header", "unreadable", b"\xff\xd8\xff\xd9"),
        "jpeg-no-height": ("JPEG whose height is given behind its data", "unreadable", jpeg_frame(jpeg(), height=0)),
        "tiff-no-strip": ("TIFF with a strip that was never written", "truncated", separate),
        "tiff-one-strip": (
            "TIFF with half of its strips",
            "truncated",
            tiff([GREY[:48].tobytes()], tiff_tags(SIDE, SIDE, rows=48)),
        ),
        "tiff-deflate-damaged": ("deflated TIFF with foreign bytes in its data", "unreadable", _damaged_tiff()),
        "bmp-negative-width": ("BMP of negative width", "unreadable", bmp(GREY.tobytes(), width=-SIDE)),
    }
    for name, (fault, outcome, data) in cases.items():
        yield BadImage(name, fault, outcome, lambda data=data: data)


def _with_wrong_crc(kind: bytes) -> bytes:
    data = bytearray(encode("png", GREY))
    at = data.index(kind) - 4
    (length,) = struct.unpack_from(">I", data, at)
    data[at + 8 + length] ^= 0xFF
    return bytes(data)


def _damaged_tiff() -> bytes:
    data = bytearray(pillow("TIFF", "L", compression="tiff_adobe_deflate"))
    middle = len(data) // 2
    data[middle : middle + 20] = bytes(20)
    return bytes(data)


def _with_thumbnail() -> bytes:
    data = jpeg()
    return data[:2] + jpeg_segment(0xE1, b"Exif\x00\x00" + encode("jpg", GREY[::2, ::2])) + data[2:]


def _no_image() -> Iterator[BadImage]:
    """Other things under an image's key."""
    page = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
    error = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code></Error>'
    multipart = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.jpg"\r\n\r\n' + jpeg() + b"\r\n--x--"
    cases = {
        "html": ("HTML error page saved as .jpg", page, "jpg"),
        "xml": ("S3's XML error saved as .png", error, "png"),
        "json": ("JSON error saved as .png", b'{"message": "Internal Server Error"}', "png"),
        "text": ("UTF-16 text", "Störung".encode("utf-16"), "png"),
        "multipart": ("JPEG inside an HTTP form", multipart, "jpg"),
        "newline": ("JPEG behind an empty line", b"\r\n" + jpeg(), "jpg"),
        "ascii-png": ("PNG sent in text mode", encode("png", GREY).replace(b"\r\n", b"\n"), "png"),
        "script": (
            "SVG with a script",
            b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
            "svg",
        ),
        "pdf": ("PDF", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "pdf"),
        "zip": ("ZIP archive", b"PK\x03\x04" + bytes(400), "zip"),
        "pickle": ("Python pickle", b"\x80\x04cos\nsystem\n(S'true'\ntR.", "png"),
        "gif": ("animated GIF", frames("GIF"), "gif"),
        "webp": ("animated WebP", frames("WEBP"), "webp"),
        "webp-still": ("WebP", encode("webp", GREY), "webp"),
        "avif": ("AVIF header", b"\x00\x00\x00\x20ftypavif\x00\x00\x00\x00avifmif1miaf" + bytes(400), "avif"),
        "heic": ("HEIC header", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(400), "heic"),
        "jp2": ("JPEG 2000", encode("jp2", GREY), "jp2"),
        "exr": ("OpenEXR header", b"\x76\x2f\x31\x01" + bytes(400), "exr"),
    }
    for name, (fault, data, extension) in cases.items():
        yield BadImage(name, fault, "unreadable", lambda data=data: data, extension)


def _bombs() -> Iterator[BadImage]:
    """A few bytes that would unfold to gigabytes."""
    huge = 60_000
    strip = [b"\x00" * 8]
    cases: dict[str, tuple[str, str, Callable[[], bytes]]] = {
        "bomb-png": (
            "PNG of 60,000 x 60,000 px in 450 kB",
            "too_large",
            lambda: png_header(huge, huge, 1) + png_chunk(b"IDAT", inflating(450)) + png_chunk(b"IEND", b""),
        ),
        "bomb-jpeg": (
            "JPEG header of 65,500 x 65,500 px",
            "too_large",
            lambda: jpeg_frame(jpeg(), width=65_500, height=65_500),
        ),
        "bomb-tiff": ("TIFF header of 2^31 x 2^31 px", "too_large", lambda: tiff(strip, tiff_tags(1 << 31, 1 << 31))),
        "bomb-bigtiff": (
            "BigTIFF header of 2^62 x 2^62 px",
            "too_large",
            lambda: tiff(strip, tiff_tags(1 << 62, 1 << 62), big=True),
        ),
        "bomb-bmp": (
            "run-length encoded BMP of 60,000 x 60,000 px",
            "too_large",
            lambda: bmp(b"", width=huge, height=huge, compression=1),
        ),
        "bomb-tile": (
            "TIFF of 96 x 96 px with a tile of 30,000 x 30,000 px",
            "too_large",
            lambda: tiff([inflating(900)], tiff_tags(SIDE, SIDE, tile_width=30_000, tile_height=30_000, compression=8)),
        ),
        "bomb-samples": (
            "TIFF with 65,535 channels",
            "unsupported",
            lambda: tiff(strip, tiff_tags(9000, 9000, samples=65_535, compression=8)),
        ),
        "bomb-text": (
            "PNG with a text that unpacks to 200 MB",
            SCORED,
            lambda: png_with(png_chunk(b"zTXt", b"note\x00\x00" + inflating(200))),
        ),
        "bomb-profile": (
            "PNG with a colour profile that unpacks to 200 MB",
            SCORED,
            lambda: png_with(png_chunk(b"iCCP", b"icc\x00\x00" + inflating(200))),
        ),
        "bomb-chunk": (
            "PNG chunk of 4 GB in its header",
            "truncated",
            lambda: png_with(struct.pack(">I4s", 0xFFFFFFF0, b"tEXt") + bytes(99)),
        ),
    }
    for name, (fault, outcome, make) in cases.items():
        yield BadImage(name, fault, outcome, make)


def _kinds() -> Iterator[BadImage]:
    """Rare but whole files: taken as they are, or refused with the way out."""
    cmyk = pillow("JPEG", "CMYK")
    adobe = cmyk.index(b"Adobe") + 11
    white = raw_tiff(GREY.astype(np.float32) / 255, sample_format=3)
    nan = np.full((SIDE, SIDE), np.nan, np.float32)
    planes = [(RGB[:, :, channel].astype("<u2") * 257).tobytes() for channel in range(3)]
    planes_16 = tiff_tags(SIDE, SIDE, bits=(16, 16, 16), samples=3, photometric=2, planar=2, rows=SIDE)
    cases: dict[str, tuple[str, str, Callable[[], bytes]]] = {
        "png-as-jpg": ("PNG named .jpg", SCORED, lambda: encode("png", GREY)),
        "jpeg-as-tiff": ("JPEG named .tif", SCORED, jpeg),
        "png-16": ("16-bit PNG", SCORED, lambda: encode("png", GREY_16)),
        "tiff-16": ("16-bit TIFF", SCORED, lambda: encode("tiff", GREY_16)),
        "tiff-12": ("12-bit TIFF, packed", SCORED, packed_12_bit_tiff),
        "png-1": ("1-bit PNG", SCORED, lambda: pillow("PNG", "1")),
        "tiff-1": ("1-bit TIFF", SCORED, lambda: pillow("TIFF", "1")),
        "tiff-group4": (
            "fax TIFF, which cannot tell damage",
            "unsupported",
            lambda: pillow("TIFF", "1", compression="group4"),
        ),
        "png-interlaced": ("interlaced PNG", SCORED, interlaced_png),
        "png-palette": ("PNG with a palette", SCORED, lambda: pillow("PNG", "P")),
        "png-palette-alpha": ("PNG with a palette and alpha", SCORED, lambda: pillow("PNG", "P", transparency=3)),
        "png-grey-alpha": ("grey PNG with alpha", SCORED, lambda: pillow("PNG", "LA")),
        "png-rgba": ("RGB PNG with alpha", SCORED, lambda: pillow("PNG", "RGBA")),
        "png-animated": ("animated PNG: the first frame", SCORED, lambda: frames("PNG")),
        "jpeg-cmyk": ("CMYK JPEG", SCORED, lambda: cmyk),
        "jpeg-ycck": ("YCCK JPEG with Adobe's marker", SCORED, lambda: cmyk[:adobe] + b"\x02" + cmyk[adobe + 1 :]),
        "jpeg-rgb": ("RGB JPEG with Adobe's marker", SCORED, lambda: pillow("JPEG", "RGB", keep_rgb=True)),
        "jpeg-progressive": ("progressive JPEG", SCORED, lambda: jpeg(RGB, progressive=1)),
        "jpeg-arithmetic": ("arithmetic-coded JPEG", SCORED, lambda: base64.b64decode(_ARITHMETIC_JPEG)),
        "jpeg-12": ("12-bit JPEG", "unsupported", lambda: jpeg_frame(jpeg(), precision=12)),
        "jpeg-icc": ("colour profile of junk", SCORED, lambda: pillow("JPEG", "RGB", icc_profile=b"junk" * 999)),
        "png-icc": ("PNG with a colour profile of junk", SCORED, lambda: pillow("PNG", "L", icc_profile=b"junk" * 9)),
        "jpeg-tail": ("JPEG with 100 kB of garbage after its end", SCORED, lambda: jpeg() + b"\xff\xd8junk" * 17_000),
        "png-tail": ("PNG with garbage after its end", SCORED, lambda: encode("png", GREY) + b"junk" * 99),
        "tiff-pages": ("TIFF of three pages, nobody says which", "unsupported", lambda: raw_tiff(GREY, pages=3)),
        "tiff-big": ("BigTIFF", SCORED, lambda: raw_tiff(GREY, big=True, order=">")),
        "tiff-tiled": ("tiled TIFF", SCORED, tiled_tiff),
        "tiff-cmyk": ("CMYK TIFF", SCORED, lambda: pillow("TIFF", "CMYK")),
        "tiff-grey-alpha": ("grey TIFF with alpha", SCORED, lambda: pillow("TIFF", "LA")),
        "tiff-planes": ("8-bit TIFF, a plane for each colour", SCORED, separate_planes_tiff),
        "tiff-planes-16": (
            "16-bit TIFF, a plane for each colour",
            SCORED,
            lambda: tiff(planes, planes_16),
        ),
        "tiff-grey-3": ("grey TIFF with three channels", "unsupported", lambda: raw_tiff(RGB, photometric=1)),
        "tiff-float": ("floating-point TIFF", "unsupported", lambda: white),
        "tiff-nan": ("floating-point TIFF full of NaN", "unsupported", lambda: raw_tiff(nan, sample_format=3)),
        "tiff-32": ("32-bit TIFF", "unsupported", lambda: raw_tiff(GREY.astype(np.uint32))),
        "tiff-signed": ("signed 16-bit TIFF", "unsupported", lambda: raw_tiff(GREY.astype(np.int16), sample_format=2)),
        "tiff-zstd": ("TIFF compressed with Zstandard", "unsupported", lambda: pillow("TIFF", "L", compression="zstd")),
        "bmp-top-down": ("BMP with negative height", SCORED, lambda: bmp(GREY.tobytes(), height=-SIDE)),
        "bmp-rle": ("run-length encoded BMP", SCORED, rle_bmp),
        "bmp-jpeg": ("BMP with a JPEG inside", "unsupported", lambda: bmp(jpeg(), compression=4, colours=0)),
    }
    extensions = {"png-as-jpg": "jpg", "jpeg-as-tiff": "tif"}
    for name, (fault, outcome, make) in cases.items():
        yield BadImage(name, fault, outcome, make, extensions.get(name, "png"))
    for turn in range(1, 9):
        yield BadImage(
            f"exif-{turn}",
            "JPEG turned by its EXIF tag, all eight ways: judged as every viewer shows it",
            SCORED,
            lambda turn=turn: jpeg_with_orientation(turn),
            "jpg",
        )


def _pictures() -> Iterator[BadImage]:
    """Whole files of which the picture is wrong."""
    rows, columns = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    rng = np.random.default_rng(0)
    noise = rng.random((SIDE, SIDE))
    salted = np.where(noise < 0.1, 0, np.where(noise > 0.9, 255, GREY)).astype(np.uint8)
    half = np.vstack([GREY[: SIDE // 2], np.zeros_like(GREY[SIDE // 2 :])])
    vignetted = (GREY * np.clip(1.2 - 0.6 * (rows**2 + columns**2), 0, 1)).astype(np.uint8)
    cases = {
        "black": ("all black", "underexposed", np.zeros_like(GREY)),
        "dark": ("one hundredth of the light", "underexposed", GREY // 100),
        "white": ("all white", "overexposed", np.full_like(GREY, 255)),
        "grey": ("one grey everywhere", "blank", np.full_like(GREY, 128)),
        "black-16": ("16-bit camera without light", "underexposed", rng.integers(0, 900, GREY.shape, dtype=np.uint16)),
        "defocused": ("defocused", "blurred", cv2.GaussianBlur(GREY, (0, 0), 4)),
        "moved-far": ("motion blur in both directions", "blurred", cv2.blur(cv2.blur(GREY, (21, 1)), (1, 21))),
        "moved": ("motion blur of 15 px in one direction", SCORED, cv2.blur(GREY, (15, 1))),
        "vignetted": ("vignetted", SCORED, vignetted),
        "half-black": ("lower half black (a cable in view)", SCORED, half),
        "salted": ("a fifth of the pixels black or white", SCORED, salted),
        "one-pixel": ("1 x 1 px", "too_small", GREY[:1, :1]),
        "no-height": ("30,000 x 10 px", "too_small", np.resize(GREY, (10, 30_000))),
        "no-width": ("10 x 30,000 px", "too_small", np.resize(GREY, (30_000, 10))),
        "wrong-aspect": ("four times as wide: stretched", SCORED, np.hstack([GREY] * 4)),
    }
    for name, (fault, outcome, pixels) in cases.items():
        yield BadImage(name, fault, outcome, lambda pixels=pixels: encode("png", pixels))


def _unique(cases: Iterable[BadImage]) -> tuple[BadImage, ...]:
    every = tuple(cases)
    assert len({case.name for case in every}) == len(every)
    return every


IMAGES = _unique(itertools.chain(_cut(), _incomplete(), _no_image(), _bombs(), _kinds(), _pictures()))


# --- the keys -------------------------------------------------------------------------------------------------------

_PARTS = {
    "space": ("a space", "part 7 a"),
    "outer-space": ("spaces at both ends", " part "),
    "nfc": ("an umlaut, composed", unicodedata.normalize("NFC", "Gehäuse")),
    "nfd": ("the same umlaut, decomposed: another object and another part", unicodedata.normalize("NFD", "Gehäuse")),
    "script-of-asia": ("letters of other scripts", "部品-деталь-קטע"),
    "emoji": ("characters beyond 16 bits", "part-🔩"),
    "parent": ("`..` as the part", ".."),
    "dot": ("`.` as the part", "."),
    "parent-encoded": ("an encoded `../`", "..%2f..%2fetc"),
    "parent-windows": ("a `..` with backslashes", "..\\..\\windows"),
    "backslash": ("a backslash", "a\\b"),
    "percent": ("percent signs", "100%25 %zz %00"),
    "plus": ("a plus sign", "a+b"),
    "query": ("characters that mean something in an address", "a?b#c&d;e=f:g*h"),
    "quotes": ("quotes", "a\"b'c`d"),
    "tag": ("an HTML tag with an event", "<img src=x onerror=alert(1)>"),
    "attribute": ("the end of an HTML attribute", '" autofocus onfocus="alert(1)'),
    "style": ("the end of an HTML comment", "--><style>*{display:none}<!--"),
    "address": ("a javascript: address", "javascript:alert(1)"),
    "template": ("template code", "{{7*7}}{% raw %}${7*7}"),
    "markdown": ("a Markdown link and a table cell", "[x](javascript:alert(1)) | ![y](http:evil.example)"),
    "sql": ("SQL", "'; DROP TABLE image; --"),
    "shell": ("shell code", "$(touch x)`touch x`"),
    "newline": ("a newline", "a\nb"),
    "return": ("a carriage return", "a\rb"),
    "tab": ("a tab", "a\tb"),
    "control": ("control characters", "a\x01\x08\x0b\x7fb"),
    "ansi": ("a terminal's escape sequence", "\x1b[2J\x1b[31mred"),
    "separators": ("Unicode's line separators", "a\u2028b\u2029c\x85d"),
    "bidi": ("a change of writing direction", "photo\u202egnp.exe"),
    "invisible": ("invisible characters", "\ufeffpart\u200b"),
    "long": ("1,000 characters", "x" * 960),
    "equals": ("`=`, the start of a formula", "=1+1"),
    "command": ("a formula that starts a program", "=cmd|' -C calc'!A0"),
    "plus-first": ("`+`, the start of a formula", "+1"),
    "minus": ("`-`, the start of a formula", "-1"),
    "at": ("`@`, the start of a formula", "@SUM(A1)"),
    "tab-first": ("a tab before a formula", "\t=1+1"),
    "return-first": ("a carriage return before a formula", "\r=1+1"),
    "wide-equals": ("a full-width `=`", "\uff1d1+1"),
    "semicolon": ("a formula behind the separator of half of Europe", "a;=1+1"),
    "comma": ("a formula behind a comma and a quote", 'a",=1+1,"'),
    "none": ("a word that tables take for a missing value", "NaN"),
    "null": ("another such word", "null"),
    "number": ("a number with leading zeros", "007"),
    "case-lower": ("a part", "plate-a"),
    "case-upper": ("the same part in capitals: another part", "PLATE-A"),
}


def _keys() -> Iterator[BadKey]:
    for name, (fault, part) in _PARTS.items():
        yield BadKey(name, f"{fault} in the part's name", f"{DATE}/{part}/top.png", SCORED)
    yield BadKey("view", "an HTML tag as the view", f"{DATE}/view/<svg onload=alert(1)>.png", SCORED)
    yield BadKey("formula-view", "a formula as the view", f"{DATE}/formula-view/=1+1.png", SCORED)
    yield BadKey("dots", "several dots in the view", f"{DATE}/dots/top.2.final.png", SCORED)
    strays = {
        "script": ("`<script>`, whose slash is a folder", "<script>alert(1)</script>/top.png"),
        "other-file": ("no part and no view", "README"),
        "deeper": ("one folder more", "p/deeper/top.png"),
        "no-part": ("an empty part", "/top.png"),
        "no-extension": ("no extension", "p/top"),
        "strange-extension": ("an extension of other characters", "p/top.p~g"),
        "parents": ("a way out of the folder", "../../../etc/passwd"),
        "formula-key": ("a formula in a key of another layout", "=1+1"),
        "ending-newline": ("a newline at its end", "p/top.png\n"),
        "nul": ("a NUL character", "a\x00b/top.png"),
    }
    for name, (fault, rest) in strays.items():
        yield BadKey(name, fault, f"{DATE}/{rest}", STRAY)
    yield BadKey("folder", "a folder marker", f"{DATE}/p/", IGNORED)
    yield BadKey("day", "the folder marker of the day", f"{DATE}/", IGNORED)
    yield BadKey("sidecar", "a camera's notes beside its image", f"{DATE}/p/top.json", IGNORED)


KEYS = tuple(_keys())
UNSEEN_KEYS = (
    BadKey("february", "a day that does not exist", "2026-02-31/p/top.png", UNSEEN),
    BadKey("no-date", "something else where the date should be", "yesterday/p/top.png", UNSEEN),
    BadKey("digits", "digits of another script", "٢٠٢٦-٠٣-٠٨/p/top.png", UNSEEN),
)
