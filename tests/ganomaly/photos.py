"""Photos whose part is known: drawn parts, and a second photo of one as another camera or day would take it."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Photo = NDArray[np.uint8]


def photograph_again(
    photo: Photo,
    rng: np.random.Generator,
    *,
    shift: tuple[float, float] = (1, 3),
    turn_degrees: float = 2,
    crop: float = 0.05,
) -> Photo:
    """Another photo, uint8 (H, W), of the same part.

    Shifted by pixels of a photo of 150 px, turned, cropped by up to a share of its side, with other brightness and
    contrast, sensor noise, and saved as JPEG of quality 60 to 95.
    """
    height, width = photo.shape
    angle, direction = rng.uniform(-turn_degrees, turn_degrees), rng.uniform(0, 2 * np.pi)
    distance = rng.uniform(*shift) * height / 150
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1 / (1 - rng.uniform(0, crop)))
    matrix[:, 2] += distance * np.array([np.cos(direction), np.sin(direction)])
    moved = cv2.warpAffine(photo.astype(np.float32), matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    exposed = (moved - 128) * rng.uniform(0.7, 1.3) + 128 + rng.uniform(-20, 20)
    noisy = np.clip(exposed + rng.normal(0, 4, moved.shape), 0, 255).astype(np.uint8)
    _, jpeg = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 95))])
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE), np.uint8)


def draw_textures(n: int, seed: int, *, size_px: int = 96) -> list[Photo]:
    """Parts that resemble each other in nothing, uint8 (size_px, size_px): blotches."""
    rng = np.random.default_rng(seed)
    blotches = (cv2.GaussianBlur(rng.normal(0, 1, (size_px, size_px)), (0, 0), size_px / 24) for _ in range(n))
    return [np.clip(128 + 40 * blotch / blotch.std(), 0, 255).astype(np.uint8) for blotch in blotches]


def draw_bottles(n: int, seed: int, *, size_px: int = 96) -> list[Photo]:
    """Different parts on a fixture, uint8 (size_px, size_px): the same rings, a faint texture of their own, noise.

    As they are, any two correlate at about 0.99.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size_px, :size_px] - size_px / 2
    radius = np.hypot(y, x) / size_px
    rings = 128 + 80 * np.cos(50 * radius) * (radius < 0.44)
    photos = []
    for texture in draw_textures(n, seed + 1, size_px=size_px):
        own = (texture.astype(np.float32) - 128) / 40
        photos.append(np.clip(rings + 4 * own + rng.normal(0, 2, rings.shape), 0, 255).astype(np.uint8))
    return photos


def session(parts: Sequence[Photo], photos_each: int, seed: int) -> tuple[list[Photo], NDArray[np.intp]]:
    """Each part photographed so often: the photos and the number of the part of each."""
    rng = np.random.default_rng(seed)
    photos = [part if i == 0 else photograph_again(part, rng) for part in parts for i in range(photos_each)]
    return photos, np.repeat(np.arange(len(parts)), photos_each)
