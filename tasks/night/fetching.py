"""From listed images to prepared ones: fetch from the bucket, decode, judge the quality, apply the recipe."""

import hashlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import BoundedSemaphore

from ganomaly.acceleration.cores import usable_cores
from ganomaly.images.preparation import Prepared, prepare_image
from ganomaly.images.quality import QualityGate
from ganomaly.images.recipe import Recipe
from tasks.bucket.bucket import ObjectStore
from tasks.bucket.failures import ObjectStoreError
from tasks.lines.line import ScoringConfig
from tasks.night.listing import ListedImage

_PREPARING = BoundedSemaphore(max(1, usable_cores() // 2))
"""Threads that fetch are many, since they wait; so many at once prepare what came: more take the cores from judging."""
CHUNK_BYTES = 250_000_000  # two chunks are in memory: one that is worked on, and the next


@dataclass(frozen=True)
class FetchedImage:
    """An image that was read from the bucket, whether or not it is fit to judge.

    Attributes:
        image: what the listing says of it.
        data: the object's bytes.
        sha256: of the object's bytes, hexadecimal.
        prepared: the image after decoding, quality gate and recipe.
    """

    image: ListedImage
    data: bytes
    sha256: str
    prepared: Prepared


@dataclass(frozen=True)
class FailedImage:
    """An image that could not be read although it was listed: ``vanished``, ``changed`` or ``fetch_failed``."""

    image: ListedImage
    reason: str
    detail: str


Chunk = tuple[list[FetchedImage], list[FailedImage]]
"""What came of a chunk: images that were read, and those that were not."""


def fetch_chunks(
    objects: ObjectStore, images: Sequence[ListedImage], scoring: ScoringConfig, recipe: Recipe, gate: QualityGate
) -> Generator[Chunk, None, None]:
    """Fetch and prepare images chunk by chunk, the next one while the caller is at work on the last.

    Nothing that is wrong with one image is raised. Close the iterator to give up what is under way.
    """
    pool = ThreadPoolExecutor(scoring.fetch_threads, thread_name_prefix="fetch")
    chunks = in_chunks(images, scoring.chunk_size)

    def begin(chunk: Sequence[ListedImage]) -> list[Future[FetchedImage | FailedImage]]:
        return [pool.submit(fetch_image, objects, image, recipe, gate) for image in chunk]

    try:
        coming = begin(next(chunks, ()))
        while coming:
            under_way, coming = coming, begin(next(chunks, ()))
            yield split_failed(future.result() for future in under_way)
            del under_way
    finally:
        pool.shutdown(cancel_futures=True)


def fetch_image(
    objects: ObjectStore, image: ListedImage, recipe: Recipe, gate: QualityGate
) -> FetchedImage | FailedImage:
    """Fetch and prepare one image; whatever is wrong with it is not raised."""
    try:
        data = objects.get_listed(image.key, image.etag)
    except ObjectStoreError as error:
        return FailedImage(image, error.reason, str(error))
    with _PREPARING:
        return FetchedImage(image, data, hashlib.sha256(data).hexdigest(), prepare_image(data, recipe, gate))


def fetch_images(
    objects: ObjectStore, images: Sequence[ListedImage], recipe: Recipe, gate: QualityGate, *, threads: int
) -> list[FetchedImage | FailedImage]:
    """`fetch_image` for some images in their order, several at a time."""
    with ThreadPoolExecutor(threads, thread_name_prefix="fetch") as pool:
        return list(pool.map(lambda image: fetch_image(objects, image, recipe, gate), images))


def split_failed(results: Iterable[FetchedImage | FailedImage]) -> Chunk:
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
