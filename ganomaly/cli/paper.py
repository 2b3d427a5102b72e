"""`ganomaly paper`: repeat the paper's comparison of GANomaly with the methods before it."""

# ruff: noqa: PLC0415 - heavy modules are imported where they are needed, so that `--help` answers at once

import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ganomaly.cli.benchmark import listed, numbers
from ganomaly.cli.common import Device, plain_errors, progress

if TYPE_CHECKING:
    from ganomaly.evaluation.datasets import DataSet
    from ganomaly.evaluation.paper.experiments import Job

INTERRUPTED = 130


def paper(
    preset: Annotated[
        Literal["short", "full", "smoke", "latent", "weights"],
        typer.Argument(
            help="short: MNIST and both lines of solar cells in about an hour on 2 CPU cores. full: the paper's "
            "protocol with three seeds and CIFAR-10, for a GPU. latent, weights: AUROC against latent size and loss "
            "weights. smoke: seconds, tests the installation."
        ),
    ] = "short",
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Rows, tables and figures; run again to go on.")
    ] = Path("paper"),
    methods: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B,...",
            help="Only these of ganomaly, egbad, anogan, aae, nearest_image, patch_gaussian, pixel_gaussian.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(metavar="A,B,...", help="Only these of mnist, cifar10, elpv-mono, elpv-poly.")
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option(metavar="A,B,...", help="Only these classes are unseen in turn.")
    ] = None,
    seeds: Annotated[list[str] | None, typer.Option(metavar="0,1,...", help="These seeds.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the preset's.")] = None,
    data_root: Annotated[
        Path, typer.Option(envvar="GANOMALY_DATA", metavar="DIR", help="Holds MNIST/raw and cifar-10-batches-py.")
    ] = Path("data"),
    download: Annotated[bool, typer.Option("--download", help="Fetch MNIST and CIFAR-10 if they are missing.")] = False,
    device: Device = "auto",
) -> None:
    """Train GANomaly, EGBAD, AnoGAN and an autoencoder on the same images, and compare them with what needs no network.

    Each finished training is kept: the same command goes on where it was stopped. A job that fails is named at the end,
    the others run; the exit code is then 1. `inspection log-paper DIR` logs the results to MLflow.
    """
    with plain_errors():
        from ganomaly.evaluation.paper.experiments import PRESETS, narrow, plan_jobs
        from ganomaly.evaluation.paper.jobs import unfinished

        experiments = narrow(
            PRESETS[preset],
            methods=listed(methods),
            data=listed(data),
            classes=listed(classes),
            seeds=numbers(seeds),
            epochs=epochs,
        )
        sources = _sources(data_root, download=download)
        for name in sorted({experiment.data for experiment in experiments}):
            sources[name]()  # before hours of work: is it there?
        jobs = plan_jobs(experiments)
        left = unfinished(jobs, output)
        if len(left) < len(jobs):
            typer.echo(f"{len(jobs) - len(left)} of {len(jobs)} jobs are done already")
        try:
            _run(left, sources, output, device)
        except KeyboardInterrupt:
            done = len(jobs) - len(unfinished(jobs, output))
            typer.echo(f"\nstopped: {done} of {len(jobs)} jobs are done; the same command goes on from here", err=True)
            raise typer.Exit(INTERRUPTED) from None
        _finish(jobs, output)


def _run(jobs: "Sequence[Job]", sources: "dict[str, Callable[[], DataSet]]", output: Path, device: str) -> None:
    from ganomaly.evaluation.paper.jobs import run_jobs
    from ganomaly.networks.training import EpochStats

    with progress() as bar:
        task = bar.add_task("jobs", total=len(jobs), figures="")
        for job, news in run_jobs(jobs, sources, output, device=device):
            if isinstance(news, EpochStats):
                bar.update(task, figures=f"{job.title}, epoch {news.epoch} of {news.epochs}")
                continue
            bar.advance(task)
            aurocs = ", ".join(f"{row.score} {row.auroc:.3f}" for row in news if row.auroc is not None)
            found = news[0].error or f"AUROC {aurocs}"
            bar.console.print(f"{job.title}: {found} ({news[0].duration_s:.1f} s)", markup=False, highlight=False)


def _finish(jobs: "Sequence[Job]", output: Path) -> None:
    """Write tables and figures of all rows in the folder, and say what failed."""
    from ganomaly.evaluation.paper.figures import draw_all
    from ganomaly.evaluation.paper.rows import read_rows
    from ganomaly.evaluation.paper.tables import write_markdown
    from ganomaly.evaluation.tables import write_csv

    rows = read_rows(output, jobs)
    figures = draw_all(rows, output, output / "figures")
    write_csv(rows, output / "results.csv")
    names = [path.relative_to(output).as_posix() for path in figures]
    command = shlex.join(["ganomaly", *sys.argv[1:]])
    write_markdown(rows, output / "results.md", command=command, figures=names)
    typer.echo(f"{len(rows)} rows and {len(figures)} figures in {output / 'results.md'}")
    asked = {job.name for job in jobs}
    failed = {row.job: row.error for row in rows if row.error is not None and row.job in asked}
    if failed:
        typer.secho(f"{len(failed)} of {len(jobs)} jobs failed; the same command tries them again:", fg="red", err=True)
        for name, error in failed.items():
            typer.secho(f"  {name}: {error}", fg="red", err=True)
        raise typer.Exit(1)


def _sources(root: Path, *, download: bool) -> "dict[str, Callable[[], DataSet]]":
    from ganomaly.evaluation import datasets

    return {
        "mnist": partial(datasets.mnist, root, download=download),
        "cifar10": partial(datasets.cifar10, root, download=download),
        "elpv-mono": partial(datasets.elpv, "mono"),
        "elpv-poly": partial(datasets.elpv, "poly"),
    }
