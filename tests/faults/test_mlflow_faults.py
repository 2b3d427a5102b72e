"""MLflow stopped, silent, cut off in the middle of a download, or with altered files: against real servers."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from ganomaly import Detector, DetectorConfig, DetectorFileError
from tasks.registry.reaching import RegistryUnreachableError
from tasks.registry.registry import ModelRegistry
from tasks.registry.versions import ModelVersion

LINE = "plates"
NAME = f"ganomaly-{LINE}"
START_TIMEOUT_S = 120
SECRET = "canary-9f3"
PADDING_BYTES = 3_000_000_000
"""Of a sparse file beside the model: the download is certainly not over when its first bytes have come."""


class MlflowServer:
    """A real `mlflow server` on 127.0.0.1 that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        ours = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **ours}, start_new_session=True
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except (OSError, urllib.error.URLError):
                time.sleep(0.2)
        pytest.fail(f"the MLflow server did not start:\n{(self.folder / 'server.log').read_text()[-3000:]}")

    def stop(self) -> None:
        """Kill it and its workers at once, as a power cut would."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(autouse=True)
def _own_mlflow_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password that a registry puts into the environment is gone after the test."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A running server with one registered detector, the champion."""
    server = MlflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def detector() -> Detector:
    """A small calibrated detector; its networks are untrained, nobody asks what it says."""
    config = DetectorConfig.model_validate(
        {"recipe": {"size_px": 32}, "network": {"features": 16, "latent_size": 8}, "calibration": {}}
    )
    detector = Detector(config, device="cpu")
    images = np.random.default_rng(0).integers(0, 255, (60, 32, 32, 1), dtype=np.uint8)
    detector.calibrate(images[:30], images[30:])
    return detector


@pytest.fixture
def version(server: MlflowServer, detector: Detector, tmp_path: Path) -> ModelVersion:
    """The detector, registered anew as champion; the server runs."""
    if server.process is None:
        server.start()
    assert detector.calibration is not None
    detector.save(tmp_path / "saved")
    registry = ModelRegistry(server.uri)
    client = registry.client
    experiment = client.get_experiment_by_name(NAME)
    run = client.create_run(experiment.experiment_id if experiment else client.create_experiment(NAME))
    client.log_artifacts(run.info.run_id, str(tmp_path / "saved"), "model/detector")
    if not client.search_registered_models():
        client.create_registered_model(NAME)
    tags = {"calibration_id": detector.calibration.id}
    made = client.create_model_version(NAME, f"{run.info.artifact_uri}/model", run.info.run_id, tags=tags)
    client.set_registered_model_alias(NAME, "champion", made.version)
    found = registry.champion(LINE)
    assert found is not None
    return found


def artifacts_of(server: MlflowServer, version: ModelVersion) -> Path:
    """Where the server keeps the version's detector."""
    (folder,) = server.folder.glob(f"artifacts/**/{version.mlflow_run_id}/artifacts/model/detector")
    return folder


@pytest.mark.fault(
    area="MLflow",
    fault="the server is stopped",
    outcome="asked a few times with growing, random waits, then an error that names the server without its password",
)
def test_a_stopped_server(server: MlflowServer, version: ModelVersion, tmp_path: Path) -> None:
    """Broken if a stopped server is asked forever, ends in a traceback, or has its password printed."""
    registry = ModelRegistry(server.uri.replace("://", f"://ops:{SECRET}@"))
    server.stop()
    for ask in (
        lambda: registry.champion(LINE),
        lambda: registry.version(LINE, version.version),
        lambda: registry.snapshot_manifest(version),
        lambda: registry.load_detector(version, tmp_path / "cache", "cpu"),
        lambda: registry.set_alias(version, "champion"),
    ):
        with pytest.raises(RegistryUnreachableError) as caught:
            ask()
        assert f"MLflow at {server.uri}: cannot " in str(caught.value)
        assert "INSPECTION_MLFLOW_TRACKING_URI" in str(caught.value)
        assert SECRET not in str(caught.value)
    assert SECRET not in registry.address
    assert not list(tmp_path.glob("cache/**/detector.json"))
    server.start()
    assert registry.champion(LINE) == version


@pytest.mark.fault(
    area="MLflow",
    fault="the server takes connections and never answers",
    outcome="each request ends after MLFLOW_HTTP_REQUEST_TIMEOUT (10 s unless set), then the same error",
)
def test_a_silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken if a request waits without limit, or if the user's own limits are overridden."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        registry = ModelRegistry(f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(RegistryUnreachableError, match=r"(?i)timed? ?out"):
            registry.champion(LINE)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "1"


