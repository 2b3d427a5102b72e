"""Pictures of flagged images with the heat map laid over them."""

import hashlib

import cv2
import numpy as np

from ganomaly import Detector
from ganomaly.images.pixels import shrunk
from ganomaly.images.preparation import read_image
from ganomaly.images.regions import Region, RegionRules, find_regions
from ganomaly.scoring.heatmap import draw_overlay
from tasks.lines.line import OUTPUTS
from tasks.night.listing import ListedImage

MAX_SIDE_PX = 640
JPEG_QUALITY = 85


def overlay_key(line: str, image: ListedImage, model_version: int, calibration_id: str) -> str:
    """Where the overlay of an image lies: always the same place, so that a repeated chunk leaves no orphan.

    The image's key may hold anything, so the name is a hash.
    """
    named = "\n".join([image.key, image.etag, str(model_version), calibration_id])
    name = hashlib.sha256(named.encode()).hexdigest()[:24]
    return f"{OUTPUTS}{line}/{image.production_date}/overlays/{name}.jpg"


def overlay_and_regions(
    detector: Detector, data: bytes, heat_hw: np.ndarray, rules: RegionRules
) -> tuple[bytes, tuple[Region, ...]]:
    """An encoded image with its heat map (H', W') and the regions that count outlined, as JPEG, and all regions."""
    recipe = detector.config.recipe
    image = read_image(data, recipe)
    placed_hw = recipe.to_image_pixels(heat_hw, image)
    found = find_regions(placed_hw)
    overlay = draw_overlay(image, placed_hw, recipe.ignored(image.shape))
    return encode_jpeg(found.draw(overlay, rules)), found.regions


def encode_jpeg(image: np.ndarray) -> bytes:
    """An image (H, W) or (H, W, 3) RGB of uint8 or uint16 as JPEG of at most 640 pixels a side."""
    image8 = shrunk(as_8bit(image), MAX_SIDE_PX)
    bgr = cv2.cvtColor(image8, cv2.COLOR_RGB2BGR) if image8.ndim == 3 else image8
    ok, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert ok
    return encoded.tobytes()


def as_8bit(image: np.ndarray) -> np.ndarray:
    """An image of uint8 or uint16 as one of uint8."""
    return (image // 257).astype(np.uint8) if image.dtype == np.uint16 else image
