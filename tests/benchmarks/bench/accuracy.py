"""Whether a faster training step still teaches as much: AUROC of all contestants, trained on the same images."""

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from ganomaly.config import DetectorConfig
from ganomaly.evaluation.datasets import elpv
from ganomaly.evaluation.paper.experiments import INSPECTION, Experiment, plan_jobs
from ganomaly.evaluation.paper.jobs import deal_out
from tests.benchmarks.bench.contest import FULL, OURS, Contestant
from tests.benchmarks.bench.data import LINE
from tests.benchmarks.bench.networks import Say
from tests.benchmarks.bench.plan import TRAINING_BATCH, Plan
from tests.benchmarks.bench.rows import Row, row_of

WORKLOAD = "accuracy after equal training"


def accuracy(plan: Plan, cast: Mapping[str, Contestant], say: Say) -> Iterator[Row]:
    """AUROC on test images nobody trained on, from raw scores in ``eval()``; a value for each seed.

    All train on the same good cells, for the same epochs and in batches of the same size, each with the step that
    `training` measures. The seed splits the cells, draws the weights and shuffles. A contestant's score is the distance
    of z and z_hat; the row with both heads shows what our default score makes of the same networks.
    """
    for size_px in plan.accuracy_px:
        aurocs: dict[str, list[float]] = {name: [] for name in (OURS, FULL, *cast)}
        for seed in range(plan.seeds):
            path = split_file(plan.folder / "data", size_px, seed)
            with np.load(path) as images:
                n_images, abnormal_m = len(images["train"]), images["abnormal"]
            for name, contestant in cast.items():
                say(f"AUROC at {size_px} px, seed {seed}: {name}")
                for score, raw_m in _train_and_score(contestant, path, plan.accuracy_epochs, size_px, seed).items():
                    aurocs[name if score == "distance" else FULL].append(float(roc_auc_score(abnormal_m, raw_m)))
        for name, values in aurocs.items():
            note = f"mean {statistics.mean(values):.3f}; {n_images} cells, {plan.accuracy_epochs} epochs"
            yield row_of(WORKLOAD, name, "AUROC", values, size_px=size_px, threads=cast[OURS].threads, note=note)


def _train_and_score(
    contestant: Contestant, path: Path, epochs: int, size_px: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Raw scores (M,) of the test images by the score's name: ``distance`` and ours ``both heads``."""
    scores, batch = path.with_name("scores.npz"), TRAINING_BATCH.get(size_px, 8)
    contestant.do("train_and_score", path=str(path), scores=str(scores), epochs=epochs, batch=batch, seed=seed)
    with np.load(scores) as found:
        return dict(found)


def split_file(folder: Path, size_px: int, seed: int) -> Path:
    """A file of cells that train, fit, calibrate and test, uint8 (N, S, S, 1), and which tested ones are abnormal."""
    path = folder / f"split-{LINE}-{size_px}-{seed}.npz"
    if not path.exists():
        config = DetectorConfig.model_validate({"recipe": {"size_px": size_px}})
        (job,) = plan_jobs([Experiment(LINE, INSPECTION, (seed,), ("ganomaly",), config)])
        images = deal_out(elpv("mono"), job)
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(
            path,
            train=images.train,
            fit=images.fit,
            calibrate=images.calibrate,
            test=images.test,
            abnormal=images.abnormal_m,
        )
    return path
