"""Measure this project against anomalib's Ganomaly and a plain fp32 implementation of the authors' step.

python -m tests.benchmarks.bench --help
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tests.benchmarks.bench import networks
from tests.benchmarks.bench.contest import ROOT, contestants
from tests.benchmarks.bench.machine import describe
from tests.benchmarks.bench.plan import WORKLOADS, Plan
from tests.benchmarks.bench.results import markdown, write
from tests.benchmarks.bench.rows import Row

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
CONTESTS = {"training": networks.training, "scoring": networks.scoring, "latency": networks.latency}


@app.command(help=__doc__)
def main(
    out: Annotated[Path, typer.Option(help="Folder for everything that is written.")] = Path("var/bench"),
    only: Annotated[list[str] | None, typer.Option(help=f"Workloads: {', '.join(WORKLOADS)}; default all.")] = None,
    size: Annotated[list[int] | None, typer.Option(help="Network inputs in px; default 32 64 128 256.")] = None,
    threads: Annotated[list[int] | None, typer.Option(help="Threads of torch; default all cores.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each contestant is measured, in turns.")] = 5,
    seconds: Annotated[float, typer.Option(help="Seconds of one measurement, at least.")] = 2.0,
    images: Annotated[int, typer.Option(help="Images of the night.")] = 20_000,
    night_px: Annotated[int, typer.Option(help="Network input of the night and of anomalib's engine.")] = 64,
    engine_images: Annotated[int, typer.Option(help="Images that anomalib's engine predicts.")] = 600,
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
        threads=tuple(threads or (_cores(),)),
        rounds=rounds,
        seconds=seconds,
        images=images,
        night_px=night_px,
        engine_images=engine_images,
        growth=tuple(growth or ()),
        growth_px=growth_px,
        keys=keys,
        anomalib=None if without_anomalib or quick else anomalib.absolute(),
    )
    plan = quickly(plan) if quick else plan
    console = Console(stderr=True)
    machine = describe(plan)
    rows = measure(plan, console)
    path = write(plan.folder, rows, machine, [])
    if write_docs:
        shutil.copy(path, ROOT / "docs" / "bench.md")
    typer.echo(markdown(rows, machine, []))
    console.print(f"written: {path}", highlight=False, soft_wrap=True)


def quickly(plan: Plan) -> Plan:
    """The same with the smallest sizes."""
    return replace(
        plan, sizes_px=(32,), rounds=1, seconds=0.1, night_px=32, images=60, stage_images=32, growth=(), keys=2000
    )


def measure(plan: Plan, console: Console) -> list[Row]:
    """All rows of the plan."""
    rows: list[Row] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("start")

        def say(text: str) -> None:
            progress.update(task, description=text)

        for threads in plan.threads:
            chosen = [run for name, run in CONTESTS.items() if name in plan.workloads]
            if chosen:
                with contestants(threads, plan.folder / "logs", plan.anomalib) as cast:
                    rows += [row for run in chosen for row in run(plan, cast, say)]
    return sorted(rows, key=lambda row: list(dict.fromkeys(r.workload for r in rows)).index(row.workload))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    app()
