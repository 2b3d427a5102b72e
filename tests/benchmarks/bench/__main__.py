"""Measure this project against anomalib's Ganomaly and PatchCore and a plain fp32 implementation of the authors' step.

python -m tests.benchmarks.bench --help
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ganomaly.acceleration.cores import usable_cores
from tests.benchmarks.bench import charts, networks, night
from tests.benchmarks.bench.accuracy import accuracy
from tests.benchmarks.bench.contest import ROOT, ContestantError, contestants
from tests.benchmarks.bench.machine import describe
from tests.benchmarks.bench.night import Say, Stages
from tests.benchmarks.bench.plan import WORKLOADS, Plan
from tests.benchmarks.bench.plant import NightError, open_plant
from tests.benchmarks.bench.results import markdown, write
from tests.benchmarks.bench.rows import Row

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
CONTESTS = {
    "training": networks.training,
    "accuracy": accuracy,
    "scoring": networks.scoring,
    "latency": networks.latency,
}


@app.command(help=__doc__)
def main(
    out: Annotated[Path, typer.Option(help="Folder for everything that is written.")] = Path("var/bench"),
    only: Annotated[list[str] | None, typer.Option(help=f"Workloads: {', '.join(WORKLOADS)}; default all.")] = None,
    size: Annotated[list[int] | None, typer.Option(help="Network inputs in px; default 32 64 128 256.")] = None,
    threads: Annotated[list[int] | None, typer.Option(help="Threads of torch; default all cores.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each contestant is measured, in turns.")] = 5,
    seconds: Annotated[float, typer.Option(help="Seconds of one measurement, at least.")] = 2.0,
    images: Annotated[int, typer.Option(help="Images of the night.")] = 5_000,
    accuracy_px: Annotated[list[int] | None, typer.Option(help="Inputs where AUROC is compared; default 32.")] = None,
    accuracy_epochs: Annotated[int, typer.Option(min=1, help="Epochs of each training there.")] = 20,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds each contestant is trained with there.")] = 3,
    engine_images: Annotated[int, typer.Option(help="Images that anomalib's engine predicts.")] = 300,
    growth: Annotated[list[int] | None, typer.Option(help="Nights of so many images show how cost grows.")] = None,
    growth_px: Annotated[int, typer.Option(help="Side of those images; 0: as the camera made them.")] = 0,
    keys: Annotated[int, typer.Option(help="Keys to list and compare with the report store.")] = 1_000_000,
    anomalib: Annotated[Path, typer.Option(help="Python of anomalib's environment.")] = Path(
        "var/bench/anomalib/bin/python"
    ),
    without_anomalib: Annotated[bool, typer.Option("--without-anomalib", help="Leave anomalib out.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Seconds instead of minutes: smallest sizes.")] = False,
    write_docs: Annotated[bool, typer.Option("--write-docs", help="Also write docs/bench.md.")] = False,
) -> None:
    """Measure, print, write."""
    if not (without_anomalib or quick or anomalib.is_file()):
        raise typer.BadParameter(f"{anomalib} is not there: run `make bench`, or give --without-anomalib")
    workloads = tuple(only or [name for name in WORKLOADS if name != "growth" or growth])
    if unknown := [name for name in workloads if name not in WORKLOADS]:
        raise typer.BadParameter(f"--only {unknown[0]}: there is no such workload; there are {', '.join(WORKLOADS)}")
    plan = Plan(
        folder=out,
        workloads=workloads,
        sizes_px=tuple(size or (32, 64, 128, 256)),
        threads=tuple(threads or (usable_cores(),)),
        rounds=rounds,
        seconds=seconds,
        images=images,
        accuracy_px=tuple(accuracy_px or (32,)),
        accuracy_epochs=accuracy_epochs,
        seeds=seeds,
        engine_images=engine_images,
        growth=tuple(growth or ()),
        growth_px=growth_px,
        keys=keys,
        anomalib=None if without_anomalib or quick else anomalib.absolute(),
    )
    plan = quickly(plan) if quick else plan
    plan.folder.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    machine = describe(plan)
    found = measure(plan, console)
    order = list(dict.fromkeys(row.workload for row in found.rows))
    rows = sorted(found.rows, key=lambda row: order.index(row.workload))  # threads of one workload side by side
    pictures = draw(plan.folder, rows, found.stages)
    command = f'make bench BENCH="{shlex.join(sys.argv[1:])}"'
    path = write(plan.folder, rows, machine, pictures, command)
    if write_docs:
        for name in (path.name, *pictures):
            shutil.copy(plan.folder / name, ROOT / "docs" / name)
    typer.echo(markdown(rows, machine, pictures, command))
    console.print(f"written: {path}", highlight=False, soft_wrap=True)
    if found.failures:
        console.print(*found.failures, sep="\n", style="red", markup=False)
        raise typer.Exit(1)


def quickly(plan: Plan) -> Plan:
    """The same with the smallest sizes."""
    return replace(
        plan,
        sizes_px=(32,),
        rounds=1,
        seconds=0.1,
        latency_px=32,
        accuracy_px=(32,),
        accuracy_epochs=1,
        seeds=1,
        images=min(plan.images, 60),
        stage_images=32,
        keys=min(plan.keys, 2000),
    )


class Collected:
    """What was measured so far, and what could not be: a workload that fails must not cost the others."""

    def __init__(self, say: Say) -> None:
        self.rows: list[Row] = []
        self.stages: Stages | None = None
        self.failures: list[str] = []
        self._say = say

    def add(self, name: str, measure: Callable[[], Iterable[Row]]) -> None:
        """Measure one workload; rows that it gave before it failed are kept."""
        try:
            for row in measure():
                self.rows.append(row)
        except (ContestantError, NightError, subprocess.CalledProcessError) as error:
            self.failures.append(f"{name}: {error}")
            self._say(f"[red]{name}: {error}")


def measure(plan: Plan, console: Console) -> Collected:
    """All rows of the plan, and the stages if they were measured."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("start")

        def say(text: str) -> None:
            progress.update(task, description=text)
            if not console.is_terminal:
                console.print(f"{datetime.now(UTC):%H:%M:%S} {text}", highlight=False)

        found = Collected(say)
        measure_plant(plan, found, say)
        measure_contests(plan, found, say)
    return found


