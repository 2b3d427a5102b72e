"""`ganomaly paper` as a user has it: stopped, gone on with, mended; and its rows in a real MLflow."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from deployments.commands.inspection import app as inspection
from ganomaly.cli import app
from ganomaly.cli.benchmark import listed, numbers
from tasks.registry.paper_log import EXPERIMENT
from tasks.registry.registry import ModelRegistry

DATA = Path(os.environ.get("GANOMALY_DATA", Path(__file__).parents[4] / "shared" / "data"))
needs_elpv = pytest.mark.skipif(find_spec("elpv_dataset") is None, reason="needs the package elpv-dataset")
needs_mnist = pytest.mark.skipif(
    not (DATA / "MNIST").is_dir(), reason="no MNIST: GANOMALY_DATA names no folder with it"
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing from threads, which wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and output of the whole command, in this process: torch takes seconds to import."""
    result = CliRunner().invoke(app, ["paper", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


def _heed_interrupts() -> None:
    """Ctrl-C is ignored where the tests run in the background, and a child would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@needs_elpv
def test_stopped_it_goes_on_where_it_was_and_mlflow_gets_it_once(
    tmp_path: Path, empty_mlflow_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C would cost more than the job in progress; a second logging double every run."""
    output = tmp_path / "out"
    command = ["smoke", "--data", "elpv-mono", "-o", output, "--device", "cpu"]
    stopped = subprocess.Popen(
        [sys.executable, "-m", "ganomaly.cli", "paper", *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        preexec_fn=_heed_interrupts,  # noqa: PLW1509 - this process starts no threads that hold locks here
    )
    while not list((output / "runs").glob("*.json")):
        assert stopped.poll() is None, stopped.communicate()
        time.sleep(0.02)
    stopped.send_signal(signal.SIGINT)
    _, err = stopped.communicate()
    assert stopped.returncode == 130, err
    assert "jobs are done; the same command goes on from here" in err
    done = {path: path.stat().st_mtime_ns for path in (output / "runs").glob("*.json")}
    code, text = run(*command)
    assert code == 0, text
    assert "of 11 jobs are done already" in text
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert "## elpv-mono" in (output / "results.md").read_text()
    with (output / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 + 5 * 4  # of GANomaly four scores each, in the comparison and in two studies
    monkeypatch.setenv("INSPECTION_MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    shutil.copy(empty_mlflow_database, tmp_path / "mlflow.db")
    for logged in (len(rows), 0):
        result = CliRunner().invoke(inspection, ["log-paper", str(output)])
        assert result.exit_code == 0, result.output
        assert f"{logged} rows logged" in result.output
    client = ModelRegistry(f"sqlite:///{tmp_path / 'mlflow.db'}").client
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = (found for found in runs if "folder" in found.data.tags)
    nested = [found for found in runs if found.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(nested) == len(rows) == len(runs) - 1
    assert {found.info.status for found in runs} == {"FINISHED"}
    expected = sorted(float(row["auroc"]) for row in rows)
    assert sorted(found.data.metrics["auroc"] for found in nested) == pytest.approx(expected)
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"results.md", "results.csv", "figures"} <= files


def test_logging_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    """A wrong folder would end in a traceback."""
    result = CliRunner().invoke(inspection, ["log-paper", str(tmp_path)])
    assert result.exit_code == 1
    assert "holds no results.csv" in result.output
    assert "Traceback" not in result.output


@needs_mnist
def test_the_smoke_preset_reads_mnist(tmp_path: Path) -> None:
    """The paper's first data set would not run."""
    code, text = run("smoke", "--data", "mnist", "--data-root", DATA, "-o", tmp_path, "--methods", "ganomaly,egbad")
    assert code == 0, text
    assert (tmp_path / "figures" / "reconstructions-mnist-2.png").exists()


def test_missing_data_and_wrong_names_are_said_at_once(tmp_path: Path) -> None:
    """A user would learn after hours, or from a traceback, that a data set or a name is wrong."""
    for arguments, message in (
        (["--data", "mnist", "--data-root", tmp_path], "MNIST is not in"),
        (["--methods", "vae"], "method vae: not in this preset; it has aae, "),
        (["--seeds", "1,x"], "--seeds 1,x: must be whole numbers"),
    ):
        code, text = run(*arguments, "-o", tmp_path / "out")
        assert code == 1, text
        assert message in text
        assert "Traceback" not in text
    assert not (tmp_path / "out" / "runs").exists()


def test_an_option_given_twice_means_both() -> None:
    """`--data elpv-mono --data elpv-poly` would run the last alone, and nobody notice before the table is read."""
    assert listed(["elpv-mono", "elpv-poly, mnist"]) == ("elpv-mono", "elpv-poly", "mnist")
    assert listed(None) is None
    assert listed([""]) == ()
    assert numbers(["0", "1,2"]) == (0, 1, 2)


def test_all_commands_are_there() -> None:
    """`ganomaly` would lose a command."""
    found = CliRunner().invoke(app, ["--help"]).output
    assert all(name in found for name in ("fit", "score", "info", "benchmark", "paper"))
