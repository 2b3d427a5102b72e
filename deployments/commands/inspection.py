"""The pipeline's command line, ``inspection``: a thin shell around the flows and the audit."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deployments.commands import models
from deployments.commands.common import (
    AsJson,
    Day,
    Device,
    First,
    Last,
    Line,
    PartOrKey,
    as_day,
    plain_errors,
    user_name,
)

if TYPE_CHECKING:
    from flows.score_batch import NightResult

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Run the inspection pipeline: ingest camera images, train, score nights, audit and review verdicts. "
    "Addresses come from INSPECTION_* environment variables, S3 credentials from AWS's own; see the README.",
)
db_app = typer.Typer(no_args_is_help=True, help="Look after the report store.")
app.add_typer(db_app, name="db")
app.add_typer(models.app)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("var/demo"),
) -> None:
    """Play a week of a solar-cell plant through the whole pipeline, on real images, with embedded defaults."""
    with plain_errors():
        from deployments.demo.demo import run_demo

        run_demo(folder)


@app.command()
def lines() -> None:
    """Check every line file and list the lines; exit code 1 if one has a mistake."""
    with plain_errors():
        from ganomaly import ConfigError
        from tasks.lines.line import load_line
        from tasks.lines.names import list_lines
        from tasks.settings import Settings

        folder = Settings().lines_dir
        names = list_lines(folder)
        if not names:
            raise ConfigError(
                f"{folder}: there is no line file; INSPECTION_LINES_DIR names the folder of NAME.toml files"
            )
        mistakes = []
        for name in names:
            try:
                line = load_line(name, folder)
            except ConfigError as error:
                mistakes.append(str(error))
                continue
            where = f"{line.images.prefix}, {line.timezone}, learns from {line.detector.input}"
            typer.echo(f"{name}: {line.description or 'no description'} ({where})")
        if mistakes:
            raise ConfigError("\n".join(mistakes))


@app.command()
def ingest(line: Line, first: First = None, last: Last = None) -> None:
    """Record what a window's images are and whether they are fit to judge."""
    with plain_errors():
        from flows.ingest_images import ingest_images

        counts = ingest_images(line, as_day(first), as_day(last))
    typer.echo(
        f"{line}: {counts.listed} listed = {counts.recorded} recorded + {counts.already_recorded} known before + "
        f"{counts.unusable} unusable + {counts.failed} failed"
    )


@app.command()
def train(
    line: Line,
    first: First = None,
    last: Last = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the line's training.epochs.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the line's training.seed.")] = None,
    device: Device = "auto",
) -> None:
    """Train, calibrate and register a detector from the line's recorded normal images."""
    with plain_errors():
        from flows.train_ganomaly import train_ganomaly

        model = train_ganomaly(line, as_day(first), as_day(last), epochs, seed, device)
    typer.echo(f"{model.version.uri}: {model.promise}")


@app.command()
def score(
    line: Line,
    first: First = None,
    last: Last = None,
    model_version: Annotated[int | None, typer.Option(help="Instead of @champion.")] = None,
    device: Device = "auto",
) -> None:
    """Score a window's images that the model has not judged yet, and publish the report."""
    with plain_errors():
        from flows.score_batch import score_batch

        _print_night(line, score_batch(line, as_day(first), as_day(last), model_version, device))


@app.command()
def nightly(line: Line, day: Day = None, device: Device = "auto") -> None:
    """Ingest and score one production date: what the schedule runs."""
    with plain_errors():
        from flows.nightly import nightly as nightly_flow

        _print_night(line, nightly_flow(line, as_day(day), device))


@app.command()
def catch_up(line: Line, device: Device = "auto") -> None:
    """Score every production date of which some objects were never looked at: late uploads, days without a run."""
    with plain_errors():
        from flows.catch_up import catch_up as catch_up_flow

        nights = catch_up_flow(line, device)
        for night in nights:
            _print_night(line, night)
        if not nights:
            typer.echo(f"{line}: nothing to catch up on")


def _print_night(line: str, night: "NightResult") -> None:
    counts = night.counts
    typer.echo(
        f"{line}: {counts.listed} listed = {counts.scored} scored + {counts.already_scored} scored before + "
        f"{counts.unusable} unusable + {counts.failed} failed; {counts.flagged} newly flagged; "
        f"report {night.report_key}"
    )
    if night.never_seen:
        typer.secho(
            f"outside this window, never looked at: {night.never_seen} (the report names the folders); "
            f"`inspection catch-up {line}` judges those whose keys have a date",
            fg="yellow",
            err=True,
        )


