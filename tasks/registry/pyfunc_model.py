"""The registered model as MLflow's models-from-code: this file is copied into the model and run when it is loaded.

It holds no weights and nothing pickled: those lie beside it as the detector's own folder. Input is a table with one
column ``image``: encoded bytes (PNG, JPEG, ...), the same in base64 (also URL-safe, with line breaks, as a data URL),
or pixels (H, W) or (H, W, 3) RGB as a numpy array or nested list of uint8. One row comes back for each image. With the
parameter ``heat_maps`` set, each row of a usable image also holds the image with its heat map, as a PNG in base64; with
``regions``, that of a flagged one the regions beyond the limit, as a list of JSON objects in pixels of the image.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import asdict

import cv2
import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from ganomaly import Detector, ImageScore
from ganomaly.images.preparation import read_image
from ganomaly.images.regions import find_regions
from ganomaly.scoring.heatmap import draw_overlay

URL_SAFE = str.maketrans("-_", "+/")
PARAMETERS = {"heat_map": "heat_maps", "regions": "regions"}
"""The parameter that asks for a column."""


class DetectorModel(PythonModel):
    """A detector behind MLflow's generic interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the detector's folder."""
        self.detector = Detector.load(context.artifacts["detector"])

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, object] | None = None,
    ) -> pd.DataFrame:
        """Judge each row's image: raw score, normalised score, p-value, verdict and, when unusable, the reason."""
        images = images_of(list(model_input["image"]))
        scores = self.detector.score(images)
        columns: dict[str, list[object]] = {
            "raw_score": [s.raw for s in scores],
            "normalised_score": [s.normalised for s in scores],
            "p_value": [s.p_value for s in scores],
            "verdict": [s.verdict for s in scores],
            "reason": [s.reason for s in scores],
            "sure": [s.sure for s in scores],
        }
        wanted = [name for name in ("heat_map", "regions") if params and params.get(PARAMETERS[name])]
        if wanted:
            worth = ("flagged", "ok") if "heat_map" in wanted else ("flagged",)
            looks = [
                self._look(image, score) if score.verdict in worth else {}
                for image, score in zip(images, scores, strict=True)
            ]
            columns |= {name: [look.get(name) for look in looks] for name in wanted}
        # None, not NaN: the server writes JSON, which knows no NaN
        return pd.DataFrame({name: pd.Series(values, dtype=_dtype(values)) for name, values in columns.items()})

    def _look(self, image: bytes | np.ndarray, score: ImageScore) -> dict[str, str]:
        """The heat map of a usable image as a PNG in base64, and the regions of a flagged one as JSON."""
        picture, heat_hw = self._heat(image)
        found = find_regions(heat_hw)
        ignored_hw = self.detector.config.recipe.ignored(picture.shape)
        overlay = found.draw(draw_overlay(picture, heat_hw, ignored_hw))
        png = cv2.imencode(".png", overlay[..., ::-1])[1].tobytes()
        said = {"heat_map": base64.b64encode(png).decode("ascii")}
        if score.verdict == "flagged":
            said["regions"] = json.dumps([asdict(region) for region in found.regions])
        return said

    def _heat(self, image: bytes | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pixels of a usable image, and its heat map in them."""
        recipe = self.detector.config.recipe
        prepared, picture = self.detector.prepare(image), read_image(image, recipe)
        (heat_hw,) = self.detector.heat_maps(self.detector.stack([prepared], np.ones(1, dtype=bool)))  # noqa: PD013
        return picture, recipe.to_image_pixels(heat_hw, picture)


def _dtype(values: Sequence[object]) -> str:
    return "float64" if values and all(isinstance(value, float) for value in values) else "object"


def images_of(cells: Sequence[object]) -> list[bytes | np.ndarray]:
    """The images of a column.

    Where every cell is a row of numbers, all of them are the rows of one image. MLflow makes one cell of a request's
    list of texts: each of them is an image.
    """
    if len(cells) > 1 and all(_is_row(cell) for cell in cells):
        return [as_image(list(cells))]
    return [as_image(one) for cell in cells for one in _files_in(cell)]


def _files_in(cell: object) -> list[object]:
    is_list = isinstance(cell, list) and bool(cell) and all(isinstance(one, str | bytes | dict) for one in cell)
    return list(cell) if is_list and isinstance(cell, list) else [cell]


def _is_row(cell: object) -> bool:
    return isinstance(cell, list) and bool(cell) and isinstance(cell[0], int | float)


def as_image(value: object) -> bytes | np.ndarray:
    """One cell of the input as something that the detector judges; what it cannot be is judged unusable there."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, dict):  # as TensorFlow's servers are asked
        value = value.get("b64", value)
    if isinstance(value, str):
        text = value.partition(",")[2] if value.startswith("data:") else value
        try:
            return base64.b64decode("".join(text.split()).translate(URL_SAFE), validate=True)
        except (binascii.Error, ValueError):
            return value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    try:
        pixels = np.asarray(value)
    except ValueError:  # rows of unequal length
        return repr(value).encode()
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * 255
    # JSON knows no integer width: whole numbers that fit are taken for 8-bit pixels
    whole = pixels.dtype.kind in "iu" and pixels.dtype != np.uint16
    return pixels.astype(np.uint8) if whole and pixels.size and 0 <= pixels.min() <= pixels.max() <= 255 else pixels


mlflow.models.set_model(DetectorModel())
