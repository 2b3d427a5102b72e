"""The record of a scoring run: opened before the first image, closed with its accounting whatever happens."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tasks.accounting import RunCounts
from tasks.code_version import code_version
from tasks.errors import OperatingError
from tasks.listing import Listing
from tasks.report import STRAY_REASON
from tasks.report_store import FailureRecord, ScoringRun
from tasks.score import PinnedModel
from tasks.systems import Systems
from tasks.window import Window


class FailedImagesError(OperatingError):
    """A run that judged what it could and is complete in its accounting, but could not read some images."""


@dataclass
class OpenRun:
    """A run in progress: its row in the report store, and what it has done so far."""

    row: ScoringRun
    counts: RunCounts
    report_key: str | None = None


@contextmanager
def scoring_run(
    systems: Systems, window: Window, listing: Listing, model: PinnedModel, before: RunCounts, flow_run_id: str
) -> Iterator[OpenRun]:
    """Open a run and close it with its counts: completed, or failed with the reason.

    Objects that do not follow the key layout are recorded as failures of the run, so that the report names them.

    Raises:
        AccountingError: if the counts do not add up at the end.
        FailedImagesError: if images could not be read.
    """
    store = systems.store
    row = store.start_run(
        systems.line.line,
        window.start,
        window.end,
        model_name=model.version.name,
        model_version=model.version.version,
        calibration_id=model.calibration_id,
        snapshot_id=model.version.snapshot_id,
        code_version=code_version(),
        flow_run_id=flow_run_id,
    )
    pattern = systems.line.images.key_pattern
    strays = [FailureRecord(key, "", STRAY_REASON, f"does not follow {pattern}") for key in listing.strays]
    store.save_failures(row.id, strays)
    run = OpenRun(row, before)
    try:
        yield run
        run.counts.reconcile()
        if run.counts.failed:
            raise FailedImagesError(
                f"run {row.id}: {run.counts.failed} of {run.counts.listed} images could not be read; they are named in "
                "the report and the next run tries them again"
            )
    except BaseException as error:
        store.finish_run(row.id, run.counts, "failed", f"{type(error).__name__}: {error}", run.report_key)
        raise
    store.finish_run(row.id, run.counts, "completed", report_key=run.report_key)
