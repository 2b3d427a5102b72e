"""Score a window's images with one pinned model version and commit the verdicts chunk by chunk."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from ganomaly import Detector, ImageScore
from ganomaly.heatmap import draw_overlay
from ganomaly.preparation import read_image
from tasks.accounting import RunCounts
from tasks.fetching import FetchedImage, fetch_images, in_chunks, split_failed
from tasks.ingest import image_record
from tasks.listing import ListedImage, Listing
from tasks.model_registry import ModelRegistryError, ModelVersion, model_name
from tasks.report_store import FailureRecord, ScoreRecord
from tasks.retries import NETWORK_STEP
from tasks.systems import Systems
from tasks.window import Window

OVERLAY_MAX_SIDE_PX = 640
OVERLAY_JPEG_QUALITY = 85


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

    def counts(self, strays: int) -> RunCounts:
        """The counts before anything is done; objects that do not follow the key layout cannot be judged."""
        unusable = self.already_unusable + strays
        return RunCounts(listed=self.already_scored + unusable, already_scored=self.already_scored, unusable=unusable)


@task(name="pin-model", **NETWORK_STEP, cache_policy=NO_CACHE, persist_result=False)
def pin_model(systems: Systems, version: int | None, device: str) -> PinnedModel:
    """Resolve the champion, or the version asked for, once, and load its detector.

    Raises:
        ModelRegistryError: if there is no such version; says how to get one.
    """
    line = systems.line.line
    found = systems.registry.champion(line) if version is None else systems.registry.version(line, version)
    if found is None:
        wanted = "no champion" if version is None else f"no version {version}"
        raise ModelRegistryError(
            f"{model_name(line)} has {wanted} in MLflow at {systems.registry.tracking_uri}; "
            f"train one with `inspection train {line}`"
        )
    folder = systems.registry.download_detector(found, systems.settings.work_dir / "models")
    return PinnedModel(found, Detector.load(folder, device=device))


@task(name="drop-scored", cache_policy=NO_CACHE, persist_result=False)
def drop_scored(systems: Systems, window: Window, listing: Listing, model: PinnedModel) -> WorkPlan:
    """Leave out what this model version has judged before in this very version of the object (key and etag)."""
    verdicts = systems.store.judged(
        systems.line.line, window.start, window.end, model.version.version, model.calibration_id
    )
    earlier = [verdicts.get((image.key, image.etag)) for image in listing.images]
    todo = tuple(image for image, verdict in zip(listing.images, earlier, strict=True) if verdict is None)
    unusable = sum(verdict == "unusable" for verdict in earlier)
    return WorkPlan(todo, len(listing.images) - len(todo) - unusable, unusable)


@task(name="score-shard", task_run_name="score {number}", tags=["gpu"], cache_policy=NO_CACHE, persist_result=False)
def score_shard(
    systems: Systems, model: PinnedModel, run_id: str, folder: str, images: Sequence[ListedImage], number: str
) -> RunCounts:
    """Fetch, check, score and commit images, chunk by chunk; what a kill leaves undone the next run finds."""
    logger = get_run_logger()
    counts = RunCounts()
    for chunk in in_chunks(images, systems.line.scoring.chunk_size):
        counts += _score_chunk(systems, model, run_id, folder, chunk)
        logger.info("shard %s: %d of %d images, %d flagged", number, counts.listed, len(images), counts.flagged)
    return counts


def _score_chunk(
    systems: Systems, model: PinnedModel, run_id: str, folder: str, chunk: Sequence[ListedImage]
) -> RunCounts:
    config = model.detector.config
    threads = systems.line.scoring.fetch_threads
    fetched, failed = split_failed(fetch_images(systems.objects, chunk, config.recipe, config.quality, threads=threads))
    scores = _judge(model.detector, fetched)
    overlays = _save_overlays(systems, model.detector, folder, fetched, scores)
    ids = systems.store.record_images(systems.line.line, [image_record(found) for found in fetched])
    systems.store.save_scores(
        run_id,
        [
            ScoreRecord(
                image_id=ids[found.image.key, found.image.etag],
                verdict=score.verdict,
                raw_score=score.raw,
                normalised_score=score.normalised,
                p_value=score.p_value,
                reason=score.reason,
                heat_map_key=overlays.get(found.image.key),
            )
            for found, score in zip(fetched, scores, strict=True)
        ],
    )
    systems.store.save_failures(run_id, [FailureRecord(f.image.key, f.image.etag, f.reason, f.detail) for f in failed])
    unusable = sum(score.verdict == "unusable" for score in scores)
    flagged = sum(score.verdict == "flagged" for score in scores)
    return RunCounts(len(chunk), len(scores) - unusable, 0, unusable, len(failed), flagged)


def _judge(detector: Detector, fetched: Sequence[FetchedImage]) -> list[ImageScore]:
    usable = np.array([found.prepared.usable for found in fetched], dtype=bool)
    scores = iter(detector.score_prepared(detector.stack([found.prepared for found in fetched], usable)))
    return [
        next(scores)
        if found.prepared.usable
        else ImageScore(None, None, None, "unusable", found.prepared.reason, found.prepared.detail)
        for found in fetched
    ]


def _save_overlays(
    systems: Systems, detector: Detector, folder: str, fetched: Sequence[FetchedImage], scores: Sequence[ImageScore]
) -> dict[str, str]:
    """Draw the heat maps of flagged images over them and save each as an object; gives its key for each image's key."""
    flagged = [found for found, score in zip(fetched, scores, strict=True) if score.verdict == "flagged"]
    if not flagged:
        return {}
    prepared = [found.prepared for found in flagged]
    heats = detector.heat_maps(detector.stack(prepared, np.ones(len(prepared), dtype=bool)))
    keys: dict[str, str] = {}
    for found, heat in zip(flagged, heats, strict=True):
        # a key may hold anything: the overlay's name is made of its hash
        name = hashlib.sha256(found.image.key.encode()).hexdigest()[:24]
        key = f"{folder}/overlays/{name}.jpg"
        systems.objects.put(key, overlay_jpeg(detector, found.data, heat), "image/jpeg")
        keys[found.image.key] = key
    return keys


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
