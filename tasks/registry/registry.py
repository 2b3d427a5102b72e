"""MLflow: runs, metrics, figures, snapshots and the registered models of the lines. The only module that talks to it.

A line's model is registered as ``ganomaly-<line>``; the alias ``champion`` names the version that scores, the alias
``challenger`` the newest one that does not.
"""

import base64
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import mlflow
import pandas as pd
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

import ganomaly
from ganomaly.detector import Detector
from ganomaly.errors import DetectorFileError
from ganomaly.networks.training import EpochStats
from ganomaly.saving import read_files
from tasks.errors import OperatingError
from tasks.training.snapshot import ManifestError, read_manifest, write_manifest

if TYPE_CHECKING:  # who scores needs neither, and they take most of a second to import
    from matplotlib.figure import Figure

    from ganomaly.evaluation.rows import Row

CHAMPION = "champion"
CHALLENGER = "challenger"
DETECTOR_ARTIFACT = "detector"
BENCHMARK_EXPERIMENT = "ganomaly-benchmark"
BENCHMARK_METRICS = ("auroc", "average_precision", "train_s", "score_ms_per_image", "duration_s")
BENCHMARK_TAGS = (
    "error",
    "note",
    "code_version",
    "device",
    "cpu",
    "cores",
    "threads",
    "gpu",
    "python",
    "torch",
    "opencv",
    "numpy",
    "started_at",
)
MANIFEST_ARTIFACT = "snapshot/manifest.csv"
DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "1.0",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # a server may ask for hours
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""MLflow's own settings where the user has set none: its defaults wait for a silent server for more than 15 minutes."""
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
    "onnxruntime",
    "opencv-python-headless",
    "pandas",
    "pydantic",
    "safetensors",
    "scikit-learn",
    "timm",
    "torch",
)


class ModelRegistryError(OperatingError):
    """The registry does not hold what is asked for."""


class RegistryUnreachableError(ModelRegistryError):
    """MLflow does not answer as it should, after repeated attempts."""


@dataclass(frozen=True)
class ModelVersion:
    """One registered version of a line's detector."""

    name: str
    version: int
    mlflow_run_id: str
    snapshot_id: str
    calibration_id: str
    code_version: str
    source: str

    @property
    def uri(self) -> str:
        """The URI that pins this version: ``models:/<name>/<version>``."""
        return f"models:/{self.name}/{self.version}"


def model_name(line: str) -> str:
    """Name of a line's registered model."""
    return f"ganomaly-{line}"


