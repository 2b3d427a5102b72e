"""Files as cameras write them: harmless deviations are decoded, headers that lie are seen through or refused."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from ganomaly.errors import ImageError
from ganomaly.images.decoding import decode_image
from tests.ganomaly.images.files import GREY, GREY_16, HEIGHT, RGB, RGB_16, WIDTH, bmp, jpeg, opencv, palette_png, tiff
from tests.ganomaly.images.test_decoding import TURNS


def reason(data: bytes) -> str:
    """Why decoding refuses the bytes."""
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    return caught.value.reason


def in_scan_header(data: bytes, spectral: bytes) -> bytes:
    """The JPEG with other bytes where a baseline scan has 0, 63, 0."""
    at = data.index(b"\xff\xda")
    length = struct.unpack_from(">H", data, at + 2)[0]
    return data[: at + 2 + length - 3] + spectral + data[at + 2 + length :]


def test_jpegs_of_cameras() -> None:
    """Every image of a camera would be unusable, with the advice to transfer it again."""
    whole = jpeg(RGB)
    wanted = decode_image(whole)
    for spectral in (b"\x00\x00\x00", b"\x00\x3f\x11", b"\x01\x05\x00", b"\xff\xff\xff"):
        np.testing.assert_array_equal(decode_image(in_scan_header(whole, spectral)), wanted)
    np.testing.assert_array_equal(decode_image(whole[:-2]), wanted)
    np.testing.assert_array_equal(decode_image(whole[:20] + b"\x00\x01\x02" + whole[20:]), wanted)
    assert reason(whole[:-9]) == "truncated"
    assert reason(whole[:-2] + bytes(40)) == "truncated"


def test_other_files_of_cameras() -> None:
    """The same, for their other formats."""
    png = opencv(".png", RGB)
    for end in (len(png) - 12, len(png) - 8, len(png) - 4):
        np.testing.assert_array_equal(decode_image(png[:end]), RGB)
    for pixels, bits in ((RGB, 24), (GREY[:, :-1], 8)):
        np.testing.assert_array_equal(decode_image(bmp(pixels, bits=bits, padded=False)), pixels)
    assert reason(bmp(GREY[:, :-1], bits=8, padded=False)[:-1]) == "truncated"


@pytest.mark.parametrize("pixels", [GREY, RGB, GREY_16, RGB_16], ids=["grey", "RGB", "grey 16", "RGB 16"])
def test_a_tiff_without_byte_counts(pixels: np.ndarray) -> None:
    """An uncompressed TIFF says by its size how long its strips are."""
    data = bytearray(tiff("", pixels))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tag = file.pages[0].tags[279]
        data[tag.valueoffset : tag.valueoffset + tag.valuebytecount] = bytes(tag.valuebytecount)
    np.testing.assert_array_equal(decode_image(bytes(data)), pixels)
    assert reason(bytes(data[: len(data) - 40])) == "truncated"


HEADERS, DEPTHS = (12, 40, 52, 56, 64, 108, 124), (1, 4, 8, 16, 24, 32)
MASKS = {16: ((0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)), 32: ((0xFF0000, 0xFF00, 0xFF), (0xFF, 0xFF00, 0xFF0000))}


@pytest.mark.parametrize("said", [None, 0, 14, 50, 10_000_000])
@pytest.mark.parametrize(("header", "bits"), [(h, b) for h in HEADERS for b in DEPTHS if h != 12 or b not in MASKS])
def test_a_bmp_that_lies_about_its_pixels_place(header: int, bits: int, said: int | None) -> None:
    """Up to 96 % of the pixels would be wrong, and be judged."""
    for masks in MASKS.get(bits, ((),)):
        pixels = RGB if bits >= 16 else GREY >> (8 - bits)
        wanted = RGB if bits >= 16 else (pixels.astype(int) * 255 // ((1 << bits) - 1)).astype(np.uint8)
        found = decode_image(bmp(pixels, header=header, bits=bits, masks=masks, said=said))
        assert found.shape == wanted.shape
        assert np.abs(found.astype(int) - wanted).max() <= (8 if bits == 16 else 0)


def test_a_tiff_that_lies_about_its_strips_place() -> None:
    """The header's bytes would be judged as pixels."""
    data = bytearray(tiff("", GREY))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tag = file.pages[0].tags[273]
        data[tag.valueoffset : tag.valueoffset + tag.valuebytecount] = bytes(tag.valuebytecount)
    assert reason(bytes(data)) == "truncated"


