"""The benchmark itself: it runs, compares like with like, and its ratios are ratios."""

import subprocess
import sys

import pandas as pd
import pytest
import torch

from ganomaly.models import ModelConfig, build_model
from ganomaly.networks import NetworkConfig
from tests.benchmarks.bench.authors import AuthorsTraining, score
from tests.benchmarks.bench.contest import AUTHORS, OURS, ROOT, environment
from tests.benchmarks.bench.rows import ratios_of, row_of


@pytest.fixture
def pair() -> tuple[torch.nn.Module, AuthorsTraining]:
    """Our model and the authors' with the same weights."""
    torch.manual_seed(0)
    ours = build_model(
        32, 1, NetworkConfig(features=8, latent_size=10), ModelConfig(), torch.Generator().manual_seed(0)
    )
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
    with torch.no_grad():
        mine = ours.eval().judge(x).score_b
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


def test_quick_run_measures_the_contest(tmp_path) -> None:
    """Broken if the benchmark does not run, or loses a contestant or a ratio on the way to its table."""
    command = [sys.executable, "-m", "tests.benchmarks.bench", "--quick", "--threads", "1", "--out", str(tmp_path)]
    only = ["--only", "training", "--only", "scoring"]
    subprocess.run([*command, *only], check=True, cwd=ROOT, env=environment(1), capture_output=True, timeout=120)
    frame = pd.read_parquet(tmp_path / "bench.parquet")
    assert set(frame["workload"]) == {"training step", "scoring, networks"}
    theirs = frame[frame["contestant"] == AUTHORS]
    assert len(theirs) == 2
    assert (theirs["ratio"] > 0).all()
    assert (frame[frame["contestant"] == OURS]["median"] > 0).all()
    assert "| ours | 32 | 1 |" in (tmp_path / "bench.md").read_text(encoding="utf-8")
