"""Score a window's images with one pinned model version and commit the verdicts chunk by chunk."""

import hashlib
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ganomaly import Detector, ImageScore
from ganomaly.acceleration.memory import give_back_freed_memory
from ganomaly.images.preparation import read_image
from ganomaly.scoring.heatmap import draw_overlay
from tasks.bucket.bucket import ObjectStoreError
from tasks.lines.window import Window
from tasks.night.accounting import RunCounts
from tasks.night.fetching import FailedImage, FetchedImage, FetchPool, fetch_pool, in_chunks, without_data
from tasks.night.ingest import image_record
from tasks.night.listing import ListedImage, Listing
from tasks.night.stream import in_stages
from tasks.process import finish_before_stopping, imports_left_alone
from tasks.registry.reaching import ModelRegistryError
from tasks.registry.versions import ModelVersion, model_name
from tasks.steps import NETWORK_STEP
from tasks.store.lease import Claimed, claim, scoring_by
from tasks.store.store import FailureRecord, JudgedImage, ScoreRecord, ScoringRun
from tasks.systems import Systems

OVERLAY_MAX_SIDE_PX = 640
OVERLAY_JPEG_QUALITY = 85
OVERLAY_FAILED = "overlay_failed"
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

    @property
    def work(self) -> str:
        """The name under which its scoring is claimed."""
        return scoring_by(self.version.version, self.calibration_id)


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


@dataclass(frozen=True)
class Judged:
    """One image with its score, and the key of its heat map where it is flagged."""

    found: FetchedImage
    score: ImageScore
    heat_map_key: str | None = None


@dataclass(frozen=True)
class BegunChunk:
    """A chunk that is claimed and whose images are being fetched and judged.

    Attributes:
        size: of the chunk.
        held: images that another live run works on.
        finished: what another run has finished since the work was planned.
        judge: judges the images as they come.
        wait: waits for the last to come; gives those that could not be read, among others.
    """

    size: int
    held: tuple[ListedImage, ...]
    finished: RunCounts
    judge: "BatchJudge"
    wait: Callable[[], list[FailedImage | None]]


@dataclass(frozen=True)
class JudgedChunk:
    """A chunk that is ready to be committed."""

    size: int
    held: tuple[ListedImage, ...]
    finished: RunCounts
    judged: tuple[Judged, ...]
    failed: tuple[FailedImage, ...]


@task(name="pin-model", **NETWORK_STEP, cache_policy=NO_CACHE, persist_result=False)
def pin_model(systems: Systems, version: int | None, device: str) -> PinnedModel:
    """Resolve the champion, or the version asked for, once, and load its detector.

    Raises:
        NoChampionError: if the line has no champion; says how to get one.
        ModelRegistryError: if there is no such version.
    """
    line = systems.line.line
    registry = systems.registry
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
    verdicts = systems.store.judged(
        systems.line.line, window.start, window.end, model.version.version, model.calibration_id
    )
    earlier = [verdicts.get(image.identity) for image in listing.images]
    todo = tuple(image for image, verdict in zip(listing.images, earlier, strict=True) if verdict is None)
    unusable = sum(verdict == "unusable" for verdict in earlier)
    return WorkPlan(todo, len(listing.images) - len(todo) - unusable, unusable)


@task(name="score-shard", task_run_name="score {number}", cache_policy=NO_CACHE, persist_result=False)
def score_shard(
    systems: Systems, model: PinnedModel, run: OpenRun, images: Sequence[ListedImage], number: str
) -> list[ListedImage]:
    """Claim, fetch, check, score and commit images, chunk by chunk; what a kill leaves undone the next run finds.

    Threads that have nothing left to do for a chunk go on with the next one, and the last one is committed meanwhile.
    The run's counts grow with each chunk that is committed. SIGTERM lets the chunk that is being judged come to its
    end; the claims on the next one fall with the run's lease. Gives the images that another live run works on.
    """
    logger = get_run_logger()
    held: list[ListedImage] = []
    done = 0
    chunks = in_chunks(images, systems.line.scoring.chunk_size)
    with (
        finish_before_stopping() as is_stopping,
        model.detector.scored_by_threads(),
        fetch_pool(systems.line.scoring.fetch_threads) as pool,
        imports_left_alone(),
    ):
        committed = in_stages(
            chunks,
            lambda chunk: _begin_chunk(systems, model, run.row.id, chunk, pool),
            _finish_chunk,
            lambda chunk: _commit_chunk(systems, model, run, chunk),
            is_stopping=is_stopping,
            abandon=pool.end,
        )
        for number_of_chunk, chunk in enumerate(committed, start=1):
            held += chunk.held
            done += chunk.size
            flagged = run.counts.flagged
            logger.info("shard %s: %d of %d images, %d flagged in this run", number, done, len(images), flagged)
            if number_of_chunk % CHUNKS_BETWEEN_GIVING_BACK == 0:
                give_back_freed_memory()
    give_back_freed_memory()
    return held


def _begin_chunk(
    systems: Systems, model: PinnedModel, run_id: str, chunk: Sequence[ListedImage], pool: FetchPool
) -> BegunChunk:
    config = model.detector.config
    claimed, verdicts = _claim(systems, model, run_id, chunk)
    judge = BatchJudge(systems, model)
    wait = pool.start(systems.objects, claimed.mine, config.recipe, config.quality, judge.add)
    return BegunChunk(len(chunk), claimed.held, _already_judged(verdicts), judge, wait)


def _finish_chunk(chunk: BegunChunk) -> JudgedChunk:
    not_read = [result for result in chunk.wait() if result is not None]
    judged, failed = chunk.judge.finish()
    return JudgedChunk(chunk.size, chunk.held, chunk.finished, tuple(judged), (*not_read, *failed))


