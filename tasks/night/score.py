"""Score a window's images with one pinned model version: fetch and prepare, judge, commit, chunk by chunk."""

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ganomaly import Detector, ImageScore
from ganomaly.acceleration.memory import give_back_freed_memory
from tasks.bucket.failures import ObjectStoreError
from tasks.lines.window import Window
from tasks.night.accounting import RunCounts
from tasks.night.fetching import FailedImage, FetchedImage, fetch_chunks
from tasks.night.ingest import image_record
from tasks.night.listing import ListedImage, Listing
from tasks.night.overlays import overlay_jpeg, overlay_key
from tasks.process import finish_before_stopping, imports_left_alone
from tasks.registry.reaching import ModelRegistryError
from tasks.registry.versions import ModelVersion, model_name
from tasks.steps import NETWORK_STEP
from tasks.store.tables import FailureRecord, JudgedImage, ScoreRecord, ScoringRun
from tasks.systems import Systems

OVERLAY_FAILED = "overlay_failed"
WRITERS = 4
"""Threads that draw and write overlays."""
CHUNKS_BETWEEN_GIVING_BACK = 8
"""Freed memory goes back to the system after so many chunks: that takes 20 ms, and more until it is asked for anew."""


class NoChampionError(ModelRegistryError):
    """The line has no model that could score yet."""


@dataclass(frozen=True)
class PinnedModel:
    """The model version that judges a whole run, whatever happens to the alias meanwhile."""

    version: ModelVersion
    detector: Detector

    @property
    def calibration_id(self) -> str:
        """The detector's calibration."""
        assert self.detector.calibration is not None
        return self.detector.calibration.id


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


@task(name="pin-model", **NETWORK_STEP, cache_policy=NO_CACHE, persist_result=False)
def pin_model(systems: Systems, version: int | None, device: str) -> PinnedModel:
    """Resolve the champion, or the version asked for, once, and load its detector.

    Raises:
        NoChampionError: if the line has no champion; says how to get one.
        ModelRegistryError: if there is no such version.
    """
    line, registry = systems.line.name, systems.registry
    found = registry.champion(line) if version is None else registry.version(line, version)
    where = f"in MLflow at {registry.address}; train one with `inspection train {line}`"
    if found is None and version is None:
        raise NoChampionError(f"{model_name(line)} has no champion {where}")
    if found is None:
        raise ModelRegistryError(f"{model_name(line)} has no version {version} {where}, or take another version")
    return PinnedModel(found, registry.load_detector(found, systems.settings.work_dir / "models", device))


@task(name="drop-scored", cache_policy=NO_CACHE, persist_result=False)
def drop_scored(systems: Systems, window: Window, listing: Listing, model: PinnedModel) -> WorkPlan:
    """Leave out what this model version has judged before in this very version of the object (key and etag)."""
    detector = (model.version.version, model.calibration_id)
    verdicts = systems.store.scores.judged(systems.line.name, window.start, window.end, *detector)
    earlier = [verdicts.get(image.identity) for image in listing.images]
    todo = tuple(image for image, verdict in zip(listing.images, earlier, strict=True) if verdict is None)
    unusable = sum(verdict == "unusable" for verdict in earlier)
    return WorkPlan(todo, len(listing.images) - len(todo) - unusable, unusable)


@task(name="score-shard", task_run_name="score {number}", cache_policy=NO_CACHE, persist_result=False)
def score_shard(systems: Systems, model: PinnedModel, run: OpenRun, images: Sequence[ListedImage], number: str) -> None:
    """Fetch, judge and commit images, chunk by chunk; what a kill leaves undone the next run finds.

    The next chunk is fetched and prepared while this one is judged and committed. The run's counts grow with each chunk
    that is committed. SIGTERM lets the chunk that is being judged come to its end.
    """
    logger, detector, done = get_run_logger(), model.detector, 0
    recipe, gate = detector.config.recipe, detector.config.quality
    chunks = fetch_chunks(systems.objects, images, systems.line.scoring, recipe, gate)
    with (
        finish_before_stopping() as is_stopping,
        closing(chunks),
        ThreadPoolExecutor(WRITERS, "overlay") as writers,
        imports_left_alone(),
    ):
        for count, (fetched, failed) in enumerate(chunks, start=1):
            rows: list[JudgedImage] = []
            for result in writers.map(lambda one: _finish(systems, model, *one), _judge(detector, fetched)):
                (failed if isinstance(result, FailedImage) else rows).append(result)  # type: ignore[arg-type]
            failures = [FailureRecord(f.image.key, f.image.etag, f.reason, f.detail) for f in failed]
            inserted = systems.store.scores.commit(run.row.id, rows, failures)
            run.counts += _count(rows, inserted) + RunCounts(failed=len(failed))
            done += len(rows) + len(failed)
            flagged = run.counts.flagged
            logger.info("shard %s: %d of %d images, %d flagged in this run", number, done, len(images), flagged)
            if count % CHUNKS_BETWEEN_GIVING_BACK == 0:
                give_back_freed_memory()
            if is_stopping():
                break
    give_back_freed_memory()


def _judge(
    detector: Detector, fetched: Sequence[FetchedImage]
) -> Iterator[tuple[FetchedImage, ImageScore, NDArray[np.float32] | None]]:
    """Each image with its score and, where it is flagged, its heat map."""
    prepared = [found.prepared for found in fetched]
    judged = iter(detector.score_and_map(detector.stack(prepared, np.ones(len(prepared), dtype=bool))))
    for found in fetched:
        if found.prepared.usable:
            yield found, *next(judged)
        else:
            reason, detail = found.prepared.reason, found.prepared.detail
            yield found, ImageScore(None, None, None, "unusable", reason, detail), None


def _finish(
    systems: Systems, model: PinnedModel, found: FetchedImage, score: ImageScore, heat_hw: NDArray[np.float32] | None
) -> JudgedImage | FailedImage:
    """The row of an image, once the overlay of a flagged one is written."""
    key: str | None = None
    if heat_hw is not None:
        key = overlay_key(systems.line.name, found.image, model.version.version, model.calibration_id)
        try:
            picture = overlay_jpeg(model.detector, found.data, heat_hw)
            systems.objects.put_one_of_many(key, picture, "image/jpeg")
        except ObjectStoreError as error:
            return FailedImage(found.image, OVERLAY_FAILED, str(error))
    row = ScoreRecord(score.verdict, score.raw, score.normalised, score.p_value, score.reason, key)
    return JudgedImage(image_record(found), row)


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
