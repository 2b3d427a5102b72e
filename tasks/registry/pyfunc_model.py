"""The registered model as MLflow's models-from-code: this file is copied into the model and run when it is loaded.

It holds no weights and nothing pickled: those lie beside it as the detector's own folder. Input is a table with one
column ``image``: encoded bytes (PNG, JPEG, ...), the same in base64, or pixels (H, W) or (H, W, 3) RGB as a numpy array
or nested list of uint8.
"""

import base64
import binascii

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from ganomaly import Detector


class DetectorModel(PythonModel):
    """A detector behind MLflow's generic interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the detector's folder."""
        self.detector = Detector.load(context.artifacts["detector"])

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, object] | None = None,  # noqa: ARG002
    ) -> pd.DataFrame:
        """Judge each row's image: raw score, normalised score, p-value, verdict and, when unusable, the reason."""
        scores = self.detector.score([as_image(value) for value in model_input["image"]])
        return pd.DataFrame(
            {
                "raw_score": [s.raw for s in scores],
                "normalised_score": [s.normalised for s in scores],
                "p_value": [s.p_value for s in scores],
                "verdict": [s.verdict for s in scores],
                "reason": [s.reason for s in scores],
            }
        ).astype({"raw_score": "float64", "normalised_score": "float64", "p_value": "float64"})


def as_image(value: object) -> bytes | np.ndarray:
    """One cell of the input as something that the detector judges; what it cannot be is judged unusable there."""
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error:
            return b""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    pixels = np.asarray(value)
    # JSON knows no integer width: whole numbers that fit are taken for 8-bit pixels
    whole = pixels.dtype.kind in "iu" and pixels.dtype != np.uint16
    return pixels.astype(np.uint8) if whole and pixels.size and 0 <= pixels.min() <= pixels.max() <= 255 else pixels


mlflow.models.set_model(DetectorModel())
