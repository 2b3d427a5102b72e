"""GANomaly for visual inspection: a detector that learns from images of good parts what a good part looks like.

Five lines in a notebook::

    from pathlib import Path
    from ganomaly import Detector
    detector = Detector.fit(sorted(Path("good_parts").glob("*.png")))
    for score in detector.score(sorted(Path("new_parts").glob("*.png"))):
        print(score.verdict, score.normalised)

This package knows no bucket, no database, no workflow engine and no registry; it reads no environment variable.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ganomaly.config import DetectorConfig, load_config
    from ganomaly.detector import Detector
    from ganomaly.errors import (
        ConfigError,
        DetectorFileError,
        ImageError,
        TrainingDataError,
        TrainingDivergedError,
    )
    from ganomaly.image_score import ImageScore
    from ganomaly.scoring.calibration import Calibration

__version__ = "0.1.0"

__all__ = [
    "Calibration",
    "ConfigError",
    "Detector",
    "DetectorConfig",
    "DetectorFileError",
    "ImageError",
    "ImageScore",
    "TrainingDataError",
    "TrainingDivergedError",
    "load_config",
]

_MODULES = {
    "Calibration": "scoring.calibration",
    "ConfigError": "errors",
    "Detector": "detector",
    "DetectorConfig": "config",
    "DetectorFileError": "errors",
    "ImageError": "errors",
    "ImageScore": "image_score",
    "TrainingDataError": "errors",
    "TrainingDivergedError": "errors",
    "load_config": "config",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: `ganomaly --help` need not wait for torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
