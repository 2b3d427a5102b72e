"""Record what a window's images are: fetch them, check that they are fit to judge, write one row for each.

Whether they are fit is measured by the line file's recipe and gate, with which the next model will be trained. A night
measures by those of the model that judges it, and training anew by its own; an image keeps the row that it got first.
"""

from collections.abc import Sequence
from contextlib import closing

import numpy as np
from prefect import task
from prefect.logging import get_run_logger

from ganomaly.images.preparation import read_image
from ganomaly.images.recipe import Recipe
from ganomaly.images.recipe_fitting import fit_recipe
from tasks.lines.window import Window
from tasks.night.accounting import IngestCounts
from tasks.night.fetching import FetchedImage, fetch_chunks, fetch_images
from tasks.night.listing import ListedImage, Listing
from tasks.process import finish_before_stopping
from tasks.steps import NETWORK_STEP
from tasks.store.drift import FIGURES
from tasks.store.rows import ImageRecord
from tasks.systems import Systems

LOOKED_AT_FOR_BITS = 16

MEASURED = ("width_px", "height_px", *FIGURES)
"""What is recorded of an image's figures; nothing where it was not decoded."""


@task(name="drop-recorded", persist_result=False)
def drop_recorded(systems: Systems, window: Window, listing: Listing) -> tuple[ListedImage, ...]:
    """The listed images that the report store does not know in this very version (key and etag)."""
    known = systems.store.images.known(systems.line.name, window.start, window.end)
    return tuple(image for image in listing.images if image.identity not in known)


@task(name="decide-bits", **NETWORK_STEP, persist_result=False)
def decide_bits(systems: Systems, images: Sequence[ListedImage]) -> Recipe:
    """The line's recipe with the bits that its camera fills, as some of the images show: 12 of 16 are not underexposed.

    Training decides it anew, on more of them.
    """
    recipe = systems.line.recipe
    if recipe.bits != "auto" or not images:
        return recipe
    some = [images[at] for at in np.linspace(0, len(images) - 1, min(len(images), LOOKED_AT_FOR_BITS)).astype(int)]
    fetched = fetch_images(
        systems.objects, some, recipe, systems.line.quality, threads=systems.line.scoring.fetch_threads
    )
    pixels = [
        read_image(found.data, recipe) for found in fetched if isinstance(found, FetchedImage) and _decodes(found)
    ]
    if any(image.dtype != np.uint16 for image in pixels):
        return recipe.model_copy(update={"bits": 16})  # files of several kinds tell nothing of a camera
    unaligned = recipe.model_copy(update={"align": "none"})
    return recipe.model_copy(update={"bits": fit_recipe(unaligned, pixels).bits})


def _decodes(found: FetchedImage) -> bool:
    return found.prepared.figures is not None


@task(name="ingest-shard", task_run_name="ingest {number}", persist_result=False)
def ingest_shard(systems: Systems, recipe: Recipe, images: Sequence[ListedImage], number: str) -> IngestCounts:
    """Fetch, check and record images, chunk by chunk; one that cannot be fetched is named and left for the next run."""
    logger, line, counts = get_run_logger(), systems.line, IngestCounts()
    chunks = fetch_chunks(systems.objects, images, line.scoring, recipe, line.quality)
    with finish_before_stopping() as is_stopping, closing(chunks):
        for fetched, failed in chunks:
            inserted = systems.store.images.commit(line.name, [image_record(found) for found in fetched])
            for failure in failed:
                logger.warning("%r %s: %s", failure.image.key, failure.reason, failure.detail)
            counts += _count(fetched, inserted) + IngestCounts(failed=len(failed))
            logger.info("shard %s: %d of %d images checked", number, counts.accounted, len(images))
            if is_stopping():
                break
    return counts


def _count(fetched: Sequence[FetchedImage], inserted: set[tuple[str, str]]) -> IngestCounts:
    """Count by what became of them; what another ingest of an overlapping window recorded first is its own."""
    unusable = sum(not found.prepared.usable for found in fetched)
    recorded = sum(found.prepared.usable and found.image.identity in inserted for found in fetched)
    return IngestCounts(recorded=recorded, already_recorded=len(fetched) - unusable - recorded, unusable=unusable)


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
        size_bytes=len(found.data),
        sha256=found.sha256,
        usable=prepared.usable,
        reason=prepared.reason,
        **(dict.fromkeys(MEASURED) if figures is None else {name: getattr(figures, name) for name in MEASURED}),
    )
