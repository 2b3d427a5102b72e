"""The shards of a window, one after the other in the flow's process or at once on Dask workers.

A worker opens bucket, store and registry by its own environment, loads the model once, and commits for itself: the same
rows as in one process. The line's file is the flow's. What a worker left undone when it died another one does again;
what was committed stays, and no image is counted twice.
"""

from collections.abc import Sequence
from contextlib import closing
from functools import lru_cache

from prefect import task
from prefect.logging import get_run_logger

from ganomaly.images.recipe import Recipe
from tasks.errors import OperatingError
from tasks.lines.line import LineConfig
from tasks.night.accounting import IngestCounts, RunCounts
from tasks.night.fetching import in_shards
from tasks.night.ingest import ingest_shard
from tasks.night.listing import ListedImage
from tasks.night.pinned import PinnedModel
from tasks.night.score import OpenRun, score_chunks, score_shard
from tasks.night.shadow import ShadowModel
from tasks.registry.versions import ModelVersion
from tasks.settings import Settings
from tasks.steps import NETWORK_STEP, quote
from tasks.systems import Systems, systems_of
from tasks.workers.dask_workers import dask_workers


class WorkerSettingsError(OperatingError):
    """A worker that is set up for another plant than the flow."""


class Shard:
    """Images that one call gets: no collection and no dataclass, into which Prefect would look image by image."""

    def __init__(self, images: Sequence[ListedImage]) -> None:
        self.images = images


def score_shards(
    systems: Systems,
    model: PinnedModel,
    run: OpenRun,
    images: Sequence[ListedImage],
    shadow: ShadowModel | None,
    device: str,
) -> None:
    """Judge images shard by shard where the line says; the run's counts grow with what is committed."""
    shards = list(enumerate(in_shards(images, systems.line.scoring.shard_size), start=1))
    dask, line = systems.line.scoring.dask, systems.line
    if dask is None or not shards:
        for number, shard in shards:
            score_shard(systems, model, run, quote(shard), f"{line.name} {number}", shadow)
        return
    beside = None if shadow is None else (shadow.model.version, shadow.shares_preparation)
    common = {"line": line, "bucket": systems.objects.bucket, "version": model.version, "device": device}
    calls = [
        {**common, "run_id": run.row.id, "shard": Shard(shard), "number": f"{line.name} {number}", "beside": beside}
        for number, shard in shards
    ]
    with dask_workers(dask) as workers:
        for counts in workers.run(score_on_worker, calls):
            run.counts += counts
            get_run_logger().info("%d of %d images judged", run.counts.accounted, run.counts.listed)


def ingest_shards(systems: Systems, recipe: Recipe, images: Sequence[ListedImage]) -> IngestCounts:
    """Record images shard by shard where the line says."""
    shards = list(enumerate(in_shards(images, systems.line.scoring.shard_size), start=1))
    dask, line, counts = systems.line.scoring.dask, systems.line, IngestCounts()
    if dask is None or not shards:
        for number, shard in shards:
            counts += ingest_shard(systems, recipe, quote(shard), f"{line.name} {number}")
        return counts
    calls = [
        {
            "line": line,
            "bucket": systems.objects.bucket,
            "recipe": recipe,
            "shard": Shard(shard),
            "number": f"{line.name} {number}",
        }
        for number, shard in shards
    ]
    with dask_workers(dask) as workers:
        for found in workers.run(ingest_on_worker, calls):
            counts += found
    return counts


@task(name="score-shard", task_run_name="score {number}", **NETWORK_STEP, persist_result=False)
def score_on_worker(
    line: LineConfig,
    bucket: str,
    version: ModelVersion,
    device: str,
    run_id: str,
    shard: Shard,
    number: str,
    beside: tuple[ModelVersion, bool] | None,
) -> RunCounts:
    """`score_shard` on a worker: gives the counts, since the run is the flow's.

    Raises:
        WorkerSettingsError: if the worker's bucket or report store is another one.
    """
    systems = _systems(line, bucket)
    try:
        systems.store.runs.get(run_id)
    except LookupError:
        raise WorkerSettingsError(
            f"this worker's report store {systems.store.url} has no run {run_id}: give the worker the INSPECTION_ "
            "variables of the flow"
        ) from None
    logger, model, shadow = get_run_logger(), _loaded(line.model_dump_json(), version, device), None
    if beside is not None:
        try:
            shadow = ShadowModel(_loaded(line.model_dump_json(), beside[0], device), beside[1])
        except Exception as error:  # a night never waits for a model that does not judge it
            logger.warning("no challenger judges beside: %r", error)
    counts = RunCounts()
    with closing(score_chunks(systems, model, run_id, shard.images, shadow)) as chunks:
        for committed in chunks:
            counts += committed
            logger.info("shard %s: %d of %d images", number, counts.accounted, len(shard.images))
            if systems.store.runs.get(run_id).state != "running":
                logger.warning("shard %s: its run has ended; the rest is the next one's", number)
                break
    return counts


@task(name="ingest-shard", task_run_name="ingest {number}", **NETWORK_STEP, persist_result=False)
def ingest_on_worker(line: LineConfig, bucket: str, recipe: Recipe, shard: Shard, number: str) -> IngestCounts:
    """`ingest_shard` on a worker.

    Raises:
        WorkerSettingsError: if the worker's bucket is another one.
    """
    counts: IngestCounts = ingest_shard.fn(_systems(line, bucket), recipe, shard.images, number)
    return counts


@lru_cache(maxsize=8)
def _opened(line: str) -> Systems:
    """What a worker's process has opened for a line, by the line's file as JSON."""
    return systems_of(Settings(), LineConfig.model_validate_json(line))


def _systems(line: LineConfig, bucket: str) -> Systems:
    systems = _opened(line.model_dump_json())
    if systems.objects.bucket != bucket:
        raise WorkerSettingsError(
            f"this worker reads the bucket {systems.objects.bucket!r}, the flow {bucket!r}: give the worker the "
            "INSPECTION_ variables of the flow"
        )
    return systems


@lru_cache(maxsize=4)
def _loaded(line: str, version: ModelVersion, device: str) -> PinnedModel:
    """A model that a worker's process has loaded."""
    systems = _opened(line)
    return PinnedModel(version, systems.registry.load_detector(version, systems.settings.work_dir / "models", device))
