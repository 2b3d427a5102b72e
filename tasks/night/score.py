"""Score a window's images with one pinned model version: fetch and prepare, judge, commit, chunk by chunk."""

from collections.abc import Collection, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.logging import get_run_logger

from ganomaly import Detector, ImageScore
from ganomaly.acceleration.memory import give_back_freed_memory
from ganomaly.images.regions import Region
from tasks.bucket.failures import ObjectStoreError
from tasks.lines.window import Window
from tasks.night.accounting import RunCounts
from tasks.night.fetching import FailedImage, FetchedImage, fetch_chunks
from tasks.night.ingest import image_record
from tasks.night.listing import ListedImage, Listing
from tasks.night.overlays import overlay_and_regions, overlay_key
from tasks.night.pinned import PinnedModel
from tasks.night.shadow import Said, ShadowModel, record_shadow
from tasks.process import finish_before_stopping, imports_left_alone
from tasks.store.rows import FailureRecord, JudgedImage, ScoreRecord, ScoringRun
from tasks.systems import Systems

OVERLAY_FAILED = "overlay_failed"
WRITERS = 4
"""Threads that draw and write overlays."""
CHUNKS_BETWEEN_GIVING_BACK = 8
"""Freed memory goes back to the system after so many chunks: that takes 20 ms, and more until it is asked for anew."""


@dataclass(frozen=True)
class WorkPlan:
    """What is left to do of a window, and what was done before."""

    todo: tuple[ListedImage, ...]
    already_scored: int
    already_unusable: int

    def counts(self, listing: Listing) -> RunCounts:
        """The counts before anything is done; strays cannot be judged."""
        unusable = self.already_unusable + len(listing.strays)
        return RunCounts(listed=listing.total, already_scored=self.already_scored, unusable=unusable)


@dataclass
class OpenRun:
    """A run in progress: its row in the report store, and what it has done so far."""

    row: ScoringRun
    counts: RunCounts
    report_key: str | None = None


@task(name="drop-scored", persist_result=False)
def drop_scored(systems: Systems, window: Window, listing: Listing, model: PinnedModel) -> WorkPlan:
    """Leave out what this model version has judged before in this very version of the object (key and etag)."""
    detector = (model.version.version, model.calibration_id)
    verdicts = systems.store.scores.judged(systems.line.name, window.start, window.end, *detector)
    earlier = [verdicts.get(image.identity) for image in listing.images]
    todo = tuple(image for image, verdict in zip(listing.images, earlier, strict=True) if verdict is None)
    unusable = sum(verdict == "unusable" for verdict in earlier)
    return WorkPlan(todo, len(listing.images) - len(todo) - unusable, unusable)


@task(name="score-shard", task_run_name="score {number}", persist_result=False)
def score_shard(
    systems: Systems,
    model: PinnedModel,
    run: OpenRun,
    images: Sequence[ListedImage],
    number: str,
    shadow: ShadowModel | None = None,
) -> None:
    """Judge images, see `score_chunks`; the run's counts grow with each chunk that is committed."""
    logger, done = get_run_logger(), 0
    for counts in score_chunks(systems, model, run.row.id, images, shadow):
        run.counts += counts
        done += counts.accounted
        flagged = run.counts.flagged
        logger.info("shard %s: %d of %d images, %d flagged in this run", number, done, len(images), flagged)


