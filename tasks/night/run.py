"""The record of a scoring run: opened before the first image, closed with its accounting whatever happens."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from prefect import task
from prefect.logging import get_run_logger

from tasks.errors import OperatingError
from tasks.lines.window import Window
from tasks.night.accounting import AccountingError, RunCounts
from tasks.night.drift import NightDrift, in_words
from tasks.night.listing import Listing
from tasks.night.pinned import PinnedModel
from tasks.night.score import OpenRun
from tasks.process import finish_before_stopping
from tasks.settings import code_version
from tasks.store.rows import FailureRecord
from tasks.store.runs import new_run_id
from tasks.systems import Systems

NAMED_IN_MESSAGE = 3


class FailedImagesError(OperatingError):
    """A run that judged what it could and is complete in its accounting, but could not read some images."""


class NothingJudgedError(OperatingError):
    """A window on which images are expected, and of which none could be judged."""


class SuspectNightError(OperatingError):
    """A night that is complete, and so unlike the others that its verdicts wait for somebody who releases them."""


def check_night(systems: Systems, window: Window, counts: RunCounts, drift: NightDrift) -> None:
    """See that something was judged, where something is expected, and that it looks as usual.

    Raises:
        NothingJudgedError: says what there was instead, and where to look.
        SuspectNightError: says what changed, and how to release the verdicts.
    """
    line, where = systems.line, systems.objects.uri(systems.line.prefix_for(window.start))
    if counts.listed == 0 and any(line.works_on(day) for day in window.days):
        raise NothingJudgedError(
            f"{line.name}, {window}: no image lies under {where}. Look whether the cameras upload, and whether "
            "images.prefix is theirs; a day without production belongs into scoring.days_off"
        )
    if counts.listed and counts.unusable == counts.listed:
        raise NothingJudgedError(
            f"{line.name}, {window}: all {counts.listed} objects under {where} are unusable; the report names the "
            "reasons"
        )
    if drift.is_withheld:
        said = "; ".join(in_words(record) for record in drift.changed)
        days = f"--date {window.start}" if window.start == window.end else f"--from {window.start} --to {window.end}"
        raise SuspectNightError(
            f"{line.name}, {window}: camera or process changed: {said}. The verdicts are in the report and are not "
            f"released; look at it, and if they may be used, `inspection confirm {line.name} {days} --why ...`"
        )


@task(name="find-unfinished", persist_result=False)
def find_unfinished(systems: Systems, window: Window) -> int | None:
    """The model version with which the window's newest run did not come to its end: its report must be of one model.

    Runs of the line that still count as running although their process died are closed as interrupted.
    """
    logger, store, line = get_run_logger(), systems.store, systems.line.name
    for dead in store.runs.end_dead(line):
        logger.warning("run %s of %s gave no sign of life and is closed as interrupted", dead.id, line)
    newest = store.runs.newest(line, window.start, window.end)
    if newest is None or newest.state == "completed":
        return None
    logger.info("run %s is %s: its model version %d is kept", newest.id, newest.state, newest.model_version)
    return newest.model_version


@contextmanager
def alone_on(systems: Systems, work: str, window: Window) -> Iterator[str]:
    """Wait until nobody else does this work on the window of the line, then keep it while the block runs.

    Gives the owner's name: a scoring run of this id counts as alive meanwhile.
    """
    owner = new_run_id()
    with systems.store.leases.held(f"{systems.line.name} {work} {window}", owner, systems.settings.lease_s):
        yield owner


@contextmanager
def scoring_run(
    systems: Systems,
    run_id: str,
    window: Window,
    listing: Listing,
    model: PinnedModel,
    before: RunCounts,
    flow_run_id: str,
) -> Iterator[OpenRun]:
    """Open a run, see `alone_on`, and close it with its counts: completed, failed, or interrupted, with the reason.

    Objects that cannot be images of the line are recorded as failures of the run, so that the report names them.

    Raises:
        AccountingError: if the counts do not add up at the end, or the report store does not hold what was counted.
        FailedImagesError: if images could not be read.
    """
    store = systems.store
    row = store.runs.start(
        run_id,
        systems.line.name,
        window.start,
        window.end,
        model_name=model.version.name,
        model_version=model.version.version,
        calibration_id=model.calibration_id,
        snapshot_id=model.version.snapshot_id,
        code_version=code_version(),
        flow_run_id=flow_run_id,
    )
    run = OpenRun(row, before)
    try:
        store.runs.save_failures(row.id, [FailureRecord(s.key, s.etag, s.reason, s.detail) for s in listing.strays])
        yield run
        run.counts.reconcile()
        _reconcile_with_store(systems, listing, run)
    except BaseException as error:
        _close(systems, run, "failed" if isinstance(error, Exception) else "interrupted", _message(error))
        raise
    _close(systems, run, "completed", "")


def _close(systems: Systems, run: OpenRun, state: Literal["completed", "failed", "interrupted"], message: str) -> None:
    with finish_before_stopping():
        systems.store.runs.finish(run.row.id, run.counts, state, message, run.report_key)


def _message(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _reconcile_with_store(systems: Systems, listing: Listing, run: OpenRun) -> None:
    """Check in the report store itself that every listed image has a verdict, or is named as failed."""
    row = run.row
    judged = systems.store.scores.judged(
        row.line, row.window_start, row.window_end, row.model_version, row.calibration_id
    )
    failures = systems.store.runs.failures(row.id)
    failed = set(zip(failures["key"], failures["etag"], strict=True))
    if lost := [image.key for image in listing.images if image.identity not in judged and image.identity not in failed]:
        raise AccountingError(
            f"run {row.id}: {len(lost)} listed images have neither a verdict nor a failure in the report store, "
            f"for example {', '.join(map(repr, lost[:NAMED_IN_MESSAGE]))}"
        )
    if run.counts.failed:
        raise FailedImagesError(
            f"run {row.id}: {run.counts.failed} of {run.counts.listed} images could not be read; they are named in "
            "the report and the next run tries them again"
        )
