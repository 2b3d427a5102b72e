"""`ganomaly benchmark` as a user has it: stopped, killed, gone on with, mended, and logged to a real MLflow."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from deployments.commands.ganomaly import _listed, _numbers, app
from tasks.registry.registry import BENCHMARK_EXPERIMENT, ModelRegistry

COMMAND = [sys.executable, "-m", "deployments.commands.ganomaly", "benchmark"]
TINY = ["--epochs", "1", "--size", "32", "--features", "8", "--seeds", "0", "--device", "cpu"]
DATA = Path(os.environ.get("GANOMALY_DATA", Path(__file__).parents[3] / "shared" / "data"))
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


@pytest.fixture
def plates(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of 60 noisy images and one of 12 that also have a bright square."""
    rng = np.random.default_rng(0)
    for name, count in (("good", 60), ("bad", 12)):
        folder = tmp_path / "plates" / name
        folder.mkdir(parents=True)
        for i in range(count):
            image = rng.normal(110, 12, (40, 40)).clip(0, 255).astype(np.uint8)
            if name == "bad":
                image[10:18, 10:18] = 240
            cv2.imwrite(str(folder / f"{i}.png"), image)
    return tmp_path / "plates" / "good", tmp_path / "plates" / "bad"


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        preexec_fn=_heed_interrupts,  # noqa: PLW1509 - this process starts no threads that hold locks here
    )


