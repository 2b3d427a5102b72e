"""Decoding: every format and depth comes out right, and whatever is wrong with a file has a name."""

import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from ganomaly.errors import ImageError
from ganomaly.images.decoding import decode_image

HEIGHT, WIDTH = 24, 40
GREY = (np.add.outer(np.arange(HEIGHT) * 4, np.arange(WIDTH) * 3)).astype(np.uint8)
RGB = np.dstack([GREY, GREY // 2, 255 - GREY])
GREY_16 = GREY.astype(np.uint16) * 257 + 5
RGB_16 = RGB.astype(np.uint16) * 257
NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)

LOSSLESS = {
    "png": (".png", [GREY, RGB, GREY_16, RGB_16]),
    "tiff": (".tiff", [GREY, RGB, GREY_16, RGB_16]),
    "bmp": (".bmp", [GREY, RGB]),
}
CASES = [
    pytest.param(extension, pixels, id=f"{name}-{pixels.dtype}-{'rgb' if pixels.ndim == 3 else 'grey'}")
    for name, (extension, images) in LOSSLESS.items()
    for pixels in images
]


def encode(extension: str, pixels: np.ndarray, *parameters: int) -> bytes:
    """An image file of RGB, RGBA or grey pixels."""
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    return cv2.imencode(extension, pixels, parameters)[1].tobytes()


def tiff(
    pixels: bytes,
    *,
    bits: int,
    photometric: int = 1,
    order: str = "<",
    big: bool = False,
    pages: int = 1,
    others: dict[int, int] | None = None,
) -> bytes:
    """An uncompressed grey TIFF of WIDTH x HEIGHT, its directories behind the pixels; `others` replaces tags."""
    tags = {256: WIDTH, 257: HEIGHT, 258: bits, 259: 1, 262: photometric, 273: 16, 277: 1, 278: HEIGHT}
    tags |= {279: len(pixels)} | (others or {})
    mark = {"<": b"II", ">": b"MM"}[order]
    directory_at = 16 + len(pixels)
    if big:
        head = mark + struct.pack(order + "HHHQ", 43, 8, 0, directory_at)
    else:
        head = mark + struct.pack(order + "HI8x", 42, directory_at)
    body = head + pixels
    for page in range(pages):
        body += struct.pack(order + ("Q" if big else "H"), len(tags))
        for tag, value in sorted(tags.items()):
            body += struct.pack(order + ("HHQQ" if big else "HHII"), tag, 16 if big else 4, 1, value)
        following = len(body) + (8 if big else 4) if page + 1 < pages else 0
        body += struct.pack(order + ("Q" if big else "I"), following)
    return body


def exif(turn: int) -> bytes:
    """An EXIF directory that holds an orientation and nothing else."""
    return b"II*\x00" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, turn, 0, 0)


def jpeg_with_orientation(turn: int) -> bytes:
    """A JPEG of RGB with an EXIF orientation tag."""
    data = encode(".jpg", RGB)
    content = b"Exif\x00\x00" + exif(turn)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + data[2:]


def png_with_orientation(turn: int) -> bytes:
    """A PNG of GREY with an eXIf chunk."""
    data, chunk = encode(".png", GREY), b"eXIf" + exif(turn)
    return data[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


def reason(data: bytes, **settings: int) -> str:
    """Why decoding refuses the bytes."""
    with pytest.raises(ImageError) as caught:
        decode_image(data, **settings)
    assert len(caught.value.detail) > 10
    return caught.value.reason


@pytest.mark.parametrize(("extension", "pixels"), CASES)
def test_lossless_formats_give_back_the_exact_pixels(extension: str, pixels: np.ndarray) -> None:
    """A detector would see other values, a lower depth or swapped colours."""
    decoded = decode_image(encode(extension, pixels))
    assert decoded.dtype == pixels.dtype
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "rgb"])
def test_jpeg_is_close_to_the_original(pixels: np.ndarray, progressive: int) -> None:
    """JPEG images would be refused, or their red and blue exchanged."""
    parameters = (cv2.IMWRITE_JPEG_QUALITY, 98, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    decoded = decode_image(encode(".jpg", pixels, *parameters))
    assert decoded.shape == pixels.shape
    assert np.abs(decoded.astype(int) - pixels).mean() < 6


def test_alpha_is_dropped_not_blended() -> None:
    """A transparent margin would turn good pixels black."""
    rgba = np.dstack([RGB, np.full_like(GREY, 50)])
    np.testing.assert_array_equal(decode_image(encode(".png", rgba)), RGB)


def test_one_bit_png_becomes_black_and_white() -> None:
    """Masks and line scans with one bit per pixel would be refused or nearly black."""
    decoded = decode_image(encode(".png", np.where(GREY > 90, 255, 0).astype(np.uint8), cv2.IMWRITE_PNG_BILEVEL, 1))
    assert sorted(np.unique(decoded)) == [0, 255]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True], ids=["classic", "big"])
