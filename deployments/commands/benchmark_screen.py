"""What `ganomaly benchmark` shows while it runs: a bar on a terminal, else a line for each finished job."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ganomaly.evaluation.plan import Job
from ganomaly.evaluation.run import EpochDone, Event, Finished, Started

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
            self.whole = bar.add_task("", total=sum(job.cost for job in jobs))
            self.present = bar.add_task("", total=None)

    def show(self, event: Event) -> None:
        """Show what happened."""
        match event:
            case Started(job):
                self._update(job, epoch=0)
            case EpochDone(job, stats):
                self._update(job, epoch=stats.epoch)
            case Finished(job, _):
                self.finished += 1
                self.cost_done += job.cost
                self._print(event)

    def _update(self, job: Job, *, epoch: int) -> None:
        """Two bars: all jobs, and the epochs of the one that runs with one more for judging its test images."""
        if self.bar is None:
            return
        epochs = job.config.training.epochs if job.is_network else 0
        done = self.cost_done + job.cost * epoch / (epochs + 1)
        self.bar.update(self.whole, completed=done, description=f"job {self.finished + 1} of {self.count}")
        if epoch == 0:
            self.bar.reset(self.present, total=epochs + 1)
        now = f"{job.title}, {f'epoch {epoch + 1} of {epochs}' if epoch < epochs else 'judging'}"
        self.bar.update(self.present, completed=epoch, description=now)

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
        BarColumn(bar_width=12),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    # jobs take minutes: the speed is that of the last hour, not of the last half minute
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=HOUR, transient=True) as bar:
        yield Screen(jobs, bar)
