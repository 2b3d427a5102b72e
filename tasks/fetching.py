"""From listed images to prepared ones: fetch from the bucket, decode, judge the quality, apply the recipe."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import cv2

from ganomaly.preparation import Prepared, prepare_image
from ganomaly.quality import QualityGate
from ganomaly.recipe import Recipe
from tasks.listing import ListedImage
from tasks.object_store import ObjectStore, ObjectStoreError

CHUNK_BYTES = 250_000_000  # two chunks are in memory at once: one is scored, the next one fetched


@dataclass(frozen=True)
class FetchedImage:
    """An image that was read from the bucket, whether or not it is fit to judge.

    Attributes:
        image: what the listing says of it.
        data: the object's bytes; empty once nobody needs them any more.
        sha256: of the object's bytes, hexadecimal.
        size_bytes: number of the object's bytes.
        prepared: the image after decoding, quality gate and recipe.
    """

    image: ListedImage
    data: bytes
    sha256: str
    size_bytes: int
    prepared: Prepared


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be read although it was listed: ``vanished``, ``changed`` or ``fetch_failed``."""

    image: ListedImage
    reason: str
    detail: str


@contextmanager
def fetch_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that fetch and prepare images. OpenCV's own threads are off meanwhile: each image has one already."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with ThreadPoolExecutor(threads, thread_name_prefix="fetch") as pool:
            yield pool
    finally:
        cv2.setNumThreads(before)


def fetch_images(
    objects: ObjectStore, images: Sequence[ListedImage], recipe: Recipe, gate: QualityGate, *, threads: int
) -> Iterator[FetchedImage | FailedImage]:
    """Fetch and prepare images in their order, several at a time; nothing that is wrong with one is raised."""
    with fetch_pool(threads) as pool:
        yield from fetch_with(pool, objects, images, recipe, gate)


def fetch_with(
    pool: Executor, objects: ObjectStore, images: Sequence[ListedImage], recipe: Recipe, gate: QualityGate
) -> Iterator[FetchedImage | FailedImage]:
    """`fetch_images` in the threads of a `fetch_pool` that outlives the chunk."""

    def fetch(image: ListedImage) -> FetchedImage | FailedImage:
        try:
            data = objects.get_listed(image.key, image.etag)
        except ObjectStoreError as error:
            return FailedImage(image, error.reason, str(error))
        prepared = prepare_image(data, recipe, gate)
        return FetchedImage(image, data, hashlib.sha256(data).hexdigest(), len(data), prepared)

    yield from pool.map(fetch, images)


def split_failed(
    results: Iterable[FetchedImage | FailedImage],
) -> tuple[list[FetchedImage], list[FailedImage]]:
    """Separate what was read from what was not."""
    fetched: list[FetchedImage] = []
    failed: list[FailedImage] = []
    for result in results:
        if isinstance(result, FetchedImage):
            fetched.append(result)
        else:
            failed.append(result)
    return fetched, failed


def in_shards(images: Sequence[ListedImage], size: int) -> Iterator[Sequence[ListedImage]]:
    """Cut a sequence into pieces of ``size`` images: what one Prefect task is given."""
    for start in range(0, len(images), size):
        yield images[start : start + size]


def in_chunks(images: Sequence[ListedImage], size: int) -> Iterator[Sequence[ListedImage]]:
    """Cut a sequence into what is fetched and committed together: at most ``size`` images and about `CHUNK_BYTES`."""
    start = held = 0
    for at, image in enumerate(images):
        more = image.size_bytes or 0
        if at > start and (at - start == size or held + more > CHUNK_BYTES):
            yield images[start:at]
            start, held = at, 0
        held += more
    if start < len(images):
        yield images[start:]