def measure_plant(plan: Plan, found: Collected, say: Say) -> None:
    """Stages, the night, and how its cost grows."""
    chosen = {"stages", "night", "growth"} & set(plan.workloads)
    if chosen:
        found.add("plant", lambda: in_plant(plan, chosen, found, say))
    if "keys" in plan.workloads:
        found.add("keys", lambda: night.many_keys(plan, say))


def in_plant(plan: Plan, chosen: set[str], found: Collected, say: Say) -> Iterator[Row]:
    """What needs a running plant; the stages go to `found`."""
    say("a plant of its own: server, line, model, first night")
    with open_plant(plan, max(plan.threads)) as plant:
        if {"stages", "night"} & chosen:
            found.stages, at_once, rows = night.measure_stages(plan, plant, say)
            yield from rows
            if "night" in chosen:
                found.stages, rows = night.whole_night(plan, plant, found.stages, at_once, say)
                yield from rows
        if "growth" in chosen:
            yield from night.growth(plan, plant, say)


def measure_contests(plan: Plan, found: Collected, say: Say) -> None:
    """What contestants are compared in, and anomalib's engine beside our night."""
    chosen = [name for name in CONTESTS if name in plan.workloads]
    ours = next((row.median for row in found.rows if row.workload == night.END_TO_END), None)
    for threads in plan.threads:
        engine = "anomalib" in plan.workloads and plan.anomalib is not None and threads == max(plan.threads)
        # a cast for each workload: at 256 px what one holds fills the memory that the next one needs
        for name in [*chosen, *(["anomalib"] if engine else [])]:
            with contestants(threads, plan.folder / "logs", plan.anomalib) as cast:
                if name in CONTESTS:
                    found.add(name, partial(CONTESTS[name], plan, cast, say))
                else:
                    found.add(name, partial(night.anomalib_engine, plan, cast, ours, say))


def draw(folder: Path, rows: Sequence[Row], stages: Stages | None) -> list[str]:
    """The pictures' names."""
    names = []
    if charts.draw_ratios(rows, folder / charts.RATIOS_PICTURE):
        names.append(charts.RATIOS_PICTURE)
    if stages is not None:
        charts.draw_stages(stages, folder / charts.STAGES_PICTURE)
        names.append(charts.STAGES_PICTURE)
    return names


if __name__ == "__main__":
    app()
