"""What the demo shows: each step while it runs, and at the end a screen that a person understands."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.table import Table

from deployments.demo.plant import LAST_DAY

ATTRIBUTION = "Images: ELPV dataset (Buerhop-Lutz et al. 2018; Deitsch et al. 2019, 2021), CC BY-NC-SA 4.0"


@dataclass(frozen=True)
class LineSummary:
    """What the demo found out about one line's last night; written to ``summary.json``."""

    listed: int
    scored: int
    already_scored: int
    unusable: int
    failed: int
    flagged: int
    auroc: float
    promised_false_reject_rate: float
    observed_false_reject_rate: float
    escape_rate: float
    report: str
    model_version: int
    reject_limit: float
    calibration_images: int
    good_cells: int
    false_rejects: int
    plausible_false_rejects: int | None
    defective_cells: int
    escapes: int
    seconds: dict[str, float]
    promotion: str = ""


class Step(logging.Handler):
    """One step in progress: a line with a spinner that shows the newest log message of the flow."""

    def __init__(self, title: str, status: Status) -> None:
        super().__init__(logging.INFO)
        self.title = title
        self.status = status
        self.outcome = ""

    def say(self, text: str) -> None:
        """Show how far the step is."""
        self.status.update(f"{self.title}: {text[:100]}")

    def emit(self, record: logging.LogRecord) -> None:
        """Show a message that a flow or task logs."""
        self.say(record.getMessage())


class Steps:
    """The steps of one line, one after the other, with the seconds that each took."""

    def __init__(self, console: Console, line: str) -> None:
        self.console = console
        self.line = line
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[Step]:
        """Show a step while it runs and, after it, its outcome and how long it took."""
        started = time.monotonic()
        loggers = [logging.getLogger(f"prefect.{kind}") for kind in ("flow_runs", "task_runs")]
        with self.console.status(f"{self.line}: {title}") as status:
            step = Step(f"{self.line}: {title}", status)
            for logger in loggers:
                logger.addHandler(step)
            try:
                yield step
            finally:
                for logger in loggers:
                    logger.removeHandler(step)
        self.seconds[name] = round(time.monotonic() - started, 1)
        self.console.print(
            f"  [green]done[/] {self.line}: {title}: {step.outcome} [dim]({self.seconds[name]:.0f} s)[/]",
            highlight=False,
            soft_wrap=True,
        )


def print_summary(console: Console, summaries: dict[str, LineSummary], folder: Path) -> None:
    """The closing screen: what happened to every image, what was promised, what really happened, where to look."""
    console.print()
    console.print(_table(summaries), highlight=False)
    for line, found in summaries.items():
        console.print(f"\n[bold]Report of {line}[/]: open it in a browser")
        console.print(f"  {found.report}", soft_wrap=True, highlight=False)
    for line, found in summaries.items():
        if found.promotion:
            console.print(
                f"\n[bold]A second model of {line}[/]: the gate judged the golden set with both", highlight=False
            )
            console.print(f"  {found.promotion}", soft_wrap=True, highlight=False, markup=False)
    console.print("\n[bold]Records[/]: the night's flagged parts, and everything behind the verdicts on one of them")
    for asked in (f"flagged {next(iter(summaries))} --date {LAST_DAY}", "trace PART"):
        console.print(f"  INSPECTION_WORK_DIR={folder} .venv/bin/inspection {asked}", soft_wrap=True, highlight=False)
    console.print("\n[bold]MLflow[/] (runs, figures, the registered models): http://127.0.0.1:5000 after")
    console.print(
        f"  .venv/bin/mlflow ui --port 5000 --backend-store-uri sqlite:///{folder}/mlflow.db",
        soft_wrap=True,
        highlight=False,
    )
    console.print("[bold]Prefect[/] (flow runs, progress, the night's table): http://127.0.0.1:4200 after")
    settings = f"PREFECT_HOME={folder.resolve()}/prefect PREFECT_SERVER_ANALYTICS_ENABLED=false"
    console.print(f"  {settings} .venv/bin/prefect server start", soft_wrap=True, highlight=False)
    console.print(f"\n[dim]{ATTRIBUTION}.[/]", soft_wrap=True, highlight=False)


def _table(summaries: dict[str, LineSummary]) -> Table:
    table = Table(title="The last night, against labels that training never saw", title_justify="left")
    table.add_column("")
    for line in summaries:
        table.add_column(line, justify="right")
    found = list(summaries.values())
    table.add_row("images listed", *(str(f.listed) for f in found))
    table.add_row("  scored now / before", *(f"{f.scored} / {f.already_scored}" for f in found))
    table.add_row("  flagged", *(str(f.flagged) for f in found))
    table.add_row("  unusable", *(str(f.unusable) for f in found))
    table.add_row("  failed", *(str(f.failed) for f in found), end_section=True)
    table.add_row("model version", *(str(f.model_version) for f in found))
    table.add_row("reject limit (raw score)", *(f"{f.reject_limit:.3f}" for f in found))
    table.add_row(
        "false rejects: promise",
        *(f"at most {f.promised_false_reject_rate:.0%}" for f in found),
        end_section=True,
    )
    table.add_row("AUROC (raw scores)", *(f"{f.auroc:.3f}" for f in found))
    table.add_row(
        "false rejects: reality",
        *(f"{f.false_rejects} of {f.good_cells} good ({f.observed_false_reject_rate:.1%})" for f in found),
    )
    table.add_row("  promise kept", *(_consistent(f) for f in found))
    table.add_row(
        "escapes: reality",
        *(f"{f.escapes} of {f.defective_cells} defective ({f.escape_rate:.1%})" for f in found),
    )
    return table


def _consistent(found: LineSummary) -> str:
    if found.plausible_false_rejects is None:
        return "cannot be said"
    answer = "yes" if found.false_rejects <= found.plausible_false_rejects else "[red]no[/]"
    return f"{answer}, up to {found.plausible_false_rejects} by chance"