def _heed_interrupts() -> None:
    """Ctrl-C is ignored where the tests run in the background, and a child would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and output of the whole command, in this process: torch and MLflow take seconds to import."""
    result = CliRunner().invoke(app, ["benchmark", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


def wait_for_rows(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Wait until so many jobs are saved."""
    while len(list((folder / "runs").glob("*.json"))) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_stopped_and_killed_it_goes_on_where_it_was(plates: tuple[Path, Path], tmp_path: Path) -> None:
    """Ctrl-C or a kill would cost more than the job in progress, or leave a folder that nobody can go on with."""
    output = tmp_path / "out"
    command = ["--folders", *plates, "--data", "plates", "-o", output, *TINY]
    stopped = start(*command)
    wait_for_rows(stopped, output, 1)
    stopped.send_signal(signal.SIGINT)
    _, err = stopped.communicate()
    assert stopped.returncode == 130, err
    assert "jobs are done; the same command goes on from here" in err
    done = {path: path.stat().st_mtime_ns for path in (output / "runs").glob("*.json")}
    killed = start(*command)
    wait_for_rows(killed, output, len(done) + 1)
    killed.kill()
    killed.communicate()
    code, text = run(*command)
    assert code == 0, text
    assert "of 6 jobs are done already" in text
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert "10 rows" in text  # six jobs, GANomaly with five scores
    assert pq.read_table(output / "results.parquet").num_rows == 10
    assert "## plates" in (output / "results.md").read_text()
    code, text = run(*command)
    assert (code, "6 of 6 jobs are done already" in text) == (0, True)


def test_a_bad_image_fails_its_jobs_until_it_is_mended(plates: tuple[Path, Path], tmp_path: Path) -> None:
    """A job that cannot run would pass for done, or its reason be hidden in a log."""
    output = tmp_path / "out"
    methods = ["--methods", "nearest_image,pixel_gaussian"]
    command = ["--folders", *plates, "--data", "plates", "-o", output, *TINY, *methods]
    whole = (plates[0] / "7.png").read_bytes()
    (plates[0] / "7.png").write_bytes(whole[:60])
    code, text = run(*command)
    assert code == 1
    assert "2 of 2 jobs failed; the same command tries them again:" in text
    assert "plates-abnormal-pixel_gaussian-seed0" in text
    assert "truncated" in text
    (plates[0] / "7.png").write_bytes(whole)
    code, text = run(*command)
    assert code == 0, text
    assert "## Failed" not in (output / "results.md").read_text()


def test_a_table_of_labels_is_a_data_set(plates: tuple[Path, Path], tmp_path: Path) -> None:
    """A user's own labelled images could not be compared on."""
    lines = [f"{'good' if i < 40 else 'bad'}/{i % 40}.png,{'normal' if i < 40 else 'abnormal'}" for i in range(50)]
    table = plates[0].parent / "labels.csv"
    table.write_text("\n".join(["path,label", *lines]))
    code, text = run("--table", table, "--data", "labels", "--methods", "pixel_gaussian", "-o", tmp_path / "out", *TINY)
    assert code == 0, text
    (row,) = pq.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert (row["data"], row["test_normal"], row["test_abnormal"]) == ("labels", 8, 10)


@needs_elpv
def test_the_smoke_preset_with_mlflow(tmp_path: Path, empty_mlflow_database: Path) -> None:
    """The whole chain, or its copy in MLflow, would break unseen: parent, nested runs, figures."""
    uri = f"sqlite:///{shutil.copy(empty_mlflow_database, tmp_path / 'mlflow.db')}"
    data = ["--data-root", DATA, *([] if (DATA / "MNIST").is_dir() else ["--data", "elpv-mono"])]
    command = ["--preset", "smoke", "-o", tmp_path / "out", "--device", "cpu", "--tracking-uri", uri, *data]
    code, text = run(*command)
    assert code == 0, text
    client = ModelRegistry(uri).client
    experiment = client.get_experiment_by_name(BENCHMARK_EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    (parent,) = (found for found in runs if "benchmark_id" in found.data.tags)
    nested = [found for found in runs if found.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    rows = pq.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert len(nested) == len(rows) == len(runs) - 1
    assert {found.info.status for found in runs} == {"FINISHED"}
    assert sorted(found.data.metrics["auroc"] for found in nested) == sorted(row["auroc"] for row in rows)
    one = next(found for found in nested if found.data.params["score"] == "paper")
    assert one.data.params["latent_size"] == "16"
    assert one.data.tags["torch"] == rows[0]["torch"]
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"results.md", "results.parquet", "figures"} <= files
    assert "figures/auroc-lines.png" in {file.path for file in client.list_artifacts(parent.info.run_id, "figures")}
    code, text = run(*command)
    assert code == 0, text
    assert len(client.search_runs([experiment.experiment_id], max_results=1000)) == len(runs)


@needs_mnist
def test_the_smoke_preset_reads_mnist(tmp_path: Path) -> None:
    """The paper's first data set would not run."""
    code, text = run(
        "--preset", "smoke", "--data", "mnist", "--data-root", DATA, "-o", tmp_path, "--methods", "ganomaly,egbad"
    )
    assert code == 0, text
    assert (tmp_path / "figures" / "reconstructions-mnist-2.png").exists()


def test_missing_data_and_wrong_names_are_said_at_once(plates: tuple[Path, Path], tmp_path: Path) -> None:
    """A user would learn after hours, or from a traceback, that a data set or a name is wrong."""
    output = ["-o", tmp_path / "out"]
    for arguments, message in (
        (["--data", "mnist", "--data-root", tmp_path], "MNIST is not in"),
        (["--methods", "vae"], "method vae: not in this preset; it has aae, "),
        (["--seeds", "1,x"], "--seeds 1,x: must be whole numbers"),
        (["--size", "40", "--folders", *plates, "--data", "plates"], "multiple of 16"),
        (["--device", "gpu9", "--folders", *plates, "--data", "plates"], "device = 'gpu9': not usable here"),
    ):
        code, text = run(*arguments, *output)
        assert code == 1, text
        assert message in text
        assert "Traceback" not in text
    assert not (tmp_path / "out" / "runs").exists()


def test_an_option_given_twice_means_both() -> None:
    """`--data elpv-mono --data elpv-poly` would run the last alone, and nobody notice before the table is read."""
    assert _listed(["elpv-mono", "elpv-poly, mnist"]) == ("elpv-mono", "elpv-poly", "mnist")
    assert _listed(None) is None
    assert _listed([""]) == ()
    assert _numbers(["0", "1,2"]) == (0, 1, 2)


def test_help_answers_at_once() -> None:
    """`ganomaly --help` would load torch and MLflow first, which takes seconds."""
    code = (
        "import sys, deployments.commands.ganomaly; sys.exit(any(m in sys.modules for m in ('torch', 'cv2', 'mlflow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


def test_all_commands_are_there() -> None:
    """`ganomaly` would lose a command on its way from the library to the installed program."""
    found = CliRunner().invoke(app, ["--help"]).output
    assert all(name in found for name in ("fit", "score", "info", "benchmark"))