@pytest.mark.parametrize("photometric", [0, 1], ids=["white-is-zero", "black-is-zero"])
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_of_either_byte_order_size_and_polarity(order: str, big: bool, photometric: int, bits: int) -> None:
    """TIFF files of some cameras would be refused or come out as negatives."""
    pixels = GREY if bits == 8 else GREY_16
    data = tiff(
        pixels.astype(f"{order}u{bits // 8}").tobytes(), bits=bits, photometric=photometric, order=order, big=big
    )
    np.testing.assert_array_equal(decode_image(data), pixels if photometric else ~pixels)


def test_several_images_in_a_tiff_are_refused() -> None:
    """A part would be judged by one of its pictures, and nobody know by which."""
    assert reason(tiff(GREY.tobytes(), bits=8, pages=3)) == "unsupported"


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: np.swapaxes(image, 0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(np.swapaxes(image, 0, 1), 2),
    8: np.rot90,
}


@pytest.mark.parametrize("turn", TURNS)
def test_orientation_tag_is_honoured(turn: int) -> None:
    """A region of interest measured in an image viewer would cut out another place."""
    turned = TURNS[turn]
    upright = decode_image(jpeg_with_orientation(1))
    np.testing.assert_array_equal(decode_image(jpeg_with_orientation(turn)), turned(upright))
    np.testing.assert_array_equal(decode_image(png_with_orientation(turn)), turned(GREY))
    for pixels in (GREY, GREY_16):
        data = tiff(pixels.tobytes(), bits=8 * pixels.dtype.itemsize, others={274: turn})
        np.testing.assert_array_equal(decode_image(data), turned(pixels))