@pytest.mark.fault(
    area="MLflow",
    fault="a proxy answers 404 in its place",
    outcome="an error; it does not pass for a line without a champion, whose next model would become champion",
)
def test_a_page_of_somebody_else() -> None:
    """Broken if a 404 page that is not MLflow's own is taken for the answer that there is no such model."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.end_headers()
            self.wfile.write(b"<html>no such page</html>")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        registry = ModelRegistry(f"http://127.0.0.1:{proxy.server_port}")
        with pytest.raises(RegistryUnreachableError, match="404"):
            registry.champion(LINE)
        proxy.shutdown()


@pytest.mark.fault(
    area="MLflow",
    fault="the server dies in the middle of a model's download",
    outcome="an error; nothing of the model is in the cache; the next run fetches it whole",
)
def test_a_download_that_is_cut_off(server: MlflowServer, version: ModelVersion, tmp_path: Path) -> None:
    """Broken if half a model folder stays in the cache, where the next run would take it for the model."""
    padding = artifacts_of(server, version) / "padding.bin"
    with padding.open("wb") as file:
        file.truncate(PADDING_BYTES)
    cache = tmp_path / "cache"
    registry = ModelRegistry(server.uri)
    seen = []

    def kill_when_it_has_begun() -> None:
        while not seen:
            seen.extend(path for path in cache.rglob("padding.bin*") if path.exists())
            time.sleep(0.01)
        server.stop()

    killer = threading.Thread(target=kill_when_it_has_begun)
    killer.start()
    try:
        with pytest.raises(RegistryUnreachableError, match=f"cannot fetch the files of models:/{NAME}/"):
            registry.load_detector(version, cache, "cpu")
    finally:
        seen.append(padding)
        killer.join()
    assert not [path for path in cache.rglob("*") if path.is_file()]
    padding.unlink()
    server.start()
    loaded = registry.load_detector(version, cache, "cpu")
    assert loaded.calibration.id == version.calibration_id


def truncate(folder: Path) -> None:
    """Cut the weights."""
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def alter(folder: Path) -> None:
    """Move the reject limit."""
    path = folder / "calibration.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def allow_more(folder: Path) -> None:
    """Change the promise in the description."""
    path = folder / "detector.json"
    path.write_text(path.read_text().replace('"false_reject_rate": 0.05', '"false_reject_rate": 0.5'))


def lose(folder: Path) -> None:
    """Remove a file."""
    (folder / "calibration.safetensors").unlink()


@pytest.mark.parametrize("damage", [truncate, alter, allow_more, lose])
@pytest.mark.fault(
    area="MLflow",
    fault="a file of a cached model is cut, altered or missing",
    outcome="refused by its SHA-256; the error names the folder to delete, and the next run fetches it anew",
)
def test_a_damaged_cache(server: MlflowServer, version: ModelVersion, tmp_path: Path, damage) -> None:
    """Broken if a model scores with files that are not those it was saved with, or nobody says how to mend it."""
    registry = ModelRegistry(server.uri)
    folder = registry.download_detector(version, tmp_path / "cache")
    damage(folder)
    with pytest.raises(DetectorFileError) as caught:
        registry.load_detector(version, tmp_path / "cache", "cpu")
    assert version.uri in str(caught.value)
    assert f"delete the folder {folder}" in str(caught.value)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert registry.load_detector(version, tmp_path / "cache", "cpu").calibration.id == version.calibration_id


@pytest.mark.fault(
    area="MLflow",
    fault="a cached model is another detector's, whole in itself",
    outcome="refused: its calibration is not the one that MLflow records for the version",
)
def test_another_detector_in_the_cache(server: MlflowServer, version: ModelVersion, tmp_path: Path, detector) -> None:
    """Broken if swapping a cached folder for another model's changes verdicts unnoticed."""
    registry = ModelRegistry(server.uri)
    folder = registry.download_detector(version, tmp_path / "cache")
    other = Detector(detector.config, device="cpu")
    images = np.random.default_rng(1).integers(0, 255, (60, 32, 32, 1), dtype=np.uint8)
    other.calibrate(images[:30], images[30:])
    other.save(folder)
    with pytest.raises(DetectorFileError, match=f"MLflow records {version.calibration_id}.*delete the folder"):
        registry.load_detector(version, tmp_path / "cache", "cpu")


@pytest.mark.fault(
    area="MLflow",
    fault="MLflow's own copy of a model is damaged",
    outcome="refused before it reaches the cache",
)
def test_a_damaged_artifact(server: MlflowServer, version: ModelVersion, tmp_path: Path) -> None:
    """Broken if files that do not fit their hashes are put into the cache."""
    truncate(artifacts_of(server, version))
    with pytest.raises(DetectorFileError, match=r"MLflow holds is not what was registered.*weights\.safetensors"):
        ModelRegistry(server.uri).load_detector(version, tmp_path / "cache", "cpu")
    assert not [path for path in tmp_path.glob("cache/**/*") if path.is_file()]


@pytest.mark.fault(
    area="MLflow",
    fault="the server dies during a training",
    outcome="the training ends with an error that names the server; no version is registered",
)
def test_a_server_that_dies_during_a_training(server: MlflowServer, version: ModelVersion) -> None:
    """Broken if a training whose record is lost goes on, or ends with MLflow's own traceback."""
    registry = ModelRegistry(server.uri)

    def train() -> None:
        with registry.training_run(LINE, "a run", {"line": LINE}) as run:
            run.log_metrics({"reject_limit": 1.0})
            server.stop()
            run.log_metrics({"reject_limit": 2.0})

    with pytest.raises(RegistryUnreachableError, match="cannot log metrics"):
        train()
    server.start()
    assert registry.champion(LINE) == version
    with registry.training_run(LINE, "another run", {"line": LINE}) as run:
        run.log_metrics({"reject_limit": 3.0})
    assert registry.client.get_run(run.run_id).info.status == "FINISHED"