class TrainingRun:
    """An open MLflow run of one training. Its methods raise `RegistryUnreachableError` where MLflow does not answer."""

    def __init__(self, run_id: str, address: str) -> None:
        self.run_id = run_id
        self.address = address

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log nested settings as flat parameters: ``training.epochs``."""
        with _asking(self.address, "log the parameters"):
            mlflow.log_params(_flatten(params))

    def log_epoch(self, stats: EpochStats) -> None:
        """Log an epoch's losses and speed as metrics at that step."""
        metrics = {name: float(value) for name, value in asdict(stats).items() if name not in ("epoch", "epochs")}
        with _asking(self.address, "log an epoch"):
            mlflow.log_metrics(metrics, step=stats.epoch)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log figures of the finished detector."""
        with _asking(self.address, "log metrics"):
            mlflow.log_metrics(dict(metrics))

    def log_figure(self, figure: "Figure", name: str) -> None:
        """Log a plot under ``figures/``."""
        with _asking(self.address, f"log the figure {name}"):
            mlflow.log_figure(figure, f"figures/{name}.png")

    def log_snapshot(self, manifest: pd.DataFrame, snapshot_id: str, source: str) -> None:
        """Log the snapshot's manifest as a file and as the run's dataset."""
        folder_name, file_name = MANIFEST_ARTIFACT.split("/")
        digest = snapshot_id[:36]
        dataset = mlflow.data.from_pandas(manifest, source=source, name=f"snapshot-{snapshot_id}", digest=digest)
        with tempfile.TemporaryDirectory() as folder, _asking(self.address, "log the snapshot"):
            path = Path(folder) / file_name
            write_manifest(manifest, path)
            mlflow.log_artifact(str(path), folder_name)
            mlflow.log_input(dataset, context="training")

    def log_model(self, detector_folder: Path, example_png: bytes, tags: Mapping[str, str], name: str) -> ModelVersion:
        """Log the detector as a models-from-code pyfunc and register it as the next version of ``name``."""
        example = pd.DataFrame({"image": [base64.b64encode(example_png).decode("ascii")]})
        with tempfile.TemporaryDirectory() as folder, _asking(self.address, "register the model"):
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
            return _as_version(client.get_model_version(name, number))


class BenchmarkLog:
    """A benchmark's parent run and the nested runs of its rows; each row is logged once, however often it is given.

    Its methods raise `RegistryUnreachableError` where MLflow does not answer.
    """

    def __init__(self, client: mlflow.MlflowClient, address: str, experiment_id: str, run_id: str) -> None:
        self.client = client
        self.address = address
        self.experiment_id = experiment_id
        self.run_id = run_id
        self._logged: set[str] = set()
        with _asking(address, "list a benchmark's runs"):
            self._find_logged()

    def _find_logged(self) -> None:
        """Remember which rows are there; a run that was killed while it was written is marked as such."""
        token = None
        while True:
            mine = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self.run_id}'"
            page = self.client.search_runs([self.experiment_id], mine, page_token=token)
            for run in page:
                if run.info.status == "RUNNING":
                    self.client.set_terminated(run.info.run_id, "KILLED")
                elif run.info.status != "KILLED":
                    self._logged.add(run.data.tags.get("row", ""))
            token = page.token
            if not token:
                return

    def log_rows(self, rows: "Iterable[Row]") -> None:
        """Log rows that are not logged yet, each as a nested run."""
        for row in rows:
            self._log_row(row)

    def _log_row(self, row: "Row") -> None:
        """One row as a nested run: figures as metrics, settings as parameters, the machine as tags."""
        key = f"{row.job} {row.score} {row.started_at}"
        if key in self._logged:
            return
        values = {name: value for name, value in asdict(row).items() if value is not None}
        metrics = {name: float(values.pop(name)) for name in BENCHMARK_METRICS if name in values}
        tags = {MLFLOW_PARENT_RUN_ID: self.run_id, "row": key}
        tags |= {name: str(values.pop(name)) for name in BENCHMARK_TAGS if name in values}
        study = "" if row.value is None else f" {row.study} {row.value:g}"
        name = f"{row.data} {row.abnormal_class} {row.label}{study} seed {row.seed}"
        with _asking(self.address, "log a row"):
            run = self.client.create_run(self.experiment_id, tags=tags, run_name=name)
            now = int(time.time() * 1000)
            self.client.log_batch(
                run.info.run_id,
                metrics=[Metric(key, value, now, 0) for key, value in metrics.items()],
                params=[Param(key, str(value)) for key, value in values.items()],
            )
            self.client.set_terminated(run.info.run_id, "FINISHED" if row.error is None else "FAILED")
        self._logged.add(key)

    def close(self, files: Iterable[tuple[Path, str]], *, failed: bool) -> None:
        """Log the results and end the parent run.

        Args:
            files: each with the folder below the run's artifacts, "" for none.
            failed: whether a job failed, and with it the run.
        """
        with _asking(self.address, "log a benchmark's results"):
            for path, folder in files:
                self.client.log_artifact(self.run_id, str(path), folder or None)
            self.client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")


class ModelRegistry:
    """MLflow's tracking server and model registry.

    User and password in an ``http(s)`` URI are handed over to MLflow's own variables ``MLFLOW_TRACKING_USERNAME`` and
    ``MLFLOW_TRACKING_PASSWORD``: MLflow prints the URI in its messages.

    Args:
        tracking_uri: ``sqlite:///...``, ``http(s)://...`` or another URI that MLflow takes; also of the registry.
        artifact_root: where a new experiment puts its files; None leaves it to the tracking server.

    Attributes:
        address: the URI for people, without a password.

    Raises:
        RegistryUnreachableError: if MLflow's database cannot be opened; a server is not asked before the first call.
    """

    def __init__(self, tracking_uri: str, artifact_root: str | None = None) -> None:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        self.tracking_uri = _hand_over_credentials(tracking_uri)
        self.address = without_passwords(self.tracking_uri)
        self.artifact_root = artifact_root
        try:
            if tracking_uri.startswith("sqlite:///"):
                Path(tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            self.client = mlflow.MlflowClient(self.tracking_uri, self.tracking_uri)
        except Exception as error:  # whatever the driver of the database raises
            raise _unreachable(self.address, "open", error) from None

    @contextmanager
    def training_run(self, line: str, run_name: str, tags: Mapping[str, str]) -> Iterator[TrainingRun]:
        """Open a run in the line's experiment; it ends as failed if the block raises.

        Raises:
            RegistryUnreachableError: if the registry cannot be reached.
        """
        with _asking(self.address, "open a run"):
            self._select_experiment(model_name(line))
            run = mlflow.start_run(run_name=run_name, tags=dict(tags))
        try:
            yield TrainingRun(run.info.run_id, self.address)
        except BaseException:
            with suppress(MlflowException):  # what went wrong in the block is the news
                mlflow.end_run("FAILED")
            raise
        with _asking(self.address, "close the run"):
            mlflow.end_run()

    def benchmark_log(self, benchmark_id: str, name: str) -> "BenchmarkLog":
        """The parent run of a benchmark: the one that was opened for this id before, or a new one.

        Args:
            benchmark_id: names the benchmark's folder wherever it is moved.
            name: of a new run.

        Raises:
            RegistryUnreachableError: if the registry cannot be reached.
        """
        with _asking(self.address, "open a benchmark's run"):
            self._select_experiment(BENCHMARK_EXPERIMENT)
            experiment = self.client.get_experiment_by_name(BENCHMARK_EXPERIMENT)
            assert experiment is not None
            mine = f"tags.benchmark_id = '{benchmark_id}'"
            found = self.client.search_runs([experiment.experiment_id], mine, max_results=1)
            tags = {"benchmark_id": benchmark_id}
            parent = found[0] if found else self.client.create_run(experiment.experiment_id, tags=tags, run_name=name)
            self.client.set_terminated(parent.info.run_id, "RUNNING")
        return BenchmarkLog(self.client, self.address, experiment.experiment_id, parent.info.run_id)

    def _select_experiment(self, name: str) -> None:
        self._select()
        if mlflow.get_experiment_by_name(name) is None:
            root = self.artifact_root and f"{self.artifact_root.rstrip('/')}/{name}"
            mlflow.create_experiment(name, artifact_location=root)
        mlflow.set_experiment(name)

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
        """Point an alias of the model at a version.

        Raises:
            RegistryUnreachableError: if the registry cannot be reached.
        """
        with _asking(self.address, f"set @{alias}"):
            self.client.set_registered_model_alias(version.name, alias, str(version.version))

    def snapshot_manifest(self, version: ModelVersion) -> pd.DataFrame:
        """The manifest that a version's training logged; its `snapshot_id` is the version's.

        Raises:
            RegistryUnreachableError: if it cannot be fetched.
            ModelRegistryError: if it is no manifest.
        """
        with tempfile.TemporaryDirectory() as folder:
            with _asking(self.address, f"fetch {MANIFEST_ARTIFACT} of run {version.mlflow_run_id}"):
                path = self.client.download_artifacts(version.mlflow_run_id, MANIFEST_ARTIFACT, folder)
            try:
                return read_manifest(Path(path))
            except ManifestError as error:
                raise ModelRegistryError(
                    f"{MANIFEST_ARTIFACT} of MLflow run {version.mlflow_run_id}: {error}"
                ) from None

    def load_detector(self, version: ModelVersion, cache: Path, device: str) -> Detector:
        """The detector of a version, from ``cache`` if it was fetched before.

        Raises:
            RegistryUnreachableError: if the version's files cannot be fetched.
            DetectorFileError: if they were altered, or are not those that the version was registered with.
            ValueError: for a device that is not there.
        """
        folder = self.download_detector(version, cache)
        try:
            detector = Detector.load(folder, device=device)
        except DetectorFileError as error:
            raise DetectorFileError(f"cached copy of {version.uri}: {error}; {_fetch_again(folder)}") from error
        assert detector.calibration is not None
        if version.calibration_id not in ("", detector.calibration.id):
            raise DetectorFileError(
                f"cached copy of {version.uri}: its calibration is {detector.calibration.id}, MLflow records "
                f"{version.calibration_id}: these are another detector's files; {_fetch_again(folder)}"
            )
        return detector

    def download_detector(self, version: ModelVersion, cache: Path) -> Path:
        """Fetch the detector's folder of a version, once: later calls find it in ``cache``.

        It appears there when all of it has come: a download that is cut off leaves nothing that looks like a detector.

        Raises:
            RegistryUnreachableError: if the version's files cannot be fetched.
            ModelRegistryError: if the version holds no detector.
            DetectorFileError: if MLflow's own copy is damaged.
        """
        # two registries may hold the same name and version: the source tells them apart
        digest = hashlib.sha256(f"{self.tracking_uri} {version.source}".encode()).hexdigest()[:12]
        folder = cache / version.name / f"{version.version}-{digest}"
        if not folder.exists():
            self._select()
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                with _asking(self.address, f"fetch the files of {version.uri}"):
                    mlflow.artifacts.download_artifacts(
                        artifact_uri=version.uri, dst_path=scratch, tracking_uri=self.tracking_uri
                    )
                found = next(Path(scratch).rglob("detector.json"), None)
                if found is None:
                    raise ModelRegistryError(f"{version.uri}: holds no detector (no detector.json among its artifacts)")
                _check_whole(found.parent, version)
                try:
                    found.parent.rename(folder)
                except OSError:
                    if not folder.exists():  # otherwise another process was faster
                        raise
        return folder

    def _lookup(self, ask: Callable[[], Any]) -> ModelVersion | None:
        # not ENDPOINT_NOT_FOUND: the 404 page of a proxy does not say that there is no such model
        absent = (ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE))
        with _asking(self.address, "look up the model"):
            try:
                return _as_version(ask())
            except MlflowException as error:
                if error.error_code in absent:
                    return None
                raise

    def _select(self) -> None:
        mlflow.set_tracking_uri(self.tracking_uri)
        mlflow.set_registry_uri(self.tracking_uri)


def without_passwords(text: str) -> str:
    """A text with the user and password of every URL in it made unreadable."""
    return re.sub(r"(?<=://)[^/\s]*@", "***@", text)


def _hand_over_credentials(uri: str) -> str:
    parts = urlsplit(uri)
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at or parts.scheme not in ("http", "https"):
        return uri
    user, _, password = userinfo.partition(":")
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(user)
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(password)
    return parts._replace(netloc=host).geturl()


@contextmanager
def _asking(address: str, action: str) -> Iterator[None]:
    try:
        yield
    except (MlflowException, OSError) as error:  # OSError: requests' own, and a full disk
        raise _unreachable(address, action, error) from None  # the cause may print the password


def _unreachable(address: str, action: str, error: Exception) -> RegistryUnreachableError:
    return RegistryUnreachableError(
        f"MLflow at {address}: cannot {action}: {without_passwords(str(error))}; is it running, and is "
        "INSPECTION_MLFLOW_TRACKING_URI right? Run the command again when it answers"
    )


def _check_whole(folder: Path, version: ModelVersion) -> None:
    try:
        read_files(folder)
    except DetectorFileError as error:
        raise DetectorFileError(
            f"{version.uri}: what MLflow holds is not what was registered: {error}; restore MLflow's artifacts from a "
            "backup or train again"
        ) from error


def _fetch_again(folder: Path) -> str:
    return f"delete the folder {folder} and run again: MLflow's copy is fetched anew"


def _as_version(found: Any) -> ModelVersion:
    return ModelVersion(
        name=found.name,
        version=int(found.version),
        mlflow_run_id=found.run_id or "",
        snapshot_id=found.tags.get("snapshot_id", ""),
        calibration_id=found.tags.get("calibration_id", ""),
        code_version=found.tags.get("code_version", ""),
        source=found.source,
    )


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
