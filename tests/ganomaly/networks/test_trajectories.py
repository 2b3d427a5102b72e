"""Stored losses and scores of a short seeded training: a refactor must reproduce them.

`python tests/ganomaly/networks/test_trajectories.py` writes them anew. Do that only for a change that is meant to train
differently, and say so where the change is described.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from ganomaly import Detector, DetectorConfig
from ganomaly.evaluation.paper.comparators import Trial
from ganomaly.evaluation.paper.experiments import NETWORKS
from ganomaly.networks.ganomaly import Pass
from ganomaly.networks.training import to_input
from ganomaly.scoring.pixel_scores import paper_score
from tests.ganomaly.evaluation.paper.tiny import construct

FOLDER = Path(__file__).parent / "trajectories"
TOLERANCE = 1e-4
"""Relative. With two threads or contiguous tensors, or on another CPU, the figures differ by up to 1.2e-6, while 2 %
more learning rate for D alone makes 7e-3."""


def draw_images(n: int, seed: int) -> np.ndarray:
    """Stripes of random slope and phase, uint8 (n, 32, 32, 1), by whole numbers only: the same on every machine."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:32, :32]
    slopes, phases = rng.integers(4, 12, (2, n)), rng.integers(0, 256, n)
    stripes = slopes[0, :, None, None] * rows + slopes[1, :, None, None] * columns + phases[:, None, None]
    return np.abs(stripes % 512 - 256).clip(0, 255).astype(np.uint8)[..., None]


def record(kind: str) -> dict[str, list[dict[str, float]] | list[float]]:
    """Losses of each epoch and raw scores of five images after a short training on the CPU, fp32."""
    config = DetectorConfig.model_validate(
        {
            "recipe": {"size_px": 32},
            "network": {"features": 8, "latent_size": 16, "precision": "fp32"},
            "training": {"epochs": 2, "batch_size": 16, "seed": 7},
        }
    )
    # oneDNN sums in another order on CPUs with AVX-512, and Adam makes 3e-3 of that within two epochs
    with torch.backends.mkldnn.flags(enabled=False):
        if kind == "ganomaly":
            detector = Detector(config, device="cpu")
            epochs = [asdict(stats) for stats in detector.train(draw_images(64, seed=1))]
            seen = Pass(detector.judge.model, to_input(draw_images(5, seed=2), detector.device))
            scores = paper_score(seen.z_bd, seen.z_hat_bd).tolist()
        else:
            trial = Trial(construct(kind, config, search_steps=20), config, torch.device("cpu"))
            epochs = [asdict(stats) for stats in trial.train(draw_images(64, seed=1))]
            scores = trial.raw_scores(draw_images(5, seed=2)).tolist()
    losses = [{name: value for name, value in stats.items() if name.startswith("loss_")} for stats in epochs]
    return {"losses": losses, "scores": scores}


@pytest.mark.parametrize("kind", NETWORKS)
def test_training_takes_the_stored_way(kind: str) -> None:
    """A refactor would have changed what is trained: another weight, order of draws or mode of batch norm."""
    stored = json.loads((FOLDER / f"{kind}.json").read_text(encoding="utf-8"))
    found = record(kind)
    for epoch, expected in zip(found["losses"], stored["losses"], strict=True):
        assert epoch == pytest.approx(expected, rel=TOLERANCE)
    assert found["scores"] == pytest.approx(stored["scores"], rel=TOLERANCE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for model_kind in NETWORKS:
        text = json.dumps(record(model_kind), indent=1)
        (FOLDER / f"{model_kind}.json").write_text(text + "\n", encoding="utf-8")
