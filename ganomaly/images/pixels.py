"""Arithmetic on pixels and masks: other sizes, other channels, local contrast."""

from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from ganomaly.errors import ImageError
from ganomaly.images.formats.common import Pixels

SHRUNK_PX = 512
"""Longer side of images that are kept to learn a frame from."""


def grey_or_colour(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 1) as (H, W), (H, W, 3) as it is."""
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels


def scaled_slice(start: int, end: int, scale: float) -> slice:
    """A range of pixels at another scale, at least one pixel long."""
    first = round(start * scale)
    return slice(first, max(first + 1, round(end * scale)))


def check_pixels(image: Pixels) -> None:
    """Raise `ImageError` "unsupported" or "empty" if an array is no camera image."""
    if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)):
        raise ImageError(
            "unsupported",
            f"array of {image.dtype} {image.shape}: must be uint8 or uint16 of shape (H, W) or (H, W, 3) RGB",
        )
    if image.size == 0:
        raise ImageError("empty", f"array of shape {image.shape} has no pixels")


def with_channels(region: Pixels, channels: int) -> NDArray[Any]:
    """(H, W) for one channel, (H, W, 3) RGB for three."""
    if channels == 1 and region.ndim == 3:
        return cv2.cvtColor(region, cv2.COLOR_RGB2GRAY)
    if channels == 3 and region.ndim == 2:
        return cv2.cvtColor(region, cv2.COLOR_GRAY2RGB)
    return region


def resized(image: NDArray[np.float32], height_px: int, width_px: int) -> NDArray[np.float32]:
    """Stretch to a size: first the axes that shrink, by area, then those that grow, linearly."""
    height, width = image.shape[:2]
    shrunk = (min(width, width_px), min(height, height_px))
    if shrunk != (width, height):
        image = np.asarray(cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA), np.float32)
    if shrunk != (width_px, height_px):
        image = np.asarray(cv2.resize(image, (width_px, height_px), interpolation=cv2.INTER_LINEAR), np.float32)
    return image


def mask_in_blocks(mask_hw: NDArray[np.bool_], height_px: int, width_px: int) -> NDArray[np.bool_]:
    """A mask of an image that was decoded at 1/2, 1/4 or 1/8: every pixel whose block holds one of the mask's."""
    height, width = mask_hw.shape
    if (height, width) == (height_px, width_px):
        return mask_hw
    rows, columns = -(-height // height_px), -(-width // width_px)
    padded_hw = np.zeros((height_px * rows, width_px * columns), dtype=bool)
    padded_hw[:height, :width] = mask_hw
    return np.asarray(padded_hw.reshape(height_px, rows, width_px, columns).any(axis=(1, 3)))


def mask_scaled(mask_hw: NDArray[np.bool_] | None, height_px: int, width_px: int) -> NDArray[np.bool_] | None:
    """A mask at another size: every pixel into which `resized` mixes one of the mask's."""
    if mask_hw is None or mask_hw.shape == (height_px, width_px):
        return mask_hw
    return resized(mask_hw.astype(np.float32), height_px, width_px) > 0


def shrunk(image: Pixels, side_px: int) -> Pixels:
    """The image with at most so many pixels on its longer side; itself where it has no more."""
    scale = side_px / max(image.shape[:2])
    if scale >= 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cast("Pixels", cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def local_contrast(unit: NDArray[np.float32], side_px: int, noise_level: float) -> NDArray[np.float32]:
    """(x - local mean) / (local deviation + noise level), per channel.

    Args:
        unit: in [0, 1], (H, W) or (H, W, C).
        side_px: side of the window, odd.
        noise_level: deviation that is no contrast, in the same unit.
    """
    centred = unit - unit.mean(axis=(0, 1))  # the difference of two means of squares needs small numbers
    window = (side_px, side_px)
    mean = cv2.boxFilter(centred, -1, window, borderType=cv2.BORDER_REFLECT_101)
    mean_square = cv2.sqrBoxFilter(centred, -1, window, borderType=cv2.BORDER_REFLECT_101)
    deviation = np.sqrt(np.maximum(mean_square - mean * mean, 0))
    contrast: NDArray[np.float32] = (centred - mean) / (deviation + np.float32(noise_level))
    return contrast
