"""Large JPEG files decoded at a reduced size: network and quality gate see what they would see of all pixels."""

import struct

import cv2
import numpy as np
import pytest

from ganomaly.errors import ImageError
from ganomaly.images.decoding import decode_image, decode_reduced
from ganomaly.images.preparation import prepare_image
from ganomaly.images.quality import QualityGate
from ganomaly.images.recipe import Recipe

HEIGHT, WIDTH = 1205, 1603  # no multiple of 8


def photo(height: int = HEIGHT, width: int = WIDTH, *, colour: bool = False) -> np.ndarray:
    """A part with structure of every size, and noise; a different one in each corner."""
    rng = np.random.default_rng(0)
    image = np.zeros((height, width))
    for cells in (5, 17, 61, 240):
        image += cv2.resize(rng.normal(0, 22, (cells, cells)), (width, height), interpolation=cv2.INTER_CUBIC)
    grey = np.clip(image + 120 + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    return np.dstack([grey, 255 - grey, grey // 2]) if colour else grey


def jpeg(image: np.ndarray, turn: int = 1) -> bytes:
    """A JPEG file with an orientation tag."""
    data = cv2.imencode(".jpg", image[..., ::-1] if image.ndim == 3 else image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    content = b"Exif\x00\x00II*\x00" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, turn, 0, 0)
    return data[:2].tobytes() + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + data[2:].tobytes()


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("roi", [None, (301, 203, 777, 590)])
@pytest.mark.parametrize("colour", [False, True])
def test_the_network_sees_the_same(turn: int, roi: tuple[int, int, int, int] | None, colour: bool) -> None:
    """A region would be cut out at another place, turned images squeezed, or fine structure turn into moire."""
    data = jpeg(photo(colour=colour), turn)
    reduced, full = (Recipe(roi=roi, channels=3 if colour else 1, reduced_jpeg=on) for on in (True, False))
    assert reduced.reduction(WIDTH, HEIGHT) == 2
    found, wanted = (prepare_image(data, recipe, QualityGate()) for recipe in (reduced, full))
    assert found.pixels is not None
    assert wanted.pixels is not None
    distance = np.abs(found.pixels.astype(int) - wanted.pixels).mean()
    assert distance < (2 if roi is None else 4), f"{distance:.2f} of 255 grey levels"  # a region begins between pixels
    assert wanted.pixels.std() > 30
    assert found.figures is not None
    assert wanted.figures is not None
    sides = (WIDTH, HEIGHT) if turn < 5 else (HEIGHT, WIDTH)
    assert (found.figures.width_px, found.figures.height_px) == sides
    for name in ("brightness", "contrast", "sharpness"):
        assert getattr(found.figures, name) == pytest.approx(getattr(wanted.figures, name), rel=0.05), name


@pytest.mark.parametrize(("times", "shape"), [(1, (1205, 1603)), (2, (603, 802)), (4, (302, 401)), (8, (151, 201))])
def test_pixels_become_fewer(times: int, shape: tuple[int, int]) -> None:
    """All pixels would be computed and the time be lost."""
    pixels, full_size = decode_reduced(jpeg(photo()), lambda _width_px, _height_px: times)
    assert pixels.shape == shape
    assert full_size == (HEIGHT, WIDTH)


def test_a_nearly_square_image_that_was_turned() -> None:
    """Width and height would be exchanged, and a region at the border be outside."""
    pixels, full_size = decode_reduced(jpeg(photo(1201, 1202), 6), Recipe().reduction)
    assert full_size == (1202, 1201)
    assert pixels.shape == (601, 601)


def test_other_files_keep_all_pixels() -> None:
    """OpenCV would decode everything, then shrink it worse than the recipe does."""
    png = cv2.imencode(".png", photo(60, 80))[1].tobytes()
    pixels, full_size = decode_reduced(png, lambda _width_px, _height_px: 8)
    np.testing.assert_array_equal(pixels, decode_image(png))
    assert full_size == (60, 80)


@pytest.mark.parametrize(
    ("recipe", "size", "times"),
    [
        (Recipe(), (511, 511), 1),
        (Recipe(), (1024, 1024), 2),
        (Recipe(), (4096, 3000), 8),
        (Recipe(), (4096, 300), 2),  # the short side keeps twice the network's
        (Recipe(size_px=256), (4096, 3000), 4),
        (Recipe(roi=(0, 0, 300, 200)), (4096, 3000), 1),
        (Recipe(reduced_jpeg=False), (4096, 3000), 1),
        (Recipe(resize=False, roi=(0, 0, 64, 64)), (4096, 3000), 1),
    ],
)
def test_how_much_may_be_left_out(recipe: Recipe, size: tuple[int, int], times: int) -> None:
    """Pixels that the network or the quality gate needs would be missing, or far too many be decoded."""
    assert recipe.reduction(*size) == times


def test_faults_keep_their_names() -> None:
    """A broken or huge file would be judged, or refused under another name."""
    data = jpeg(photo())
    for broken, limit, reason in ((data[:-500], 10**8, "truncated"), (data, HEIGHT * WIDTH - 1, "too_large")):
        with pytest.raises(ImageError) as caught:
            decode_reduced(broken, Recipe().reduction, max_pixels=limit)
        assert caught.value.reason == reason
    outside = prepare_image(data, Recipe(roi=(0, 0, WIDTH + 1, HEIGHT)), QualityGate())
    assert outside.reason == "roi_outside"
    assert f"{WIDTH} x {HEIGHT}" in str(outside.detail)
