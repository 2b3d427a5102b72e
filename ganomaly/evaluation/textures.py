"""Surfaces without structure as inspection data: crops of one half of a photo train, crops of the other half test.

Solar cells are aligned and global; most surfaces are neither. The photos of brick, grass and gravel (512 x 512 px,
grey, CC0) come with the package scikit-image; the weave is computed. Real labels there are none: abnormal are crops
with drawn defects of every kind, size and contrast in turn.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle, islice, product
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from ganomaly.evaluation.drawn_defects import CONTRASTS, KINDS, SIZES, draw_defect
from ganomaly.evaluation.protocols import DataSet, Split
from ganomaly.images.preparation import read_image

TextureName = Literal["brick", "grass", "gravel", "weave"]
TEXTURES: tuple[TextureName, ...] = get_args(TextureName)

PHOTO_PX = 512
BRIGHTNESS = 0.1
"""Crops are brighter or darker than the photo by up to this share, as under a lamp that ages."""


@dataclass(frozen=True)
class TextureData:
    """Crops of a surface.

    Attributes:
        data: images uint8 (N, S, S), labelled "normal" and "abnormal". Parts are stripes of the photo, so that no pixel
            of it stands in two parts, and all of the half that tests is one part.
        split: who trains and who tests; `protocols.split` would mix the halves.
        masks_mhw: bool (M, S, S), what was drawn into the M test images; all False for normal ones.
    """

    data: DataSet
    split: Split
    masks_mhw: NDArray[np.bool_]


def texture(
    name: TextureName,
    *,
    side_px: int = 128,
    train_images: int = 600,
    test_normal: int = 162,
    test_abnormal: int = 162,
    seed: int = 0,
) -> TextureData:
    """Random crops of the left half of a photo to train with, of the right half to test.

    Args:
        name: brick, grass and gravel need the package scikit-image; weave needs none.
        side_px: side of a crop, 32 to 128: the left half has at least three stripes, one of which can calibrate.
        train_images: crops of the left half.
        test_normal: crops of the right half.
        test_abnormal: further crops of the right half, each with a defect; 54 have one of each sort.
        seed: draws places, brightness and defects.

    Raises:
        FileNotFoundError: if the package is not installed.
        ValueError: for an unknown name or a side out of range.
    """
    if not 32 <= side_px <= 128:
        raise ValueError(f"side_px = {side_px}: must lie between 32 and 128")
    photo, rng = read_texture(name), np.random.default_rng(seed)
    half = PHOTO_PX // 2
    stripes = np.array_split(photo[:, :half], 3 * PHOTO_PX // (4 * side_px))  # a third higher than a crop
    stripe_n = np.arange(train_images) % len(stripes)
    train = [_crop(stripes[i], side_px, rng) for i in stripe_n]
    normal = [_crop(photo[:, half:], side_px, rng) for _ in range(test_normal)]
    settings = islice(cycle(product(KINDS, SIZES, CONTRASTS)), test_abnormal)
    drawn = [
        draw_defect(_crop(photo[:, half:], side_px, rng), kind, rng, size=size, contrast=contrast)
        for kind, size, contrast in settings
    ]
    images = np.array([*train, *normal, *(defect.image for defect in drawn)])
    abnormal = np.repeat([False, False, True], [train_images, test_normal, test_abnormal])
    parts = np.array([*(f"left-{i}" for i in stripe_n), *["right"] * (test_normal + test_abnormal)])
    data = DataSet(f"texture-{name}", images, np.where(abnormal, "abnormal", "normal"), parts)
    test = np.arange(train_images, len(images))
    no_mask = np.zeros((test_normal, side_px, side_px), dtype=bool)
    masks = np.concatenate([no_mask, *(defect.mask[None] for defect in drawn)])
    return TextureData(data, Split(np.arange(train_images), test, abnormal[test]), masks)


def read_texture(name: TextureName) -> NDArray[np.uint8]:
    """A whole surface, uint8 (512, 512).

    Raises:
        FileNotFoundError: if it is a photo and the package scikit-image is not installed.
        ValueError: for an unknown name.
    """
    if name not in TEXTURES:
        raise ValueError(f"texture = {name!r}: must be one of {', '.join(TEXTURES)}")
    if name == "weave":
        return _weave(np.random.default_rng(0))
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package scikit-image is not installed: pip install scikit-image")
    photo = read_image(Path(spec.origin).parent / "data" / f"{name}.png")
    assert photo.dtype == np.uint8
    assert photo.shape == (PHOTO_PX, PHOTO_PX)
    return photo.astype(np.uint8)


def _crop(area: NDArray[np.uint8], side_px: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    y, x = (int(rng.integers(0, n - side_px + 1)) for n in area.shape)
    light = rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS)
    crop: NDArray[np.uint8] = np.rint(np.clip(area[y : y + side_px, x : x + side_px] * light, 0, 255)).astype(np.uint8)
    return crop


def _weave(rng: np.random.Generator, thread_px: float = 9.0) -> NDArray[np.uint8]:
    """Threads over and under each other, each a little thicker or brighter than the next, with fibres on them."""
    wander_y, wander_x = (0.15 * _noise(rng, 24.0) for _ in range(2))
    rows, columns = np.mgrid[:PHOTO_PX, :PHOTO_PX] / thread_px
    rows, columns = rows + wander_y, columns + wander_x
    over = (np.floor(rows) + np.floor(columns)) % 2 == 0
    weft, warp = np.abs(np.sin(np.pi * rows)), np.abs(np.sin(np.pi * columns))
    shade = rng.normal(0, 6, (2, PHOTO_PX))
    height = np.where(over, weft, warp)
    of_thread = np.where(over, shade[0][np.floor(rows).astype(int)], shade[1][np.floor(columns).astype(int)])
    fibres = _noise(rng, 0.8) - _noise(rng, 2.5)
    grey = 70 + 85 * np.sqrt(height) + of_thread + 6 * fibres
    weave: NDArray[np.uint8] = np.rint(np.clip(grey, 0, 255)).astype(np.uint8)
    return weave


def _noise(rng: np.random.Generator, sigma_px: float) -> NDArray[np.float64]:
    """Smooth noise of deviation 1, (512, 512)."""
    noise = np.asarray(cv2.GaussianBlur(rng.normal(size=(PHOTO_PX, PHOTO_PX)), (0, 0), sigma_px), np.float64)
    return noise / float(noise.std())
