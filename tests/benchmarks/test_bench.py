"""The benchmark itself: it runs, compares like with like, and its ratios are ratios."""

import os
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import cv2
import pandas as pd
import pytest
import torch

from ganomaly import Detector, DetectorConfig
from ganomaly.config import weights_are_installed
from ganomaly.networks.ganomaly import GANomaly, Pass
from ganomaly.networks.layers import NetworkConfig, build
from ganomaly.scoring.pixel_scores import paper_score
from tasks.bucket.bucket import ObjectStore
from tasks.lines.line import LineConfig
from tests.benchmarks import gpu_check, gpu_detectors
from tests.benchmarks.bench import contestant_stages as stages
from tests.benchmarks.bench.authors import AuthorsTraining, score
from tests.benchmarks.bench.contest import AUTHORS, FULL, OURS, ROOT, Contestant, ContestantError, environment
from tests.benchmarks.bench.data import cell_files, lay_out_day, mixed
from tests.benchmarks.bench.night import SERVER_STAGE, Stages
from tests.benchmarks.bench.processes import watching
from tests.benchmarks.bench.rows import ratios_of, row_of


@pytest.fixture
def pair() -> tuple[torch.nn.Module, AuthorsTraining]:
    """Our model and the authors' with the same weights."""
    torch.manual_seed(0)
    sizes = NetworkConfig(features=8, latent_size=10)
    ours = build(lambda: GANomaly(32, 1, sizes), torch.Generator().manual_seed(0))
    theirs = AuthorsTraining(32, 1, features=8, latent_size=10)
    for mine, yours in ((ours.generator, theirs.generator), (ours.discriminator, theirs.discriminator)):
        names = yours.state_dict().keys()
        weights = mine.state_dict().values()
        yours.load_state_dict(dict(zip(names, weights, strict=True)))
    return ours, theirs


def test_authors_networks_are_ours(pair: tuple[torch.nn.Module, AuthorsTraining]) -> None:
    """Broken if ours is faster because its networks are smaller: equal weights must give equal scores."""
    ours, theirs = pair
    x = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    seen = Pass(ours.eval(), x)
    mine = paper_score(seen.z_bd, seen.z_hat_bd)
    yours = score(theirs.generator.eval(), x) / 10  # ours is the mean over the latent size
    torch.testing.assert_close(mine, yours, rtol=1e-4, atol=1e-6)


def test_authors_step_has_our_losses_and_learns(pair: tuple[torch.nn.Module, AuthorsTraining]) -> None:
    """Broken if the two training steps minimise different losses, or the authors' does not train."""
    ours, theirs = pair
    x = torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mine = ours.train().losses(x, torch.Generator())
    yours = theirs.step(x)
    for name, loss in yours.items():
        torch.testing.assert_close(getattr(mine, name), loss, rtol=1e-3, atol=1e-5)
    for _ in range(10):
        after = theirs.step(x)
    assert after["contextual"] < yours["contextual"]


def test_ratios_are_taken_within_a_round() -> None:
    """Broken if noise that slows one round down changes the ratio, or a ratio says the opposite."""
    assert ratios_of([20.0, 2.0], [10.0, 1.0]) == [2.0, 2.0]
    assert ratios_of([10.0], [20.0], smaller_is_better=True) == [2.0]
    row = row_of("w", "c", "images/s", [10.0, 1.0, 4.0], ratios=[2.0, 3.0, 7.0])
    assert (row.median, row.low, row.high, row.ratio, row.rounds) == (4.0, 1.0, 10.0, 3.0, 3)


def test_bound_is_cores_over_cpu_time() -> None:
    """Broken if the bound beside the night's speed is not what the stages allow, or forgets the S3 server."""
    costs = Stages({"decode": 1.0, SERVER_STAGE: 3.0}, overlay_ms=10.0)
    assert costs.bound(2, with_server=True) == 500
    assert costs.bound(2, with_server=False) == 2000
    of_night = costs.of_night(0.1, server_ms=2.0)
    assert of_night.bound(2, with_server=False) == 1000
    assert of_night.bound(2, with_server=True) == 500


def test_a_day_has_the_lines_keys_and_its_share_of_defects(tmp_path: Path) -> None:
    """Broken if the night of the benchmark holds strays or no defective cells, so that it is no night."""
    line = LineConfig.model_validate({"name": "bench", "images": {}})
    day = date(2026, 3, 2)
    lay_out_day(tmp_path / "data" / "plant", "bench", day, 40, 0.1, 0)
    lay_out_day(tmp_path / "data" / "plant", "bench", date(2026, 3, 3), 2, 0.0, 48)
    bucket = tmp_path / "data" / "plant"
    keys = [path.relative_to(bucket).as_posix() for path in bucket.rglob("*.png")]
    parsed = [line.parse_key(key) for key in keys]
    assert sum(found is not None and found.date == day for found in parsed) == 40
    assert len(keys) == 42
    defective = set(cell_files(defective=True))
    assert sum(path in defective for path in mixed(40, 0.1)) == 4
    small = next(bucket.glob("images/bench/2026-03-03/*/el.png"))
    assert cv2.imread(str(small)).shape[:2] == (48, 48)


