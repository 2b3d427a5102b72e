"""MLflow: runs, metrics, figures, snapshots and the registered models of the lines. The only module that talks to it.

A line's model is registered as ``ganomaly-<line>``; the alias ``champion`` names the version that scores, the alias
``challenger`` the newest one that does not.
"""

import base64
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from matplotlib.figure import Figure
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType

import ganomaly
from ganomaly.training import EpochStats
from tasks.errors import OperatingError

CHAMPION = "champion"
CHALLENGER = "challenger"
DETECTOR_ARTIFACT = "detector"
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(AnyType(), "image")]),
    outputs=Schema(
        [
            ColSpec(DataType.double, "raw_score", required=False),
            ColSpec(DataType.double, "normalised_score", required=False),
            ColSpec(DataType.double, "p_value", required=False),
            ColSpec(DataType.string, "verdict"),
            ColSpec(DataType.string, "reason", required=False),
        ]
    ),
)
SERVING_PACKAGES = (
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "pandas",
    "pydantic",
    "safetensors",
    "scikit-learn",
    "torch",
)


class ModelRegistryError(OperatingError):
    """The registry does not hold what is asked for."""


class RegistryUnreachableError(ModelRegistryError):
    """MLflow does not answer as it should."""


@dataclass(frozen=True)
class ModelVersion:
    """One registered version of a line's detector."""

    name: str
    version: int
    mlflow_run_id: str
    snapshot_id: str
    calibration_id: str
    source: str

    @property
    def uri(self) -> str:
        """The URI that pins this version: ``models:/<name>/<version>``."""
        return f"models:/{self.name}/{self.version}"


def model_name(line: str) -> str:
    """Name of a line's registered model."""
    return f"ganomaly-{line}"


class TrainingRun:
    """An open MLflow run of one training."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log nested settings as flat parameters: ``training.epochs``."""
        mlflow.log_params(_flatten(params))

    def log_epoch(self, stats: EpochStats) -> None:
        """Log an epoch's losses and speed as metrics at that step."""
        metrics = {name: float(value) for name, value in asdict(stats).items() if name not in ("epoch", "epochs")}
        mlflow.log_metrics(metrics, step=stats.epoch)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log figures of the finished detector."""
        mlflow.log_metrics(dict(metrics))

    def log_figure(self, figure: Figure, name: str) -> None:
        """Log a plot under ``figures/``."""
        mlflow.log_figure(figure, f"figures/{name}.png")

    def log_snapshot(self, manifest: pd.DataFrame, snapshot_id: str, source: str) -> None:
        """Log the snapshot's manifest as a file and as the run's dataset."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "manifest.csv"
            manifest.to_csv(path, index=False, lineterminator="\n")
            mlflow.log_artifact(str(path), "snapshot")
        digest = snapshot_id[:36]
        dataset = mlflow.data.from_pandas(manifest, source=source, name=f"snapshot-{snapshot_id}", digest=digest)
        mlflow.log_input(dataset, context="training")

    def log_model(self, detector_folder: Path, example_png: bytes, tags: Mapping[str, str], name: str) -> ModelVersion:
        """Log the detector as a models-from-code pyfunc and register it as the next version of ``name``."""
        example = pd.DataFrame({"image": [base64.b64encode(example_png).decode("ascii")]})
        with tempfile.TemporaryDirectory() as folder:
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
        for key, value in tags.items():
            client.set_model_version_tag(name, str(info.registered_model_version), key, value)
        return _as_version(client.get_model_version(name, str(info.registered_model_version)))


class ModelRegistry:
    """MLflow's tracking server and model registry.

    Args:
        tracking_uri: ``sqlite:///...``, ``http(s)://...`` or another URI that MLflow takes; also of the registry.
        artifact_root: where a new experiment puts its files; None leaves it to the tracking server.
    """

    def __init__(self, tracking_uri: str, artifact_root: str | None = None) -> None:
        self.tracking_uri = tracking_uri
        self.artifact_root = artifact_root
        if tracking_uri.startswith("sqlite:///"):
            Path(tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        self.client = mlflow.MlflowClient(tracking_uri, tracking_uri)

    @contextmanager
    def training_run(self, line: str, run_name: str, tags: Mapping[str, str]) -> Iterator[TrainingRun]:
        """Open a run in the line's experiment; it ends as failed if the block raises."""
        self._select()
        name = model_name(line)
        if mlflow.get_experiment_by_name(name) is None:
            root = self.artifact_root and f"{self.artifact_root.rstrip('/')}/{name}"
            mlflow.create_experiment(name, artifact_location=root)
        mlflow.set_experiment(name)
        with mlflow.start_run(run_name=run_name, tags=dict(tags)) as run:
            yield TrainingRun(run.info.run_id)

    def champion(self, line: str) -> ModelVersion | None:
        """The version that scores the line's nights, None if there is none yet.

        Raises:
            RegistryUnreachableError: if the registry cannot be reached.
        """
        return self._lookup(lambda: self.client.get_model_version_by_alias(model_name(line), CHAMPION))

    def version(self, line: str, version: int) -> ModelVersion | None:
        """One version of the line's model, None if there is no such version.

        Raises:
            RegistryUnreachableError: if the registry cannot be reached.
        """
        return self._lookup(lambda: self.client.get_model_version(model_name(line), str(version)))

    def set_alias(self, version: ModelVersion, alias: str) -> None:
        """Point an alias of the model at a version."""
        self.client.set_registered_model_alias(version.name, alias, str(version.version))

    def download_detector(self, version: ModelVersion, cache: Path) -> Path:
        """Fetch the detector's folder of a version, once: later calls find it in ``cache``.

        Raises:
            RegistryUnreachableError: if the version's files cannot be fetched.
        """
        # two registries may hold the same name and version: the source tells them apart
        digest = hashlib.sha256(f"{self.tracking_uri} {version.source}".encode()).hexdigest()[:12]
        folder = cache / version.name / f"{version.version}-{digest}"
        if not folder.exists():
            self._select()
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                try:
                    mlflow.artifacts.download_artifacts(
                        artifact_uri=version.uri, dst_path=scratch, tracking_uri=self.tracking_uri
                    )
                except (MlflowException, OSError) as error:
                    raise RegistryUnreachableError(f"{version.uri}: its files cannot be fetched: {error}") from error
                found = next(Path(scratch).rglob("detector.json"), None)
                if found is None:
                    raise ModelRegistryError(f"{version.uri}: holds no detector (no detector.json among its artifacts)")
                try:
                    found.parent.rename(folder)
                except OSError:
                    if not folder.exists():  # otherwise another process was faster
                        raise
        return folder

    def _lookup(self, ask: Any) -> ModelVersion | None:
        try:
            return _as_version(ask())
        except MlflowException as error:
            absent = (ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE))
            if error.error_code in absent:
                return None
            raise RegistryUnreachableError(f"MLflow at {self.tracking_uri} cannot be asked: {error}") from error

    def _select(self) -> None:
        mlflow.set_tracking_uri(self.tracking_uri)
        mlflow.set_registry_uri(self.tracking_uri)


def _as_version(found: Any) -> ModelVersion:
    return ModelVersion(
        name=found.name,
        version=int(found.version),
        mlflow_run_id=found.run_id or "",
        snapshot_id=found.tags.get("snapshot_id", ""),
        calibration_id=found.tags.get("calibration_id", ""),
        source=found.source,
    )


def _flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in params.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _pinned(packages: tuple[str, ...]) -> list[str]:
    # a local version such as 2.9.1+cpu names a build, not something a package index holds
    return [f"{package}=={installed_version(package).split('+')[0]}" for package in packages]
