"""The registered model as MLflow serves it: every form in which people send images gives one row for each image."""

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.pyfunc import PyFuncModel
from mlflow.pyfunc.scoring_server import _split_data_and_params, infer_and_parse_data

from ganomaly import Detector, DetectorConfig
from tasks.registry import pyfunc_model
from tasks.registry.training_run import DETECTOR_ARTIFACT, SIGNATURE

SHAPE = (48, 64)
GREY = np.random.default_rng(0).integers(40, 200, SHAPE, dtype=np.uint8)
PNG = cv2.imencode(".png", GREY)[1].tobytes()
TEXT = base64.b64encode(PNG).decode()
ROWS = GREY.tolist()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> PyFuncModel:
    """A detector behind MLflow's interface, loaded from the files that are registered."""
    folder = tmp_path_factory.mktemp("served")
    config = {
        "recipe": {"size_px": 32},
        "network": {"features": 8, "latent_size": 8},
        "quality": {"min_sharpness": 0.0},
    }
    detector = Detector(DetectorConfig.model_validate(config), device="cpu")
    images = np.random.default_rng(1).integers(0, 255, (60, 32, 32, 1), dtype=np.uint8)
    detector.calibrate(images[:30], images[30:])
    detector.save(folder / "detector")
    mlflow.pyfunc.save_model(
        folder / "model",
        python_model=str(Path(pyfunc_model.__file__)),
        artifacts={DETECTOR_ARTIFACT: str(folder / "detector")},
        signature=SIGNATURE,
        pip_requirements=[],
    )
    return mlflow.pyfunc.load_model(str(folder / "model"))


@pytest.mark.parametrize(
    ("form", "images"),
    [
        ({"inputs": {"image": [TEXT, TEXT]}}, 2),
        ({"inputs": {"image": TEXT}}, 1),
        ({"inputs": [{"image": TEXT}, {"image": TEXT}]}, 2),
        ({"inputs": {"image": [ROWS, ROWS]}}, 2),
        ({"inputs": {"image": ROWS}}, 1),
        ({"instances": [{"image": TEXT}, {"image": TEXT}]}, 2),
        ({"instances": [{"image": {"b64": TEXT}}]}, 1),
        ({"instances": {"image": [TEXT]}}, 1),
        ({"dataframe_split": {"columns": ["image"], "data": [[TEXT], [TEXT], [TEXT]]}}, 3),
        ({"dataframe_records": [{"image": TEXT}, {"image": ROWS}]}, 2),
    ],
)
def test_every_form_gives_a_row_for_each_image(served: PyFuncModel, form: dict[str, Any], images: int) -> None:
    """A client would get the scores of other images, or one row for many."""
    data, _ = _split_data_and_params(json.dumps(form))
    found = served.predict(infer_and_parse_data(data, served.metadata.get_input_schema()))
    assert len(found) == images
    assert set(found["verdict"]) <= {"ok", "flagged"}
    assert len(set(found["raw_score"])) == 1


@pytest.mark.parametrize(
    "cell",
    [
        PNG,
        TEXT,
        base64.encodebytes(PNG).decode(),
        base64.urlsafe_b64encode(PNG).decode(),
        f"data:image/png;base64,{TEXT}",
        GREY,
        GREY.astype(np.int64),
        ROWS,
    ],
    ids=["bytes", "base64", "lines", "URL-safe", "data URL", "array", "wide integers", "lists"],
)
def test_ways_to_write_an_image_score_alike(served: PyFuncModel, cell: object) -> None:
    """The same image would be usable from one client and not from another."""
    found, plain = (served.predict(pd.DataFrame({"image": [one]})) for one in (cell, PNG))
    assert found["raw_score"][0] == pytest.approx(plain["raw_score"][0], rel=1e-6)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [("/data/part.png", "unreadable"), ("", "empty"), ([[1, 2], [3]], "unreadable"), (np.zeros(SHAPE), "unsupported")],
)
def test_what_is_no_image_is_one_unusable_row(served: PyFuncModel, cell: object, reason: str) -> None:
    """One wrong cell would take the verdicts of all others with it."""
    found = served.predict(pd.DataFrame({"image": [cell, PNG]}))
    assert (found["verdict"][0], found["reason"][0]) == ("unusable", reason)
    assert found["verdict"][1] in ("ok", "flagged")