def test_bytes_that_are_no_image() -> None:
    """An error page saved as .png would raise something else than an ImageError, or an unnamed one."""
    assert reason(b"") == "empty"
    assert reason(b"<html>404</html>") == "unreadable"
    assert reason(b"\x89PN") == "unreadable"
    damaged = bytearray(encode(".png", NOISE))
    damaged[len(damaged) // 2] ^= 0xFF
    assert reason(bytes(damaged)) == "unreadable"


@pytest.mark.parametrize("extension", [".png", ".jpg", ".tiff", ".bmp"])
def test_every_truncation_is_noticed(extension: str) -> None:
    """Half an image would be judged as if it were whole."""
    data = encode(extension, NOISE)
    shortest, end = {".jpg": (3, 2), ".png": (20, 12)}.get(extension, (20, 0))
    for length in [*range(shortest, len(data) - 16, 97), *range(len(data) - 16, len(data))]:
        if len(data) - length > end:
            assert reason(data[:length]) == "truncated", length
        elif length == len(data) - end:  # all but a mark of the end, which some cameras leave out
            np.testing.assert_array_equal(decode_image(data[:length]), decode_image(data))


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_a_tail_of_zeros_is_noticed(extension: str) -> None:
    """A file whose space was reserved but not written would be judged; OpenCV decodes such a JPEG."""
    data = encode(extension, NOISE)
    for length in range(len(data) * 6 // 10, len(data) - 2, 41):
        assert reason(data[:length] + bytes(len(data) - length)) == "truncated"


def test_bytes_after_the_end_are_allowed() -> None:
    """Cameras that append their own data would have every image refused."""
    for extension in (".png", ".jpg", ".bmp", ".tiff"):
        data = encode(extension, GREY)
        np.testing.assert_array_equal(decode_image(data + b"serial 4711" * 9), decode_image(data))


def test_size_is_checked_before_decoding() -> None:
    """A few bytes that claim to be 65,000 x 65,000 px would take the machine's memory."""
    data = encode(".png", GREY)
    for extension in (".png", ".jpg", ".tiff", ".bmp"):
        whole = encode(extension, GREY)
        assert reason(whole, max_pixels=HEIGHT * WIDTH - 1) == "too_large"
        assert decode_image(whole, max_pixels=HEIGHT * WIDTH).shape == (HEIGHT, WIDTH)
    assert reason(data[:16] + struct.pack(">II", 1 << 31, 1 << 31) + data[24:]) == "too_large"
    assert reason(data[:16] + struct.pack(">II", 0, 5) + data[24:]) == "unreadable"


def test_a_damaged_chunk_length_costs_no_memory() -> None:
    """One flipped bit in a PNG would make OpenCV allocate 4 GB and take seconds."""
    data = encode(".png", GREY)
    at = data.index(b"IDAT") - 4
    assert reason(data[:at] + b"\xf0" + data[at + 1 :]) == "truncated"


def test_an_end_before_the_pixels_costs_no_memory() -> None:
    """OpenCV would look for pixels behind the end of a PNG, and take 512 MB for what it takes for their length."""
    data = encode(".png", GREY)
    end = data[-12:]
    assert reason(data[:33] + end + b"\x40\x00\x12\x7fIDAT" + data[41:]) == "unreadable"


def test_a_jpeg_must_bring_all_its_scans() -> None:
    """A progressive file that was cut and closed would be judged although it is a blur."""
    data = encode(".jpg", RGB, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    scans = [at for at in range(len(data) - 1) if data[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 5
    for at in scans[1:]:
        assert reason(data[:at] + b"\xff\xd9") == "truncated"


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_image() -> None:
    """A JPEG cut before its last bytes would pass as whole because of the small one inside it."""
    data, thumbnail = encode(".jpg", NOISE), encode(".jpg", GREY)
    whole = data[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:]
    np.testing.assert_array_equal(decode_image(whole), decode_image(data))
    assert reason(whole[:-20]) == "truncated"


def test_a_foreign_marker_inside_a_scan_is_noticed() -> None:
    """A JPEG with a damaged sector would be judged by what OpenCV paints after it gave up."""
    data = encode(".jpg", NOISE)
    at = len(data) * 2 // 3
    assert reason(data[:at] + b"\xff\x05" + data[at + 2 :]) == "unreadable"


def test_tiff_pieces_must_hold_their_pixels() -> None:
    """OpenCV paints black what an 8-bit TIFF lacks, or what cannot be inflated."""
    assert reason(tiff(GREY.tobytes(), bits=8, others={279: GREY.size // 2})) == "truncated"
    assert reason(tiff(GREY.tobytes()[:-1], bits=8)) == "truncated"
    assert reason(tiff(GREY.tobytes(), bits=8, others={278: HEIGHT // 2})) == "truncated"
    deflated = zlib.compress(GREY.tobytes())
    np.testing.assert_array_equal(decode_image(tiff(deflated, bits=8, others={259: 8})), GREY)
    assert reason(tiff(zlib.compress(GREY.tobytes()[:-1]), bits=8, others={259: 8})) == "truncated"
    damaged = deflated[:40] + bytes(9) + deflated[49:]
    assert reason(tiff(damaged, bits=8, others={259: 8})) == "unreadable"
    assert reason(tiff(GREY.tobytes(), bits=8, others={322: 16})) == "unreadable"  # tiles of no height


def test_colours_must_add_up() -> None:
    """Three channels of a "grey" image would come out as the first of them."""
    assert reason(tiff(RGB.tobytes(), bits=8, others={277: 3})) == "unsupported"
    np.testing.assert_array_equal(decode_image(tiff(RGB.tobytes(), bits=8, photometric=2, others={277: 3})), RGB)


def test_numbers_beyond_any_file_are_no_surprise() -> None:
    """A damaged 64-bit offset would end the night with an OverflowError."""
    data = bytearray(tiff(GREY.tobytes(), bits=8, big=True))
    data[8:16] = b"\xff" * 8
    assert reason(bytes(data)) == "truncated"


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32])
def test_pixels_without_a_white_are_refused(dtype: type) -> None:
    """Floating point or signed pixels would be scaled by a guess, and NaN would reach the network."""
    assert reason(encode(".tiff", GREY.astype(dtype))) == "unsupported"


def test_damaged_files_raise_nothing_but_image_errors() -> None:
    """One damaged file would stop the night with an exception nobody catches."""
    rng = np.random.default_rng(1)
    whole = [encode(extension, pixels) for extension, pixels in [(".png", RGB), (".jpg", RGB), (".bmp", GREY)]]
    whole += [encode(".tiff", GREY_16), tiff(GREY.tobytes(), bits=8), tiff(GREY.tobytes(), bits=8, big=True, order=">")]
    outcomes = set()
    for attempt in range(900):
        data = bytearray(whole[attempt % len(whole)])
        # the structure stands at either end: that is where damage does most
        span = min(len(data), 300)
        places = rng.integers(0, span, rng.integers(1, 6))
        for place in places if rng.random() < 0.5 else len(data) - 1 - places:
            data[place] = rng.integers(0, 256)
        try:
            decoded = decode_image(bytes(data), max_pixels=1_000_000)
        except ImageError as error:
            outcomes.add(error.reason)
        else:
            assert decoded.dtype in (np.uint8, np.uint16)
            assert decoded.shape[2:] in ((), (3,))
    assert outcomes >= {"unreadable", "truncated", "too_large"}
