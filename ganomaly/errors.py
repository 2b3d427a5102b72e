"""The errors a user of the detector can meet, each saying what is wrong and the way out."""


class ImageError(ValueError):
    """An image that cannot be judged.

    Args:
        reason: one short word for tables and counters, for example ``"truncated"``.
        detail: what was found, with the value and what is allowed.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ConfigError(ValueError):
    """A configuration file with an unknown key, a wrong type or a value out of range."""


class TrainingDataError(ValueError):
    """Images from which no detector can be trained or calibrated as asked."""


class TrainingDivergedError(RuntimeError):
    """A loss or a weight became infinite or not a number; the model has the weights of the last good epoch."""


class DetectorFileError(ValueError):
    """A saved detector that is missing a file, was altered, or needs a newer version of this software."""


class ExportError(ValueError):
    """A detector that cannot be exported with these images, or whose export judges otherwise."""
