"""Parts that a small network learns in seconds: gratings of random phase, and the same with a bright spot."""

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
import torch

from ganomaly import Detector, DetectorConfig

SPOT_CENTRE = (30, 14)
"""Column and row of the drawn defect in an image of 48 x 48 px."""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from threads, which wait for each other for minutes on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def draw_parts() -> Callable[..., list[np.ndarray]]:
    """A function that draws n images, uint8 (48, 48): gratings of random phase with noise; `defect` adds a spot."""

    def draw(n: int, seed: int, *, defect: bool = False) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        columns = np.arange(48)
        images = []
        for _ in range(n):
            grating = 120 + 60 * np.sin(2 * np.pi * columns / 12 + rng.uniform(0, 2 * np.pi))
            image = np.clip(grating + rng.normal(0, 4, (48, 48)), 0, 255).astype(np.uint8)
            images.append(cv2.circle(image, SPOT_CENTRE, 6, 250, -1) if defect else image)
        return images

    return draw


@pytest.fixture(scope="session")
def tiny_config() -> DetectorConfig:
    """The smallest networks, one epoch, a false-reject rate that few images can promise."""
    return DetectorConfig.model_validate(
        {
            "recipe": {"size_px": 32},
            "network": {"features": 8, "latent_size": 16},
            "training": {"epochs": 1, "batch_size": 16},
            "calibration": {"false_reject_rate": 0.1},
        }
    )


@pytest.fixture(scope="session")
def trained(draw_parts: Callable[..., list[np.ndarray]], tiny_config: DetectorConfig) -> Detector:
    """A detector that has learned the gratings; tests only read it."""
    training = tiny_config.training.model_copy(update={"epochs": 8, "learning_rate": 1e-3})
    config = tiny_config.model_copy(update={"training": training})
    return Detector.fit(draw_parts(300, seed=1), config=config, device="cpu")
