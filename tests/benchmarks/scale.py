"""A night on Dask worker processes beside the same night in one process: images per second, and what is not scoring.

    python -m tests.benchmarks.scale --images 600 --rounds 3

Real parts: an S3 server, Prefect's server, a local Dask cluster, solar cells of elpv-dataset, a detector with its
defaults. The ways take turns, so that what else runs on the machine meets all of them.
"""

import tempfile
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from ganomaly.evaluation.machine import describe_machine
from tests.benchmarks.bench.plant import FIRST_NIGHT, LINE, Night, started_plant

TRAINED_ON = 150
DEFECTIVE = 0.05
WAYS = {"the flow's process": 0, "1 worker process": 1, "2 worker processes": 2}
DETECTORS = {"features": "[training]\nepochs = 1\n", "pixels": "[recipe]\nsize_px = 64\n[training]\nepochs = 1\n"}


def line_of(detector: str, shard: int, workers: int) -> str:
    """The line's file."""
    dask = f"dask = {workers}\n" if workers else ""
    return f'name = "{LINE}"\n{DETECTORS[detector]}[scoring]\nshard_size = {shard}\n{dask}'


def outside_of_scoring(night: Night, workers: int) -> float:
    """The share of the flow in which its workers do not score: start of workers, Prefect, listing, report."""
    scoring = sum(seconds for name, seconds in night.answer["tasks"].items() if name.startswith("score"))
    return 1 - scoring / max(workers, 1) / night.answer["flow_s"]


def main(
    images: Annotated[int, typer.Option(min=20, help="Of a night.")] = 600,
    rounds: Annotated[int, typer.Option(min=1, help="Nights of each way.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Of torch in the flow's process.")] = 2,
    detector: Annotated[str, typer.Option(help="features or pixels.")] = "features",
) -> None:
    """Measure nights and print a table."""
    found: dict[str, list[Night]] = {way: [] for way in WAYS}
    shard = max(8, images // 8)
    with (
        tempfile.TemporaryDirectory() as folder,
        started_plant(Path(folder) / "plant", threads, DETECTORS[detector]) as plant,
    ):
        plant.run("prepare", images=TRAINED_ON)
        plant.score(plant.new_day(FIRST_NIGHT, DEFECTIVE))
        file = plant.folder / "lines" / f"{LINE}.toml"
        for _ in range(rounds):
            for way, workers in WAYS.items():
                file.write_text(line_of(detector, shard, workers), encoding="utf-8")
                found[way].append(plant.score(plant.new_day(images, DEFECTIVE)))
                typer.echo(f"{way}: {found[way][-1].answer['flow_s']:.1f} s", err=True)
    speeds = {way: median(night.images / night.answer["flow_s"] for night in nights) for way, nights in found.items()}
    first = next(iter(speeds.values()))
    typer.echo(f"{describe_machine('cpu').summary}\n{images} images a night, {detector}, shards of {shard}\n")
    typer.echo("| way | images/s | ratio | not scoring |\n| --- | ---: | ---: | ---: |")
    for way, workers in WAYS.items():
        share = median(outside_of_scoring(night, workers) for night in found[way])
        typer.echo(f"| {way} | {speeds[way]:.1f} | {speeds[way] / first:.2f} | {share:.0%} |")


if __name__ == "__main__":
    typer.run(main)
