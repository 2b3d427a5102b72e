"""Striped plates, good and defective: what the tests of flows show to their line."""

from datetime import date

import cv2
import numpy as np

LINE = "plates"
WEEK = [date(2026, 3, day) for day in range(2, 8)]
WEEK_PLATES = 120
LAST_DAY = date(2026, 3, 8)


def plate(seed: int, *, defect: bool = False) -> bytes:
    """PNG of a striped plate of 64 x 64 px; the defective ones have a dark blot."""
    rng = np.random.default_rng(seed)
    stripes = 128 + 60 * np.sin(2 * np.pi * np.arange(64) / 8 + rng.uniform(-0.2, 0.2))
    image = stripes[None, :] + rng.normal(0, 8, (64, 64))
    if defect:
        row, column = rng.integers(12, 52, 2)
        cv2.circle(image, (int(column), int(row)), 9, 10.0, -1)
    return cv2.imencode(".png", np.clip(image, 0, 255).astype(np.uint8))[1].tobytes()


def key_of(day: date, part: str) -> str:
    """The key of a part's only view."""
    return f"images/{LINE}/{day}/{part}/top.png"


def week() -> dict[str, bytes]:
    """Six days of good plates, by key."""
    return {key_of(WEEK[number % 6], f"p{number:04}"): plate(number) for number in range(WEEK_PLATES)}
