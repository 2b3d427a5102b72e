"""From listed images to prepared ones: fetch from the bucket, decode, judge the quality, apply the recipe."""

import hashlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2

from ganomaly.preparation import Prepared, prepare_image
from ganomaly.quality import QualityGate
from ganomaly.recipe import Recipe
from tasks.listing import ListedImage
from tasks.object_store import ObjectStore, ObjectStoreError

CHUNK_BYTES = 250_000_000  # of two chunks at most is something in memory: the next begins when one runs out

_Made = TypeVar("_Made")


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


class FetchPool:
    """Threads that fetch and prepare images and go on with them: as many as keep the cores busy, and no more.

    A thread does all that one image needs, since whoever takes over from another thread waits for the interpreter
    first. Fetching waits for the server, the rest computes. Threads beyond those that the waiting calls for only take
    the interpreter from each other, which costs a tenth of a night's speed on a bucket that answers at once. How long
    the one and the other take is learned from chunk to chunk, from the first on.

    Args:
        threads: at most, and for the first chunk: the bucket may be far away.
        cores: that compute, by default those this process may use.

    Attributes:
        busy: how many threads work at the same time.
    """

    def __init__(self, threads: int, cores: int | None = None) -> None:
        self._most = threads
        self._cores = cores or _usable_cores()
        self._ended = threading.Event()
        self._pool, self._pool_size = ThreadPoolExecutor(threads, thread_name_prefix="fetch"), threads
        self.busy = threads

    def start(
        self,
        objects: ObjectStore,
        images: Sequence[ListedImage],
        recipe: Recipe,
        gate: QualityGate,
        then: Callable[[FetchedImage], _Made],
    ) -> Callable[[], list[_Made | FailedImage]]:
        """Fetch and prepare images after those of earlier calls; nothing that is wrong with one is raised.

        Args:
            objects: the bucket.
            images: one chunk.
            recipe: what makes the network's input.
            gate: what measures the image's quality.
            then: what the same thread does with an image that came; its errors end the chunk.

        Returns:
            A function that waits for the chunk and gives what `then` made of the images, in their order. It raises
            what `then` raised, and CancelledError if `end` was called meanwhile.
        """
        pool = self._threads()
        todo = deque(enumerate(images))
        made: dict[int, _Made | FailedImage] = {}

        def work() -> tuple[float, float]:
            waited = computed = 0.0
            while not self._ended.is_set():
                try:
                    number, image = todo.popleft()
                except IndexError:
                    break
                began = time.perf_counter()
                try:
                    data = objects.get_listed(image.key, image.etag)
                except ObjectStoreError as error:
                    made[number] = FailedImage(image, error.reason, str(error))
                    continue
                came = time.perf_counter()
                prepared = prepare_image(data, recipe, gate)
                made[number] = then(FetchedImage(image, data, hashlib.sha256(data).hexdigest(), len(data), prepared))
                waited += came - began
                computed += time.perf_counter() - came
            return waited, computed

        working = [pool.submit(work) for _ in range(self._pool_size)]

        def wait() -> list[_Made | FailedImage]:
            took = [one.result() for one in working]
            self._adapt(*(sum(seconds) for seconds in zip(*took, strict=True)))
            if len(made) < len(images):
                raise CancelledError
            return [made[number] for number in range(len(images))]

        return wait

    def _threads(self) -> ThreadPoolExecutor:
        """As many threads as are of use: more of them in turns would each have memory and warm caches of its own."""
        if self.busy != self._pool_size:
            self._pool.shutdown(wait=False)  # what they were given comes to its end
            self._pool, self._pool_size = ThreadPoolExecutor(self.busy, thread_name_prefix="fetch"), self.busy
        return self._pool

    def _adapt(self, waited: float, computed: float) -> None:
        if computed > 0:
            self.busy = min(self._most, math.ceil(self._cores * (1 + waited / computed)))

    def end(self) -> None:
        """Leave the rest undone; whoever waits for a chunk gets an error."""
        self._ended.set()
        self._pool.shutdown(wait=False, cancel_futures=True)


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def fetch_pool(threads: int) -> Iterator[FetchPool]:
    """A `FetchPool` of at most so many threads. OpenCV's own are off meanwhile: each image has one already."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    pool = FetchPool(threads)
    try:
        yield pool
    finally:
        pool.end()
        cv2.setNumThreads(before)


def fetch_images(
    objects: ObjectStore, images: Sequence[ListedImage], recipe: Recipe, gate: QualityGate, *, threads: int
) -> list[FetchedImage | FailedImage]:
    """Fetch and prepare images in their order, several at a time; nothing that is wrong with one is raised."""
    with fetch_pool(threads) as pool:
        return pool.start(objects, images, recipe, gate, _as_it_is)()


def _as_it_is(found: FetchedImage) -> FetchedImage:
    return found


def without_data(found: FetchedImage) -> FetchedImage:
    """The same without the object's bytes, for those who need no more of them."""
    return replace(found, data=b"")


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
