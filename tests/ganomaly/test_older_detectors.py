"""Detectors that earlier versions saved still load and judge as they did."""

from pathlib import Path

import numpy as np
import pytest

from ganomaly import Detector

FOLDER = Path(__file__).parent / "saved" / "format-1"
"""Written by version 0.1.0, before there were other kinds of models: 32 px, 4 features, latent size 4, one epoch."""
RAW_SCORES = [0.43207530361035273, 0.46988105122654356, 1.2780658479147629, 0.47348750771090503, 0.5472853788417611]
"""What that version gave for the images below."""


def test_a_detector_of_format_1_judges_as_it_did(tmp_path: Path) -> None:
    """An update of the software would take every model out of service, or change its verdicts."""
    detector = Detector.load(FOLDER, device="cpu")
    assert detector.config.model.kind == "ganomaly"
    assert detector.config.calibration.confidence is None
    assert detector.calibration is not None
    assert detector.calibration.id == "7eaa33f8f999"
    rng = np.random.default_rng(2)
    rows, columns = np.mgrid[:32, :32]
    slopes, phases = rng.integers(4, 12, (2, 5)), rng.integers(0, 256, 5)
    stripes = slopes[0, :, None, None] * rows + slopes[1, :, None, None] * columns + phases[:, None, None]
    images = np.abs(stripes % 512 - 256).clip(0, 255).astype(np.uint8)[..., None]
    assert detector.raw_scores(images) == pytest.approx(RAW_SCORES, rel=1e-4)
    detector.save(tmp_path)
    assert Detector.load(tmp_path, device="cpu").raw_scores(images).tolist() == detector.raw_scores(images).tolist()
