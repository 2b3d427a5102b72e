"""Record what a window's images are: fetch them, check that they are fit to judge, write one row for each."""

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from tasks.accounting import IngestCounts
from tasks.fetching import FetchedImage, fetch_images, in_chunks, split_failed
from tasks.listing import ListedImage, Listing
from tasks.report_store import ImageRecord
from tasks.systems import Systems
from tasks.window import Window


@task(name="drop-recorded", cache_policy=NO_CACHE, persist_result=False)
def drop_recorded(systems: Systems, window: Window, listing: Listing) -> tuple[ListedImage, ...]:
    """The listed images that the report store does not know in this very version (key and etag)."""
    known = systems.store.known_images(systems.line.line, window.start, window.end)
    return tuple(image for image in listing.images if (image.key, image.etag) not in known)


@task(name="ingest-shard", task_run_name="ingest {number}", cache_policy=NO_CACHE, persist_result=False)
def ingest_shard(systems: Systems, images: Sequence[ListedImage], number: str) -> IngestCounts:
    """Fetch, check and record images, chunk by chunk; one that cannot be fetched is named and left for the next run."""
    logger = get_run_logger()
    line, counts = systems.line, IngestCounts()
    for chunk in in_chunks(images, line.scoring.chunk_size):
        results = fetch_images(systems.objects, chunk, line.recipe, line.quality, threads=line.scoring.fetch_threads)
        fetched, failed = split_failed(results)
        systems.store.record_images(line.line, [image_record(found) for found in fetched])
        for failure in failed:
            logger.warning("%s %s: %s", failure.image.key, failure.reason, failure.detail)
        usable = sum(found.prepared.usable for found in fetched)
        counts += IngestCounts(len(chunk), usable, 0, len(fetched) - usable, len(failed))
        logger.info("shard %s: %d of %d images checked", number, counts.listed, len(images))
    return counts


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