def score_chunks(
    systems: Systems, model: PinnedModel, run_id: str, images: Sequence[ListedImage], shadow: ShadowModel | None = None
) -> Generator[RunCounts, None, None]:
    """Fetch, judge and commit images, chunk by chunk; what a kill leaves undone the next run finds.

    While a chunk is judged, the next one is fetched and prepared, and the last one is committed. A challenger judges
    beside, if there is one. SIGTERM lets the chunk that is being judged come to its end.

    Yields:
        The counts of each chunk that is committed.
    """
    detector = model.detector
    recipe, gate = detector.config.recipe, detector.config.quality
    chunks = fetch_chunks(systems.objects, images, systems.line.scoring, recipe, gate)
    with (
        finish_before_stopping() as is_stopping,
        closing(chunks),
        ThreadPoolExecutor(1, "commit") as behind,
        imports_left_alone(),
    ):
        committing: Future[RunCounts] | None = None
        for count, (fetched, failed) in enumerate(chunks, start=1):
            judged = _judge(detector, fetched)
            beside = shadow.judge(fetched) if shadow is not None else {}
            if committing is not None:
                yield committing.result()
            committing = behind.submit(_commit, systems, model, run_id, judged, failed, shadow, beside)
            if count % CHUNKS_BETWEEN_GIVING_BACK == 0:
                give_back_freed_memory()
            if is_stopping():
                break
        if committing is not None:
            yield committing.result()
    give_back_freed_memory()


Judged = tuple[FetchedImage, ImageScore, NDArray[np.float32] | None]
"""An image with its score and, where it is flagged, its heat map."""


def _judge(detector: Detector, fetched: Sequence[FetchedImage]) -> list[Judged]:
    prepared = [found.prepared for found in fetched]
    scores = iter(detector.score_and_map(detector.stack(prepared, np.ones(len(prepared), dtype=bool))))
    judged: list[Judged] = []
    for found in fetched:
        reason, detail = found.prepared.reason, found.prepared.detail
        unusable = ImageScore(None, None, None, "unusable", reason, detail), None
        judged.append((found, *(next(scores) if found.prepared.usable else unusable)))
    return judged


def _commit(
    systems: Systems,
    model: PinnedModel,
    run_id: str,
    judged: Sequence[Judged],
    failed: Sequence[FailedImage],
    shadow: ShadowModel | None,
    beside: Said,
) -> RunCounts:
    """Write the overlays of a chunk's flagged images, then all its rows at once; then what a challenger says."""
    with ThreadPoolExecutor(WRITERS, "overlay") as writers:
        finished = list(writers.map(lambda one: _finish(systems, model, *one), judged))
    rows = [one for one in finished if isinstance(one, JudgedImage)]
    failed = [*failed, *(one for one in finished if isinstance(one, FailedImage))]
    failures = [FailureRecord(one.image.key, one.image.etag, one.reason, one.detail) for one in failed]
    inserted = systems.store.scores.commit(run_id, rows, failures)
    if shadow is not None:
        record_shadow(systems, run_id, shadow, beside)
    return _count(rows, inserted) + RunCounts(failed=len(failed))


def _finish(
    systems: Systems, model: PinnedModel, found: FetchedImage, score: ImageScore, heat_hw: NDArray[np.float32] | None
) -> JudgedImage | FailedImage:
    """The row of an image, once the overlay of a flagged one is written."""
    key: str | None = None
    regions: tuple[Region, ...] = ()
    if heat_hw is not None:
        key = overlay_key(systems.line.name, found.image, model.version.version, model.calibration_id)
        try:
            rules = systems.line.region_rules
            picture, regions = overlay_and_regions(model.detector, found.data, heat_hw, rules)
            systems.objects.put_one_of_many(key, picture, "image/jpeg")
        except ObjectStoreError as error:
            return FailedImage(found.image, OVERLAY_FAILED, str(error))
    row = ScoreRecord(score.verdict, score.raw, score.normalised, score.p_value, score.reason, key)
    return JudgedImage(image_record(found), row, regions)


def _count(rows: Sequence[JudgedImage], inserted: Collection[tuple[str, str]]) -> RunCounts:
    """Count by verdict; what another run has committed first, because it judges an overlapping window, is its own."""
    counts = RunCounts()
    for row in rows:
        if row.score.verdict == "unusable":
            counts += RunCounts(unusable=1)
        elif (row.image.key, row.image.etag) in inserted:
            counts += RunCounts(scored=1, flagged=int(row.score.verdict == "flagged"))
        else:
            counts += RunCounts(already_scored=1)
    return counts
