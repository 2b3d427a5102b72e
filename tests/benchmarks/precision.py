"""What bfloat16 costs in accuracy: AUROC on ELPV in both precisions, the same seeds, `ganomaly benchmark`'s splits.

python -m tests.benchmarks.precision --seeds 0,1,2
"""

from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from ganomaly.config import DetectorConfig
from ganomaly.evaluation.datasets import elpv
from ganomaly.evaluation.paper.experiments import CELLS_SHORT, INSPECTION, Experiment, plan_jobs
from ganomaly.evaluation.paper.jobs import Outcome, deal_out, run_job


def in_precision(config: DetectorConfig, precision: str) -> DetectorConfig:
    """The configuration with another arithmetic."""
    tables = config.model_dump()
    tables["network"]["precision"] = precision
    return DetectorConfig.model_validate(tables)


def aurocs(line: str, seeds: tuple[int, ...], precision: str) -> dict[str, list[float]]:
    """AUROC of raw scores by method, a figure for each seed."""
    data = elpv("mono" if line == "elpv-mono" else "poly")
    config = in_precision(CELLS_SHORT, precision)
    found: dict[str, list[float]] = {}
    for job in plan_jobs([Experiment(line, INSPECTION, seeds, ("ganomaly",), config)]):
        images = deal_out(data, job)
        (outcome,) = (event for event in run_job(job, images, "auto") if isinstance(event, Outcome))
        for method, scores in outcome.scores.items():
            found.setdefault(method, []).append(float(roc_auc_score(images.abnormal_m, scores)))
    return found


def main(
    seeds: Annotated[str, typer.Option(help="Seeds of weights and splits.")] = "0,1,2",
    lines: Annotated[str, typer.Option(help="Data sets.")] = "elpv-mono,elpv-poly",
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
) -> None:
    """Train GANomaly twice for each seed and line, in fp32 and in bf16, and compare."""
    torch.set_num_threads(threads)
    table = Table("line", "score", "AUROC fp32", "AUROC bf16", "mean difference", "largest")
    for line in lines.split(","):
        by_precision = [aurocs(line, tuple(map(int, seeds.split(","))), p) for p in ("fp32", "bf16")]
        for method, fp32 in by_precision[0].items():
            bf16 = by_precision[1][method]
            difference = np.subtract(bf16, fp32)
            figures = (np.mean(fp32), np.mean(bf16), difference.mean(), abs(difference).max())
            table.add_row(line, method, *(f"{figure:.4f}" for figure in figures))
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
