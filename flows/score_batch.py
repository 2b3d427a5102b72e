"""Flow ``score-batch``: judge a window's images with the line's champion and publish the report."""

from dataclasses import dataclass
from datetime import date

from prefect import flow, runtime
from prefect.logging import get_run_logger

from tasks.lines.window import window_of
from tasks.night.accounting import RunCounts
from tasks.night.drift import compare_with_usual, recall_drift
from tasks.night.listing import list_window
from tasks.night.pinned import pin_model
from tasks.night.run import alone_on, check_night, find_unfinished, scoring_run
from tasks.night.score import drop_scored
from tasks.night.shadow import pin_shadow
from tasks.night.survey import elsewhere
from tasks.report.publish import find_published, publish_report
from tasks.steps import name_run, quote
from tasks.systems import open_systems
from tasks.workers.shards import score_shards


@dataclass(frozen=True)
class NightResult:
    """What a night ended with.

    Attributes:
        run_id: the run that wrote the report.
        counts: what this flow run did.
        report_key: key of `report.html` in the bucket.
        model_version: the version that judged.
        never_seen: objects outside the window that no run has looked at.
    """

    run_id: str
    counts: RunCounts
    report_key: str
    model_version: int
    never_seen: int


@flow(name="score-batch", flow_run_name=name_run)
def score_batch(
    line: str,
    window_start: date | None = None,
    window_end: date | None = None,
    model_version: int | None = None,
    device: str = "auto",
) -> NightResult:
    """Score the images of a window that this model version has not judged yet, and publish the window's report.

    The model version is resolved once and judges the whole run; a window whose newest run did not complete goes on with
    that run's version. Every listed image ends as scored, already scored, unusable or failed. Where none could be
    judged though some were expected, the flow fails once its report is written. Running a finished window again scores
    nothing and returns the report that is there; a second run at once waits for the first. Where the images are not as
    usual on the line, the verdicts are withheld and the flow fails until somebody releases them (`inspection confirm`).
    With `models.shadow` a challenger judges the same images beside; nothing that it says is reported.

    Args:
        line: the line, as in `deployments/lines/<line>.toml`.
        window_start: first production date; default the day before the one for which the run is scheduled.
        window_end: last production date, included; default the first.
        model_version: instead of `@champion` or the version of an unfinished run.
        device: `auto`, `cpu` or `cuda`.
    """
    logger = get_run_logger()
    systems = open_systems(line)
    window = window_of(systems.line.timezone, window_start, window_end, runtime.flow_run.scheduled_start_time)
    with alone_on(systems, "score", window) as run_id:
        model = pin_model(systems, model_version or find_unfinished(systems, window), device)
        listing = list_window(systems, window)
        unseen = elsewhere(systems, window)
        plan = drop_scored(systems, window, quote(listing), model)
        before = plan.counts(listing)
        published = None if plan.todo else find_published(systems, window, model)
        if published is not None:
            logger.info("%s, %s: nothing new, the report is %s", line, window, published.report_key)
            check_night(systems, window, before, recall_drift(systems, published.id, window, published.model_version))
            return NightResult(published.id, before, published.report_key or "", model.version.version, unseen.total)
        shadow = pin_shadow(systems, model, device)
        with scoring_run(systems, run_id, window, listing, model, before, runtime.flow_run.id or "") as run:
            score_shards(systems, model, run, plan.todo, shadow, device)
            drift = compare_with_usual(systems, model, run_id, window, quote(listing))
            run.report_key = publish_report(systems, model, run.row, quote(listing), unseen, run.counts, drift)
    logger.info("%s, %s: %s, report %s", line, window, run.counts, systems.objects.uri(run.report_key))
    check_night(systems, window, run.counts, drift)
    return NightResult(run.row.id, run.counts, run.report_key, model.version.version, unseen.total)
