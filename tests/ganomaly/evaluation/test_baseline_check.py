"""The check against baselines: warns where a network learned nothing, and nowhere else."""

from collections.abc import Callable

import numpy as np
import pytest

from ganomaly import Detector, DetectorConfig
from ganomaly.evaluation.baseline_check import LEAST_HELD_OUT, MAX_HELD_OUT, check_against_baselines
from ganomaly.evaluation.baselines import PatchGaussian

Draw = Callable[[int, int], np.ndarray]


@pytest.fixture(scope="module")
def plates() -> Draw:
    """Draws n images, uint8 (n, 32, 32, 1), of one plate with noise: what varies is nothing, a patch knows it all."""

    def draw(n: int, seed: int) -> np.ndarray:
        plate = np.random.default_rng(0).integers(60, 200, (32, 32, 1))
        noise = np.random.default_rng([1, seed]).normal(0, 2, (n, 32, 32, 1))
        return np.clip(plate + noise, 0, 255).astype(np.uint8)

    return draw


def hardly_trained(config: DetectorConfig, method: str, images: np.ndarray, held_out: np.ndarray) -> Detector:
    """A detector after one epoch of the smallest networks."""
    score = config.score.model_copy(update={"method": method})
    detector = Detector(config.model_copy(update={"score": score}), device="cpu")
    for _ in detector.train(images):
        pass
    detector.calibrate(images, held_out)
    return detector


def test_a_network_that_learned_nothing_is_named_with_both_figures(tiny_config: DetectorConfig, plates: Draw) -> None:
    """A line would run for months with a model that a few lines of numpy beat."""
    images, held_out = plates(120, 1), plates(40, 2)
    detector = hardly_trained(tiny_config, "paper", images, held_out)
    found = check_against_baselines(detector, images, held_out)
    assert found is not None
    assert found.warning is not None
    assert found.baseline in found.warning
    assert f"{found.baseline_auroc:.2f}" in found.warning
    assert f"{found.detector_auroc:.2f}" in found.warning
    assert "training.epochs" in found.warning
    assert found == check_against_baselines(detector, images, held_out)


def test_a_detector_as_good_as_the_baselines_is_left_in_peace(tiny_config: DetectorConfig, plates: Draw) -> None:
    """Everybody would learn to ignore the warning."""
    images, held_out = plates(120, 1), plates(40, 2)
    found = check_against_baselines(hardly_trained(tiny_config, "fused", images, held_out), images, held_out)
    assert found is not None
    assert found.detector_auroc > 0.8
    assert found.warning is None


def test_a_scorer_is_never_ahead_of_itself(plates: Draw) -> None:
    """Chance or another way of counting would decide."""
    images, held_out = plates(60, 1), plates(100, 2)
    found = check_against_baselines(PatchGaussian.fit(images), images, held_out)
    assert found is not None
    assert found.images <= MAX_HELD_OUT
    assert found.baseline != "patch_gaussian" or (found.surely_ahead_by, found.warning) == (0, None)


def test_too_little_evidence_says_nothing(plates: Draw) -> None:
    """Training would fail or warn by chance on a small folder."""
    images = plates(30, 1)
    assert check_against_baselines(PatchGaussian.fit(images), images, plates(LEAST_HELD_OUT - 1, 2)) is None


def test_what_cannot_be_drawn_is_left_out(plates: Draw) -> None:
    """Training on black images would end in an error about defects that nobody asked for."""
    images = plates(30, 1)
    found = check_against_baselines(PatchGaussian.fit(images), images, np.zeros((20, 32, 32, 1), np.uint8))
    assert found is None or "texture_patch" not in found.kinds
