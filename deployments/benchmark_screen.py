"""What `ganomaly benchmark` shows while it runs: a bar on a terminal, else a line for each finished job."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ganomaly.benchmark.plan import Job
from ganomaly.benchmark.run import EpochDone, Event, Finished, Started

HOUR = 3600.0


class Screen:
    """Follows the events of a run.

    Args:
        jobs: all that will run.
        bar: of a terminal; None prints lines.
    """

    def __init__(self, jobs: Sequence[Job], bar: Progress | None) -> None:
        self.bar = bar
        self.count = len(jobs)
        self.finished = 0
        self.cost_done = 0.0
        self.warnings: set[str] = set()
        if bar is not None:
            self.task = bar.add_task("", total=sum(job.cost for job in jobs), now="")

    def show(self, event: Event) -> None:
        """Show what happened."""
        match event:
            case Started(job):
                self._update(job, 0.0, job.title)
            case EpochDone(job, stats):
                share = stats.epoch / (stats.epochs + 1)  # the last share is for judging the test images
                self._update(job, share, f"{job.title}, epoch {stats.epoch} of {stats.epochs}")
            case Finished(job, _):
                self.finished += 1
                self.cost_done += job.cost
                self._update(job, 0.0, job.title)
                self._print(event)

    def _update(self, job: Job, share: float, now: str) -> None:
        if self.bar is not None:
            place = f"{min(self.finished + 1, self.count)} of {self.count}"
            self.bar.update(self.task, completed=self.cost_done + share * job.cost, description=place, now=now)

    def _print(self, event: Finished) -> None:
        job, took = event.job, event.rows[0].duration_s
        found = ", ".join(f"{row.score} {row.auroc:.3f}" for row in event.rows if row.auroc is not None)
        line = f"{job.title}: {event.error or f'AUROC {found}'} ({took:.1f} s)"
        self._say(line if self.bar is not None else f"{self.finished} of {self.count}  {line}", bad=bool(event.error))

    def warn(self, message: str) -> None:
        """Say what went wrong without stopping anything; the same message once."""
        if message not in self.warnings:
            self.warnings.add(message)
            self._say(f"warning: {message}", bad=True)

    def _say(self, line: str, *, bad: bool) -> None:
        if self.bar is not None:
            self.bar.console.print(line, style="red" if bad else None, markup=False, highlight=False)
        else:
            typer.echo(line, err=bad)


@contextmanager
def screen(jobs: Sequence[Job]) -> Iterator[Screen]:
    """A screen for a run; the bar is on standard error and goes when the block ends."""
    if not sys.stderr.isatty():
        yield Screen(jobs, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[now]}"),
    )
    # jobs take minutes: the speed is that of the last hour, not of the last half minute
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=HOUR, transient=True) as bar:
        yield Screen(jobs, bar)
