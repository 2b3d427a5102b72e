"""Score a window's images with one pinned model version and commit the verdicts chunk by chunk."""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ganomaly import Detector, ImageScore
from ganomaly.heatmap import draw_overlay
from ganomaly.preparation import read_image
from tasks.accounting import RunCounts
from tasks.claims import Claimed, claim, scoring_by
from tasks.fetching import FailedImage, FetchedImage, FetchPool, fetch_pool, in_chunks, split_failed
from tasks.garbage import imports_left_alone
from tasks.ingest import image_record
from tasks.listing import ListedImage, Listing
from tasks.model_registry import ModelRegistryError, ModelVersion, model_name
from tasks.object_store import ObjectStoreError
from tasks.report_store import FailureRecord, JudgedImage, ScoreRecord, ScoringRun
from tasks.retries import NETWORK_STEP
from tasks.stopping import finish_before_stopping
from tasks.stream import in_stages
from tasks.systems import Systems
from tasks.window import Window

OVERLAY_MAX_SIDE_PX = 640
OVERLAY_JPEG_QUALITY = 85
OVERLAY_FAILED = "overlay_failed"


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
    """One image with its score, and its heat map (S, S) where it is flagged."""

    found: FetchedImage
    score: ImageScore
    heat_ss: np.ndarray | None = None


@dataclass(frozen=True)
class FetchedChunk:
    """What came of a chunk when it was claimed and fetched."""

    size: int
    held: tuple[ListedImage, ...]
    finished: RunCounts
    fetched: tuple[FetchedImage, ...]
    failed: tuple[FailedImage, ...]


@dataclass(frozen=True)
class JudgedChunk:
    """A chunk that is ready to be committed; only flagged images still have their bytes."""

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

    The next chunk is fetched and the last one committed while one is scored. The run's counts grow with each chunk
    that is committed. SIGTERM lets the chunk that is being scored come to its end; the claims on the next one fall with
    the run's lease. Gives the images that another live run works on.
    """
    logger = get_run_logger()
    held: list[ListedImage] = []
    done = 0
    chunks = in_chunks(images, systems.line.scoring.chunk_size)
    with (
        finish_before_stopping() as is_stopping,
        fetch_pool(systems.line.scoring.fetch_threads) as pool,
        imports_left_alone(),
    ):
        committed = in_stages(
            chunks,
            lambda chunk: _fetch_chunk(systems, model, run.row.id, chunk, pool),
            lambda chunk: _judge_chunk(model.detector, chunk),
            lambda chunk: _commit_chunk(systems, model, run, chunk),
            is_stopping=is_stopping,
            abandon=pool.end,
        )
        for chunk in committed:
            held += chunk.held
            done += chunk.size
            flagged = run.counts.flagged
            logger.info("shard %s: %d of %d images, %d flagged in this run", number, done, len(images), flagged)
    return held


def _fetch_chunk(
    systems: Systems, model: PinnedModel, run_id: str, chunk: Sequence[ListedImage], pool: FetchPool
) -> FetchedChunk:
    config = model.detector.config
    claimed, verdicts = _claim(systems, model, run_id, chunk)
    results = pool.fetch(systems.objects, claimed.mine, config.recipe, config.quality)
    fetched, failed = split_failed(results)
    return FetchedChunk(len(chunk), claimed.held, _already_judged(verdicts), tuple(fetched), tuple(failed))


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


def _judge_chunk(detector: Detector, chunk: FetchedChunk) -> JudgedChunk:
    judged = [_without_data(one) for one in _judge(detector, chunk.fetched)]
    return JudgedChunk(chunk.size, chunk.held, chunk.finished, tuple(judged), chunk.failed)


def _commit_chunk(systems: Systems, model: PinnedModel, run: OpenRun, chunk: JudgedChunk) -> JudgedChunk:
    overlays, without_overlay = _save_overlays(systems, model, [one for one in chunk.judged if one.heat_ss is not None])
    failed = [*chunk.failed, *without_overlay]
    lacking = {failure.image.identity for failure in without_overlay}
    judged = [one for one in chunk.judged if one.found.image.identity not in lacking]
    inserted = systems.store.commit_scores(
        run.row.id,
        model.work,
        [_as_row(one, overlays.get(one.found.image.identity)) for one in judged],
        [FailureRecord(f.image.key, f.image.etag, f.reason, f.detail) for f in failed],
    )
    run.counts += chunk.finished + _count(judged, inserted) + RunCounts(failed=len(failed))
    return replace(chunk, judged=(), failed=())


def _judge(detector: Detector, fetched: Sequence[FetchedImage]) -> list[Judged]:
    usable = np.array([found.prepared.usable for found in fetched], dtype=bool)
    scores = iter(detector.score_and_map(detector.stack([found.prepared for found in fetched], usable)))
    return [
        Judged(found, *next(scores))
        if found.prepared.usable
        else Judged(found, ImageScore(None, None, None, "unusable", found.prepared.reason, found.prepared.detail))
        for found in fetched
    ]


def _as_row(judged: Judged, heat_map_key: str | None) -> JudgedImage:
    score = judged.score
    return JudgedImage(
        image_record(judged.found),
        ScoreRecord(
            verdict=score.verdict,
            raw_score=score.raw,
            normalised_score=score.normalised,
            p_value=score.p_value,
            reason=score.reason,
            heat_map_key=heat_map_key,
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


def _without_data(judged: Judged) -> Judged:
    """The same without the image's bytes, which only an overlay needs."""
    return judged if judged.score.verdict == "flagged" else replace(judged, found=replace(judged.found, data=b""))


def _save_overlays(
    systems: Systems, model: PinnedModel, judged: Sequence[Judged]
) -> tuple[dict[tuple[str, str], str], list[FailedImage]]:
    """Draw the heat maps of flagged images over them and save each as an object.

    Gives the overlay's key by image, and the images whose overlay could not be written.
    """
    keys: dict[tuple[str, str], str] = {}
    failed: list[FailedImage] = []
    for one in judged:
        found = one.found
        assert one.heat_ss is not None
        key = overlay_key(systems.line.line, model, found.image)
        try:
            systems.objects.put_one_of_many(key, overlay_jpeg(model.detector, found.data, one.heat_ss), "image/jpeg")
        except ObjectStoreError as error:
            failed.append(FailedImage(found.image, OVERLAY_FAILED, str(error)))
        else:
            keys[found.image.identity] = key
    return keys, failed


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
    heat = detector.config.recipe.to_image_pixels(heat_ss, image.shape)
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