@pytest.mark.skipif(not weights_are_installed(), reason="the weights of the frozen network are not installed")
def test_each_stage_of_a_night_is_measured(bucket: ObjectStore, tmp_path: Path) -> None:
    """Broken if a stage no longer runs on the product's modules: the whole benchmark is too long for a test."""
    n, day, folder = 4, "2026-03-02", str(tmp_path / "detector")
    cells = [path.read_bytes() for path in mixed(24, 0.0)]
    config = DetectorConfig.model_validate({"input": "features", "calibration": {"false_reject_rate": 0.1}})
    Detector.fit(cells, config=config, device="cpu").save(folder)
    for number, cell in enumerate(cells[:n]):
        bucket.put(f"images/{stages.LINE}/{day}/cell{number}/el.png", cell, "image/png")
    stages.bucket.cache_clear()  # another test's bucket
    images = {"n_images": n, "defective_share": 0.0}
    answers = [
        stages.listing(day),
        stages.fetch(day, n),
        stages.digest(**images),
        stages.decode(**images),
        stages.prepare(folder, **images),
        stages.prepare_photos(folder, 1, reduced=True),
        stages.score(folder, **images),
        stages.overlay(folder, **images, flagged=2),
        stages.store(f"sqlite:///{tmp_path}/stage.db", n),
    ]
    assert all(answer["images_per_s"] > 0 for answer in answers)
    assert len(list(bucket.list_objects(f"reports/{stages.LINE}/stages/"))) == 2


def test_a_contestant_that_dies_costs_only_its_own_figures(tmp_path: Path) -> None:
    """Broken if a process that ran out of memory takes with it what all others measured."""
    command = [sys.executable, "-m", "tests.benchmarks.bench.contestant_plain"]
    with Contestant(AUTHORS, command, 1, tmp_path / "log", environment(1)) as contestant:
        os.kill(contestant.pid, signal.SIGKILL)
        with pytest.raises(ContestantError, match="log"):
            contestant.do("set_threads", threads=1)
        with pytest.raises(ContestantError, match="log"):
            contestant.do("set_threads", threads=1)


def test_watching_sees_the_cpu_of_a_child() -> None:
    """Broken if CPU time and memory of a night are not those of its processes."""
    burn = "import time; e = time.process_time() + 0.6\nwhile time.process_time() < e: pass\nprint(); input()"
    process = subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with watching(process.pid) as usage:
        process.stdout.readline()
    process.communicate(b"\n")
    assert usage.total_cpu_s >= 0.5
    assert usage.peak_bytes > 1e6


def test_gpu_check_runs_and_says_that_no_gpu_was_measured() -> None:
    """Broken if the check of a GPU cannot run at all, or passes off figures of a CPU as a GPU's."""
    # on a machine for GPUs nothing is installed but torch, torchvision, numpy and OpenCV
    without = "pydantic", "scipy", "sklearn", "safetensors", "prefect", "typer"
    start = f"import runpy, sys; sys.modules |= dict.fromkeys({without}); sys.argv[0] = 'gpu_check'; "
    start += "runpy.run_path('tests/benchmarks/gpu_check.py', run_name='__main__')"
    command = [sys.executable, "-c", start, "--device", "cpu", "--quick", "--threads", "2"]
    done = subprocess.run(
        command, check=False, cwd=ROOT, env=environment(1), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "No GPU was measured" in done.stdout
    assert done.stdout.count("| ok |") == 6
    assert "## Detectors\n\nNot measured: " in done.stdout


def test_gpu_check_compares_whole_detectors() -> None:
    """Broken if a GPU's verdicts were never compared with a CPU's, or what differs passes."""
    table, same = gpu_detectors.detector_section(torch.device("cpu"), quick=True)
    assert same
    assert table.count("| 0 of 40 | ok |") == (2 if weights_are_installed() else 1)


def test_gpu_check_fails_where_results_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken if a GPU that computes something else, or nothing but NaN, passes."""
    cpu = torch.device("cpu")
    assert not gpu_check.Check("scores", 32, "fp32", float("nan"), 1.0).passed
    assert all(check.passed for check in gpu_check.compare(32, 8, cpu, 4))
    other = SimpleNamespace(deepcopy=lambda _: gpu_check.new_model(32, 8, cpu, seed=1))
    monkeypatch.setattr(gpu_check, "copy", other)
    assert not all(check.passed for check in gpu_check.compare(32, 8, cpu, 4))


def test_quick_run_measures_the_contest(tmp_path: Path) -> None:
    """Broken if the benchmark does not run, or loses a contestant or a ratio on the way to its table."""
    command = [sys.executable, "-m", "tests.benchmarks.bench", "--quick", "--threads", "1", "--out", str(tmp_path)]
    only = ["--only", "training", "--only", "accuracy", "--only", "scoring"]
    subprocess.run([*command, *only], check=True, cwd=ROOT, env=environment(1), capture_output=True, timeout=600)
    frame = pd.read_parquet(tmp_path / "bench.parquet")
    assert set(frame["workload"]) == {"training step", "accuracy after equal training", "scoring, networks"}
    accuracy = frame[frame["unit"] == "AUROC"].set_index("contestant")["median"]
    assert list(accuracy.index) == [OURS, FULL, AUTHORS]
    assert (accuracy[[OURS, AUTHORS]] > 0).all()
    assert 0.8 < accuracy[FULL] < 1  # after one epoch
    theirs = frame[(frame["contestant"] == AUTHORS) & (frame["unit"] != "AUROC")]
    assert len(theirs) == 2
    assert (theirs["ratio"] > 0).all()
    assert (frame[frame["contestant"] == OURS]["median"] > 0).all()
    assert "| ours | 32 | 1 |" in (tmp_path / "bench.md").read_text(encoding="utf-8")