def _claim(
    systems: Systems, model: PinnedModel, run_id: str, chunk: Sequence[ListedImage]
) -> tuple[Claimed, Collection[str]]:
    """Claim a chunk; also gives the verdicts of what another run has finished meanwhile."""
    store, line = systems.store, systems.line.line
    verdicts: dict[tuple[str, str], str] = {}

    def judged_among(pairs: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
        verdicts.update(store.judged_among(line, pairs, model.version.version, model.calibration_id))
        return verdicts

    return claim(store, run_id, line, model.work, chunk, judged_among), verdicts.values()


def _already_judged(verdicts: Collection[str]) -> RunCounts:
    unusable = sum(verdict == "unusable" for verdict in verdicts)
    return RunCounts(already_scored=len(verdicts) - unusable, unusable=unusable)


def _commit_chunk(systems: Systems, model: PinnedModel, run: OpenRun, chunk: JudgedChunk) -> JudgedChunk:
    inserted = systems.store.commit_scores(
        run.row.id,
        model.work,
        [_as_row(one) for one in chunk.judged],
        [FailureRecord(f.image.key, f.image.etag, f.reason, f.detail) for f in chunk.failed],
    )
    run.counts += chunk.finished + _count(chunk.judged, inserted) + RunCounts(failed=len(chunk.failed))
    return replace(chunk, judged=(), failed=())


class BatchJudge:
    """Judges the images of a chunk as they come from several threads, in the batches that the networks take.

    The thread that makes a batch full judges it, while the others go on fetching. Of a flagged image the heat map is
    drawn and saved at once, so that no more images are in memory than wait for their batch.
    """

    def __init__(self, systems: Systems, model: PinnedModel) -> None:
        self._systems = systems
        self._model = model
        self._waiting: list[FetchedImage] = []
        self._judged: list[Judged] = []
        self._failed: list[FailedImage] = []
        self._lock = threading.Lock()

    def add(self, found: FetchedImage) -> None:
        """Take in an image that was fetched and prepared."""
        prepared = found.prepared
        if not prepared.usable:
            score = ImageScore(None, None, None, "unusable", prepared.reason, prepared.detail)
            self._judged.append(Judged(without_data(found), score))
            return
        with self._lock:
            self._waiting.append(found)
            if len(self._waiting) < self._model.detector.batch_size:
                return
            batch, self._waiting = self._waiting, []
        self._judge(batch)

    def finish(self) -> tuple[list[Judged], list[FailedImage]]:
        """Judge those that make no full batch; gives all by key, and those whose heat map could not be written."""
        self._judge(self._waiting)
        return sorted(self._judged, key=lambda one: one.found.image.key), self._failed

    def _judge(self, batch: Sequence[FetchedImage]) -> None:
        detector = self._model.detector
        pixels = detector.stack([found.prepared for found in batch], np.ones(len(batch), dtype=bool))
        for found, (score, heat_ss) in zip(batch, detector.score_and_map(pixels), strict=True):
            key: str | None = None
            if heat_ss is not None:
                key = overlay_key(self._systems.line.line, self._model, found.image)
                picture = overlay_jpeg(detector, found.data, heat_ss)
                try:
                    self._systems.objects.put_one_of_many(key, picture, "image/jpeg")
                except ObjectStoreError as error:
                    self._failed.append(FailedImage(found.image, OVERLAY_FAILED, str(error)))
                    continue
            self._judged.append(Judged(without_data(found), score, key))


def _as_row(judged: Judged) -> JudgedImage:
    score = judged.score
    return JudgedImage(
        image_record(judged.found),
        ScoreRecord(
            verdict=score.verdict,
            raw_score=score.raw,
            normalised_score=score.normalised,
            p_value=score.p_value,
            reason=score.reason,
            heat_map_key=judged.heat_map_key,
        ),
    )


def _count(judged: Sequence[Judged], inserted: Collection[tuple[str, str]]) -> RunCounts:
    """Count by verdict; what another run has committed first, because it took over our claims, is its own."""
    counts = RunCounts()
    for one in judged:
        if one.score.verdict == "unusable":
            counts += RunCounts(unusable=1)
        elif one.found.image.identity in inserted:
            counts += RunCounts(scored=1, flagged=int(one.score.verdict == "flagged"))
        else:
            counts += RunCounts(already_scored=1)
    return counts


def overlay_key(line: str, model: PinnedModel, image: ListedImage) -> str:
    """Where the overlay of an image lies: always the same place, so that a repeated chunk leaves no orphan.

    The image's key may hold anything, so the name is a hash.
    """
    named = "\n".join([image.key, image.etag, str(model.version.version), model.calibration_id])
    name = hashlib.sha256(named.encode()).hexdigest()[:24]
    return f"reports/{line}/{image.production_date}/overlays/{name}.jpg"


def overlay_jpeg(detector: Detector, data: bytes, heat_ss: np.ndarray) -> bytes:
    """An encoded image with its heat map (S, S) laid over it, as JPEG of at most 640 pixels a side."""
    image = read_image(data)
    heat = detector.config.recipe.to_image_pixels(heat_ss, image)
    return encode_jpeg(draw_overlay(image, heat))


def encode_jpeg(image: np.ndarray) -> bytes:
    """An image (H, W) or (H, W, 3) RGB of uint8 or uint16 as JPEG of at most 640 pixels a side."""
    image8 = (image // 257).astype(np.uint8) if image.dtype == np.uint16 else image
    scale = OVERLAY_MAX_SIDE_PX / max(image8.shape[:2])
    if scale < 1:
        image8 = cv2.resize(image8, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(image8, cv2.COLOR_RGB2BGR) if image8.ndim == 3 else image8
    ok, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, OVERLAY_JPEG_QUALITY])
    assert ok
    return encoded.tobytes()