@app.command()
def trace(
    part_or_key: PartOrKey,
    line: Annotated[str | None, typer.Option(help="Only this line; default every line that knows the part.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print everything behind a part's verdicts: images, models, training, runs, failures, promotions, reviews."""
    with plain_errors():
        from deployments.commands.screen import tell
        from deployments.commands.trace_screen import show_trace
        from tasks.audit.lookup import open_archive
        from tasks.audit.trace import trace as gather

        found = gather(open_archive(), part_or_key, line)
        tell(found, as_json, lambda screen: show_trace(screen, found))


@app.command()
def verify(
    run: Annotated[str, typer.Argument(help="A run's id, as in its report, or in `inspection runs LINE`.")],
    sample: Annotated[int, typer.Option(min=1, help="How many images to recompute at most.")] = 50,
    seed: Annotated[int, typer.Option(help="Draws the sample; the same seed draws the same images.")] = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Recompute a random sample of a past run and compare with the stored scores; exit code 1 if they disagree."""
    with plain_errors():
        from deployments.commands.audit_screen import show_verification, verification_facts
        from deployments.commands.screen import tell
        from tasks.audit.lookup import open_archive
        from tasks.audit.verify import verify_run

        found = verify_run(open_archive(), run, sample, seed, device)
        tell(verification_facts(found), as_json, lambda screen: show_verification(screen, found))
    if not found.passed:
        raise typer.Exit(1)


@app.command()
def runs(
    line: Line,
    last: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List a line's scoring runs, newest first."""
    with plain_errors():
        from deployments.commands.audit_screen import show_runs
        from deployments.commands.screen import tell
        from tasks.audit.lookup import list_runs, open_archive

        found = list_runs(open_archive(), line, last)
        tell(found, as_json, lambda screen: show_runs(screen, line, found))


@app.command()
def flagged(
    line: Line,
    day: Annotated[datetime, typer.Option("--date", formats=["%Y-%m-%d"], help="Production date.")],
    limit: Annotated[int, typer.Option(min=1, help="How many parts at most.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the parts of a production date that are flagged, worst first."""
    with plain_errors():
        from deployments.commands.audit_screen import flagged_facts, show_flagged
        from deployments.commands.screen import tell
        from tasks.audit.lookup import list_flagged, open_archive

        found = list_flagged(open_archive(), line, day.date(), limit)
        tell(flagged_facts(found), as_json, lambda screen: show_flagged(screen, found))


@app.command()
def review(
    line: Line,
    part_or_key: PartOrKey,
    finding: Annotated[Literal["defect", "good"], typer.Option(help="What the part really is.")],
    who: Annotated[str, typer.Option(default_factory=user_name, help="Who found it.", show_default="the user's name")],
    note: Annotated[str, typer.Option(help="Anything worth knowing.")] = "",
    day: Annotated[
        datetime | None,
        typer.Option("--date", formats=["%Y-%m-%d"], help="Production date of the part; default the newest."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Record what a person found on a part: a flagged part that is good, a part that passed and is defective, ...

    Findings are only ever added. They belong to the newest image of the part, and of several views to the worst.
    """
    with plain_errors():
        from deployments.commands.audit_screen import show_review
        from deployments.commands.screen import tell
        from tasks.audit.lookup import open_archive
        from tasks.audit.review import record_finding

        found = record_finding(open_archive(), line, part_or_key, finding, who, note, as_day(day))
        tell(found, as_json, lambda screen: show_review(screen, found))


@app.command()
def confirm(
    line: Line,
    why: Annotated[str, typer.Option(help="Why the verdicts may be used.")],
    who: Annotated[str, typer.Option(default_factory=user_name, help="Who says so.", show_default="the user's name")],
    day: Day = None,
    first: First = None,
    last: Last = None,
) -> None:
    """Release the verdicts of a night that was withheld because camera or process changed; write its report anew."""
    with plain_errors():
        from flows.confirm_night import confirm_night

        start = as_day(first) or as_day(day)
        _print_night(line, confirm_night(line, start, as_day(last) or start, who, why))


@app.command()
def log_paper(
    folder: Annotated[Path, typer.Argument(help="What `ganomaly paper` wrote.")],
) -> None:
    """Log the results of `ganomaly paper` to MLflow: a parent run, and a nested run for each row."""
    with plain_errors():
        from tasks.process import set_up_process
        from tasks.registry.paper_log import log_comparison
        from tasks.registry.registry import ModelRegistry
        from tasks.settings import Settings

        set_up_process()
        settings = Settings()
        registry = ModelRegistry(settings.mlflow_tracking_uri, settings.mlflow_artifact_root)
        typer.echo(f"{log_comparison(registry, folder)} rows logged to {registry.address}")


@db_app.command()
def upgrade() -> None:
    """Create the report store's tables, or bring them to this software's version."""
    with plain_errors():
        from tasks.settings import Settings
        from tasks.store.store import ReportStore

        store = ReportStore(Settings().store_url)
        store.upgrade()
    typer.echo(f"{store.url.render_as_string(hide_password=True)}: up to date")


if __name__ == "__main__":
    app()
