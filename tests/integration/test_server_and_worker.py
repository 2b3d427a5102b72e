"""The README's commands with real processes: Prefect server and worker, `prefect deploy`, `prefect deployment run`."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from deployments.demo.plant import FIRST_DAY, LAST_DAY, normal_list, normal_list_key, week_of
from tasks.bucket.bucket import ObjectStore
from tasks.store.store import ReportStore
from tasks.systems import open_systems
from tests.prefect_server import PREFECT, running_prefect_server, stop_group

ROOT = Path(__file__).resolve().parents[2]
LINE = "elpv-mono"
TRAIN_TIMEOUT_S = 600

pytestmark = pytest.mark.skipif(find_spec("elpv_dataset") is None, reason="needs the package elpv-dataset")


@pytest.fixture
def server(environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A running Prefect server and a worker of pool `gpu`; gives the environment that finds them."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    shutil.copy(ROOT / "deployments" / "lines" / f"{LINE}.toml", tmp_path / "lines")
    with running_prefect_server(tmp_path / "prefect", os.environ) as api, (tmp_path / "worker.log").open("wb") as log:
        settings = {
            "PREFECT_HOME": str(tmp_path / "prefect"),
            "PREFECT_API_URL": api.url,
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        env = {**os.environ, **settings}
        options = {"env": env, "cwd": ROOT, "stdout": log, "stderr": log, "stdin": subprocess.DEVNULL}
        for pool in ("gpu", "cpu"):
            subprocess.run([PREFECT, "work-pool", "create", pool, "--type", "process"], check=True, **options)
        worker = subprocess.Popen([PREFECT, "worker", "start", "--pool", "gpu"], start_new_session=True, **options)
        try:
            yield env
        finally:
            stop_group(worker)


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