MASK = 4


def of_pages(*pages: tuple[np.ndarray, int], below: bool = False) -> bytes:
    """A TIFF of images, each with its kind: 0 full, 1 preview, `MASK`; `below` puts all but the first under it."""
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        for number, (pixels, kind) in enumerate(pages):
            colours = "mask" if kind == MASK else "rgb" if pixels.ndim == 3 else "minisblack"
            writer.write(
                pixels,
                photometric=colours,
                subfiletype=kind,
                subifds=len(pages) - 1 if below and number == 0 else 0,
            )
    return out.getvalue()


def test_the_image_of_a_file_with_several() -> None:
    """A part would be judged by its thumbnail, its mask, or a picture that nobody meant."""
    preview, mask = np.ascontiguousarray(RGB[::8, ::8]), GREY > 99
    np.testing.assert_array_equal(decode_image(of_pages((preview, 1), (RGB, 0), (mask, MASK))), RGB)
    np.testing.assert_array_equal(decode_image(of_pages((preview, 1), (RGB, 0), below=True)), RGB)
    assert reason(of_pages((RGB, 0), (GREY, 0))) == "unsupported"
    assert reason(of_pages((preview, 1), (mask, MASK))) == "unreadable"


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("tile", [0, 32], ids=["strips", "tiles"])
@pytest.mark.parametrize("pixels", [GREY, RGB, GREY_16, RGB_16], ids=["grey", "RGB", "grey 16", "RGB 16"])
def test_a_turned_tiff_stands_as_viewers_show_it(pixels: np.ndarray, tile: int, turn: int) -> None:
    """Heat map and regions would lie elsewhere than on the picture that the person sees."""
    data = tiff("lzw", pixels, tile=tile, extratags=[(274, 3, 1, turn, True)])
    np.testing.assert_array_equal(decode_image(data), TURNS[turn](pixels))


def test_colours_are_converted_or_refused() -> None:
    """Ink would be taken for light, or a lightness for a colour."""
    inks = np.dstack([255 - RGB, GREY // 4])
    for kind in ("JPEG", "TIFF"):
        data = io.BytesIO()
        Image.fromarray(inks, "CMYK").save(data, kind)
        viewed = np.asarray(Image.open(data).convert("RGB")).astype(int)
        assert np.abs(decode_image(data.getvalue()) - viewed).max() <= 2
    lab = io.BytesIO()
    Image.fromarray(RGB).convert("LAB").save(lab, "TIFF")
    assert reason(lab.getvalue()) == "unsupported"


def test_a_pixel_without_a_colour_is_refused() -> None:
    """A palette that is too short would make pixels black."""
    data = palette_png()
    at = data.index(b"PLTE") - 4
    (length,) = struct.unpack_from(">I", data, at)
    short = b"PLTE" + data[at + 8 : at + 8 + 30]
    chunk = struct.pack(">I", 30) + short + struct.pack(">I", zlib.crc32(short))
    assert reason(data[:at] + chunk + data[at + 12 + length :]) == "unreadable"


def test_alpha_of_a_tiff_is_dropped() -> None:
    """A transparent margin would turn good pixels black."""
    rgba = np.dstack([RGB, np.full_like(GREY, 40)])
    out = io.BytesIO()
    tifffile.imwrite(out, rgba, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(decode_image(out.getvalue()), RGB)
    assert decode_image(out.getvalue()).shape == (HEIGHT, WIDTH, 3)
