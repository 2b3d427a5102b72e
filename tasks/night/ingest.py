"""Record what a window's images are: fetch them, check that they are fit to judge, write one row for each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.lines.window import Window
from tasks.night.accounting import IngestCounts
from tasks.night.fetching import FailedImage, FetchedImage, FetchPool, fetch_pool, in_chunks, split_failed, without_data
from tasks.night.listing import ListedImage, Listing
from tasks.night.stream import in_stages
from tasks.process import finish_before_stopping
from tasks.store.lease import INGEST, Claimed, claim, heartbeat
from tasks.store.store import ImageRecord
from tasks.systems import Systems


@dataclass(frozen=True)
class IngestedShard:
    """What became of a shard: the counts, and the images that another live ingest works on."""

    counts: IngestCounts
    held: tuple[ListedImage, ...]


@dataclass(frozen=True)
class _Chunk:
    claimed: Claimed
    results: tuple[FetchedImage | FailedImage, ...]


@task(name="drop-recorded", cache_policy=NO_CACHE, persist_result=False)
def drop_recorded(systems: Systems, window: Window, listing: Listing) -> tuple[ListedImage, ...]:
    """The listed images that the report store does not know in this very version (key and etag)."""
    known = systems.store.known_images(systems.line.line, window.start, window.end)
    return tuple(image for image in listing.images if image.identity not in known)


@contextmanager
def ingesting(systems: Systems) -> Iterator[str]:
    """Hold a lease while the block runs, and let go of everything claimed; gives its owner's name."""
    owner = f"ingest-{uuid4().hex}"
    try:
        with heartbeat(systems.store, owner, systems.settings.lease_s):
            yield owner
    finally:
        systems.store.drop_lease(owner)


@task(name="ingest-shard", task_run_name="ingest {number}", cache_policy=NO_CACHE, persist_result=False)
def ingest_shard(systems: Systems, owner: str, images: Sequence[ListedImage], number: str) -> IngestedShard:
    """Fetch, check and record images, chunk by chunk; one that cannot be fetched is named and left for the next run."""
    logger = get_run_logger()
    counts, held = IngestCounts(), []
    chunks = in_chunks(images, systems.line.scoring.chunk_size)
    with finish_before_stopping() as is_stopping, fetch_pool(systems.line.scoring.fetch_threads) as pool:
        committed = in_stages(
            chunks,
            lambda chunk: _begin_chunk(systems, owner, chunk, pool),
            lambda begun: _Chunk(begun[0], tuple(begun[1]())),
            lambda chunk: (chunk.claimed, *_commit_chunk(systems, owner, chunk)),
            is_stopping=is_stopping,
            abandon=pool.end,
        )
        for claimed, recorded, failed in committed:
            for failure in failed:
                logger.warning("%r %s: %s", failure.image.key, failure.reason, failure.detail)
            counts += recorded + IngestCounts(already_recorded=len(claimed.finished))
            held += claimed.held
            logger.info("shard %s: %d of %d images checked", number, counts.accounted, len(images))
    return IngestedShard(counts, tuple(held))


def _begin_chunk(
    systems: Systems, owner: str, chunk: Sequence[ListedImage], pool: FetchPool
) -> tuple[Claimed, Callable[[], list[FetchedImage | FailedImage]]]:
    """Claim a chunk and have it fetched; gives what waits for it."""
    line = systems.line
    claimed = _claim(systems, owner, chunk)
    return claimed, pool.start(systems.objects, claimed.mine, line.recipe, line.quality, without_data)


def _claim(systems: Systems, owner: str, chunk: Sequence[ListedImage]) -> Claimed:
    store, line = systems.store, systems.line.line
    return claim(store, owner, line, INGEST, chunk, lambda pairs: store.known_among(line, pairs))


def _commit_chunk(systems: Systems, owner: str, chunk: _Chunk) -> tuple[IngestCounts, list[FailedImage]]:
    line = systems.line.line
    fetched, failed = split_failed(chunk.results)
    systems.store.commit_images(owner, line, [image_record(found) for found in fetched])
    if failed:
        systems.store.release_images(owner, line, INGEST, [failure.image.identity for failure in failed])
    usable = sum(found.prepared.usable for found in fetched)
    return IngestCounts(recorded=usable, unusable=len(fetched) - usable, failed=len(failed)), failed


def image_record(found: FetchedImage) -> ImageRecord:
    """The row of an image that was read from the bucket."""
    image, prepared = found.image, found.prepared
    figures = prepared.figures
    assert image.captured_at is not None
    return ImageRecord(
        key=image.key,
        etag=image.etag,
        part=image.part,
        view=image.view,
        production_date=image.production_date,
        captured_at=image.captured_at,
        size_bytes=found.size_bytes,
        sha256=found.sha256,
        usable=prepared.usable,
        reason=prepared.reason,
        width_px=figures and figures.width_px,
        height_px=figures and figures.height_px,
        brightness=figures and figures.brightness,
        contrast=figures and figures.contrast,
        sharpness=figures and figures.sharpness,
    )
