"""MLflow: the registered models of the lines, and where their runs are written. Only this package talks to it.

A line's model is registered as ``ganomaly-<line>``; the alias ``champion`` names the version that scores, the alias
``challenger`` the newest one that does not.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode

from ganomaly.detector import Detector
from ganomaly.errors import DetectorFileError
from ganomaly.saving import read_files
from tasks.registry.reaching import (
    ModelRegistryError,
    asking,
    hand_over_credentials,
    unreachable,
    without_passwords,
)
from tasks.registry.training_run import MANIFEST_ARTIFACT, TrainingRun
from tasks.registry.versions import CHALLENGER, CHAMPION, ModelVersion, as_version, model_name
from tasks.training.snapshot import ManifestError, read_manifest

if TYPE_CHECKING:  # who scores needs none, and it takes most of a second to import
    from matplotlib.figure import Figure

MOST_LETTERS = 5000
"""MLflow's database holds so many of a description."""


class ModelRegistry:
    """MLflow's tracking server and model registry.

    User and password in an ``http(s)`` URI are handed over to MLflow's own variables ``MLFLOW_TRACKING_USERNAME`` and
    ``MLFLOW_TRACKING_PASSWORD``: MLflow prints the URI in its messages. Every method raises RegistryUnreachableError
    if the registry cannot be reached, or its files cannot be fetched.

    Args:
        tracking_uri: ``sqlite:///...``, ``http(s)://...`` or another URI that MLflow takes; also of the registry.
        artifact_root: where a new experiment puts its files; None leaves it to the tracking server.

    Attributes:
        address: the URI for people, without a password.

    Raises:
        RegistryUnreachableError: if MLflow's database cannot be opened; a server is not asked before the first call.
    """

    def __init__(self, tracking_uri: str, artifact_root: str | None = None) -> None:
        self.tracking_uri = hand_over_credentials(tracking_uri)
        self.address = without_passwords(self.tracking_uri)
        self.artifact_root = artifact_root
        try:
            if tracking_uri.startswith("sqlite:///"):
                Path(tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            self.client = mlflow.MlflowClient(self.tracking_uri, self.tracking_uri)
        except Exception as error:  # whatever the driver of the database raises
            raise unreachable(self.address, "open", error) from None

    @contextmanager
    def training_run(self, line: str, run_name: str, tags: Mapping[str, str]) -> Iterator[TrainingRun]:
        """Open a run in the line's experiment; it ends as failed if the block raises."""
        with asking(self.address, "open a run"):
            self.select_experiment(model_name(line))
            run = mlflow.start_run(run_name=run_name, tags=dict(tags))
        try:
            yield TrainingRun(run.info.run_id, self.address)
        except BaseException:
            with suppress(MlflowException):  # what went wrong in the block is the news
                mlflow.end_run("FAILED")
            raise
        with asking(self.address, "close the run"):
            mlflow.end_run()

    def select_experiment(self, name: str) -> None:
        """Have the following runs written to an experiment, which is created where there is none."""
        self._select()
        if mlflow.get_experiment_by_name(name) is None:
            root = self.artifact_root and f"{self.artifact_root.rstrip('/')}/{name}"
            mlflow.create_experiment(name, artifact_location=root)
        mlflow.set_experiment(name)

    def champion(self, line: str) -> ModelVersion | None:
        """The version that scores the line's nights, None if there is none yet."""
        return self._lookup(lambda: self.client.get_model_version_by_alias(model_name(line), CHAMPION))

    def challenger(self, line: str) -> ModelVersion | None:
        """The version that wants to become champion, None if there is none."""
        return self._lookup(lambda: self.client.get_model_version_by_alias(model_name(line), CHALLENGER))

    def version(self, line: str, version: int) -> ModelVersion | None:
        """One version of the line's model, None if there is no such version."""
        return self._lookup(lambda: self.client.get_model_version(model_name(line), str(version)))

    def set_alias(self, version: ModelVersion, alias: str) -> None:
        """Point an alias of the model at a version."""
        with asking(self.address, f"set @{alias}"):
            self.client.set_registered_model_alias(version.name, alias, str(version.version))

    def drop_alias(self, version: ModelVersion, alias: str) -> None:
        """Take an alias from the model, whichever version has it."""
        with asking(self.address, f"drop @{alias}"):
            self.client.delete_registered_model_alias(version.name, alias)

    def description(self, version: ModelVersion) -> str:
        """The Markdown that MLflow shows for a version."""
        with asking(self.address, f"read the description of {version.uri}"):
            found = self.client.get_model_version(version.name, str(version.version))
        return str(found.description or "")

    def describe(self, version: ModelVersion, description: str, tags: Mapping[str, str]) -> None:
        """Give a version another description, cut to what MLflow holds, and tags beside those that it has."""
        number = str(version.version)
        with asking(self.address, f"describe {version.uri}"):
            self.client.update_model_version(version.name, number, description[:MOST_LETTERS])
            for key, value in tags.items():
                self.client.set_model_version_tag(version.name, number, key, value)

    def describe_model(self, line: str, description: str) -> None:
        """Give a line's registered model a description."""
        with asking(self.address, "describe the model"):
            self.client.update_registered_model(model_name(line), description)

    def log_to(self, version: ModelVersion, texts: Mapping[str, str], figures: "Mapping[str, Figure]") -> None:
        """Put files into the run that trained a version; names are paths among its artifacts."""
        with asking(self.address, f"write to run {version.mlflow_run_id}"):
            for name, text in texts.items():
                self.client.log_text(version.mlflow_run_id, text, name)
            for name, figure in figures.items():
                self.client.log_figure(version.mlflow_run_id, figure, name)

    def snapshot_manifest(self, version: ModelVersion) -> pd.DataFrame:
        """The manifest that a version's training logged; its `snapshot_id` is the version's.

        Raises:
            ModelRegistryError: if it is no manifest.
        """
        with tempfile.TemporaryDirectory() as folder:
            with asking(self.address, f"fetch {MANIFEST_ARTIFACT} of run {version.mlflow_run_id}"):
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
            DetectorFileError: if they were altered, or are not those that the version was registered with.
            ValueError: for a device that is not there.
        """
        folder = self.download_detector(version, cache)
        try:
            detector = Detector.load(folder, device=device)
        except DetectorFileError as error:
            raise DetectorFileError(f"cached copy of {version.uri}: {error}; {_fetch_again(folder)}") from error
        if version.calibration_id not in ("", detector.calibrated.id):
            raise DetectorFileError(
                f"cached copy of {version.uri}: its calibration is {detector.calibrated.id}, MLflow records "
                f"{version.calibration_id}: these are another detector's files; {_fetch_again(folder)}"
            )
        return detector

    def download_detector(self, version: ModelVersion, cache: Path) -> Path:
        """Fetch the detector's folder of a version, once: later calls find it in ``cache``.

        It appears there when all of it has come: a download that is cut off leaves nothing that looks like a detector.

        Raises:
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
                with asking(self.address, f"fetch the files of {version.uri}"):
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
        with asking(self.address, "look up the model"):
            try:
                return as_version(ask())
            except MlflowException as error:
                if error.error_code in absent:
                    return None
                raise

    def _select(self) -> None:
        mlflow.set_tracking_uri(self.tracking_uri)
        mlflow.set_registry_uri(self.tracking_uri)


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
