"""One training as an MLflow run: settings, losses, figures, snapshot, and the model that came of it."""

import base64
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow.data.pandas_dataset import from_pandas
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType

import ganomaly
from ganomaly.networks.training import EpochStats
from tasks.registry.reaching import asking
from tasks.registry.versions import ModelVersion, as_version
from tasks.training.snapshot import write_manifest

if TYPE_CHECKING:  # who scores needs none, and it takes most of a second to import
    from matplotlib.figure import Figure

DETECTOR_ARTIFACT = "detector"
MANIFEST_ARTIFACT = "snapshot/manifest.csv"
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(AnyType(), "image")]),  # type: ignore[no-untyped-call]
    outputs=Schema(
        [
            ColSpec(DataType.double, "raw_score", required=False),
            ColSpec(DataType.double, "normalised_score", required=False),
            ColSpec(DataType.double, "p_value", required=False),
            ColSpec(DataType.string, "verdict"),
            ColSpec(DataType.string, "reason", required=False),
            ColSpec(DataType.boolean, "sure", required=False),
            ColSpec(DataType.string, "heat_map", required=False),
            ColSpec(DataType.string, "regions", required=False),
        ]
    ),
    params=ParamSchema([ParamSpec(name, DataType.boolean, False) for name in ("heat_maps", "regions")]),
)
SERVING_PACKAGES = (
    *("imagecodecs", "mlflow", "numpy", "onnxruntime", "opencv-python-headless", "pandas", "pillow", "pydantic"),
    *("safetensors", "scikit-learn", "simplejpeg", "tifffile", "timm", "torch"),
)


class TrainingRun:
    """An open MLflow run of one training. Its methods raise `RegistryUnreachableError` where MLflow does not answer."""

    def __init__(self, run_id: str, address: str) -> None:
        self.run_id = run_id
        self.address = address

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log nested settings as flat parameters: ``training.epochs``."""
        with asking(self.address, "log the parameters"):
            mlflow.log_params(_flatten(params))

    def log_epoch(self, stats: EpochStats) -> None:
        """Log an epoch's losses and speed as metrics at that step."""
        metrics = {name: float(value) for name, value in asdict(stats).items() if name not in ("epoch", "epochs")}
        with asking(self.address, "log an epoch"):
            mlflow.log_metrics(metrics, step=stats.epoch)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log figures of the finished detector."""
        with asking(self.address, "log metrics"):
            mlflow.log_metrics(dict(metrics))

    def log_figure(self, figure: "Figure", name: str) -> None:
        """Log a plot under ``figures/``."""
        with asking(self.address, f"log the figure {name}"):
            mlflow.log_figure(figure, f"figures/{name}.png")

    def log_snapshot(self, manifest: pd.DataFrame, snapshot_id: str, source: str) -> None:
        """Log the snapshot's manifest as a file and as the run's dataset."""
        folder_name, file_name = MANIFEST_ARTIFACT.split("/")
        digest = snapshot_id[:36]
        dataset = from_pandas(manifest, source=source, name=f"snapshot-{snapshot_id}", digest=digest)
        with tempfile.TemporaryDirectory() as folder, asking(self.address, "log the snapshot"):
            path = Path(folder) / file_name
            write_manifest(manifest, path)
            mlflow.log_artifact(str(path), folder_name)
            mlflow.log_input(dataset, context="training")

    def log_model(self, detector_folder: Path, example_png: bytes, tags: Mapping[str, str], name: str) -> ModelVersion:
        """Log the detector as a models-from-code pyfunc and register it as the next version of ``name``."""
        example = pd.DataFrame({"image": [base64.b64encode(example_png).decode("ascii")]})
        with tempfile.TemporaryDirectory() as folder, asking(self.address, "register the model"):
            package = Path(folder) / "ganomaly"
            shutil.copytree(Path(ganomaly.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("pyfunc_model.py")),
                artifacts={DETECTOR_ARTIFACT: str(detector_folder)},
                code_paths=[str(package)],
                signature=SIGNATURE,
                input_example=example,
                pip_requirements=_pinned(SERVING_PACKAGES),
                registered_model_name=name,
            )
            client = mlflow.MlflowClient()
            number = str(info.registered_model_version)
            for key, value in tags.items():
                client.set_model_version_tag(name, number, key, value)
            return as_version(client.get_model_version(name, number))


def _flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in params.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _pinned(packages: tuple[str, ...]) -> list[str]:
    """Requirements of those packages that are installed: who looks at pixels needs no frozen network."""
    # a local version such as 2.9.1+cpu names a build, not something a package index holds
    found = []
    for package in packages:
        with suppress(PackageNotFoundError):
            found.append(f"{package}=={installed_version(package).split('+')[0]}")
    return found
