"""The README's commands with real processes: Prefect server and worker, `prefect deploy`, `prefect deployment run`."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from deployments.demo_plant import FIRST_DAY, LAST_DAY, normal_list, normal_list_key, week_of
from tasks.object_store import ObjectStore
from tasks.report_store import ReportStore
from tasks.systems import open_systems

ROOT = Path(__file__).resolve().parents[2]
PREFECT = str(Path(sys.executable).with_name("prefect"))
LINE = "elpv-mono"
START_TIMEOUT_S = 180
TRAIN_TIMEOUT_S = 600

pytestmark = pytest.mark.skipif(find_spec("elpv_dataset") is None, reason="needs the package elpv-dataset")


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.5)
    pytest.fail(f"the Prefect server did not start:\n{log.read_text()[-3000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End one process that this test started, and what it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def server(environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A running Prefect server and a worker of pool `gpu`; gives the environment that finds them."""
    port = free_port()
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    settings = {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    shutil.copy(ROOT / "deployments" / "lines" / f"{LINE}.toml", tmp_path / "lines")
    env = {**os.environ, **settings}
    log = tmp_path / "prefect.log"
    with log.open("wb") as file:
        options = {"env": env, "cwd": ROOT, "stdout": file, "stderr": file, "stdin": subprocess.DEVNULL}
        start = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        api = subprocess.Popen(start, start_new_session=True, **options)
        try:
            wait_until_healthy(settings["PREFECT_API_URL"], api, log)
            for pool in ("gpu", "cpu"):
                create = [PREFECT, "work-pool", "create", pool, "--type", "process"]
                subprocess.run(create, check=True, **options)
            work = [PREFECT, "worker", "start", "--pool", "gpu"]
            worker = subprocess.Popen(work, start_new_session=True, **options)
            try:
                yield env
            finally:
                stop(worker)
        finally:
            stop(api)


def test_deploy_and_run_training(server: dict[str, str], bucket: ObjectStore) -> None:
    """Broken if `prefect deploy --all` makes no tables, or `prefect deployment run train-ganomaly/<line>` no model."""
    cells = [cell for cell in week_of(LINE) if cell.day < LAST_DAY and cell.defect_probability == 0][:150]
    for cell in cells:
        bucket.put(cell.key, cell.path.read_bytes(), "image/png")
    bucket.put(normal_list_key(LINE), normal_list(cells), "text/csv")
    # as in a terminal, but with nobody to answer: a question would fail
    deploy = [PREFECT, "--prompt", "deploy", "--all"]
    options = {"env": server, "cwd": ROOT, "capture_output": True, "text": True, "stdin": subprocess.DEVNULL}
    deployed = subprocess.run(deploy, check=False, **options)
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    listed = subprocess.run(
        [PREFECT, "deployment", "ls"], env=server, cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in ("train-ganomaly/elpv-mono", "nightly/elpv-mono", "train-ganomaly/elpv-poly", "nightly/elpv-poly"):
        assert name in listed.stdout
    with ReportStore(server["INSPECTION_STORE_URL"]) as store:
        store.check()  # the deployment made the tables

    ingest = [str(Path(sys.executable).with_name("inspection")), "ingest", LINE]
    ingest += ["--from", str(FIRST_DAY), "--to", str(LAST_DAY)]
    done = subprocess.run(ingest, env=server, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{LINE}: 150 listed = 150 recorded" in done.stdout

    command = [PREFECT, "deployment", "run", f"train-ganomaly/{LINE}", "--param", "epochs=1", "--watch"]
    run = subprocess.run(
        command, env=server, cwd=ROOT, capture_output=True, text=True, timeout=TRAIN_TIMEOUT_S, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"[Cc]ompleted|finished successfully", run.stdout), run.stdout
    champion = open_systems(LINE).registry.champion(LINE)
    assert champion is not None
    assert champion.version == 1
    assert champion.snapshot_id
