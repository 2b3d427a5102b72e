"""Coloured parts that a frozen network tells apart in seconds: a ring with a notch on a mottled ground."""

import cv2
import numpy as np
from numpy.typing import NDArray

from ganomaly import DetectorConfig

HEIGHT, WIDTH = 96, 160
SCRATCH = ((100, 60), (135, 80))
"""Where a defect begins and ends, column and row."""
CONFIG = DetectorConfig.model_validate(
    {
        "input": "features",
        "recipe": {"resolution": 160, "align": "none"},
        "quality": {"min_sharpness": 0},
        "training": {"epochs": 1},
        "calibration": {"false_reject_rate": 0.1},
    }
)
"""Features with the smallest maps and hardly any training; 10 x 6 places."""


def draw(n: int, seed: int, *, defect: bool = False) -> list[NDArray[np.uint8]]:
    """Draw n images of parts, uint8 (96, 160, 3) RGB; `defect` adds a scratch."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(n):
        ground = cv2.resize(rng.normal(110, 12, (6, 10, 3)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        image = ground + rng.normal(0, 3, (HEIGHT, WIDTH, 3))
        shift = rng.normal(0, 1, 2).round().astype(int)
        centre = (WIDTH // 2 + int(shift[0]), HEIGHT // 2 + int(shift[1]))
        cv2.circle(image, centre, 34, (190, 150, 90), 8)
        cv2.circle(image, (centre[0] + 34, centre[1]), 6, (60, 60, 160), -1)
        if defect:
            cv2.line(image, *SCRATCH, (235, 235, 235), 3)
        images.append(np.clip(image, 0, 255).astype(np.uint8))
    return images
