"""What unlabelled defects among the "normal" images cost, and what `calibration.trim` saves.

    python -m tests.benchmarks.contamination elpv-mono FOLDER --shares 0,0.01,0.05,0.1 --trims 0,0.05 --seeds 0,1,2

Some of the defective test images, at most half of them, are drawn and learned from as if they were good; the others are
judged. FOLDER has the layout of MVTec AD.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ganomaly import DetectorConfig
from ganomaly.evaluation.folders import DETECTOR, FolderRow, InspectionSet, read_folder, run_set, solar_cells
from ganomaly.evaluation.machine import describe_machine

FIGURES = ("auroc", "escapes", "false_rejects")


def contaminated(data: InspectionSet, share: float, seed: int) -> InspectionSet:
    """The set with so many defective images among those that it learns from."""
    defective = np.flatnonzero(data.defective)
    wanted = round(share * len(data.train) / (1 - share))
    mixed = np.random.default_rng(seed).permutation(defective)[: min(wanted, len(defective) // 2)]
    rest = np.setdiff1d(np.arange(len(data.test)), mixed).tolist()
    return replace(
        data,
        train=[*data.train, *(data.test[at] for at in mixed.tolist())],
        test=[data.test[at] for at in rest],
        defective=data.defective[rest],
        masks=[None] * len(rest),
        names=(),
    )


def main(
    data: Annotated[list[str], typer.Argument(help="elpv-mono, elpv-poly or folders.")],
    shares: Annotated[str, typer.Option(help="Of the images that are learned from.")] = "0,0.01,0.05,0.1",
    trims: Annotated[str, typer.Option(help="Values of calibration.trim.")] = "0,0.05",
    seeds: Annotated[str, typer.Option()] = "0,1,2",
    resolution: Annotated[int | None, typer.Option(help="Longer side, px; default as a detector has it.")] = None,
) -> None:
    """Print a table of means over seeds."""
    machine = describe_machine("cpu")
    typer.echo(f"{machine.cores} cores of {machine.cpu}")
    typer.echo("| data | defects learned from | trim | AUROC | defects missed | good flagged |")
    typer.echo("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in data:
        for share in (float(text) for text in shares.split(",")):
            rows: dict[float, list[FolderRow]] = {}
            for seed in (int(text) for text in seeds.split(",")):
                whole = solar_cells(name, seed) if name in ("elpv-mono", "elpv-poly") else read_folder(Path(name))
                mixed = contaminated(whole, share, seed)
                for trim in (float(text) for text in trims.split(",")):
                    settings = {"recipe": {"resolution": resolution}, "calibration": {"trim": trim}}
                    config = DetectorConfig.model_validate({"input": "features", **settings})
                    found = next(row for row in run_set(mixed, config, seed, baselines=False) if row.method == DETECTOR)
                    rows.setdefault(trim, []).append(found)
            for trim, of in rows.items():
                means = [float(np.mean([getattr(row, figure) for row in of])) for figure in FIGURES]
                figures = " | ".join([f"{means[0]:.3f}", *(f"{mean:.1%}" for mean in means[1:])])
                typer.echo(f"| {Path(name).name} | {share:.0%} | {trim:.0%} | {figures} |")


if __name__ == "__main__":
    typer.run(main)
