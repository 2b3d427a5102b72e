"""From listed images to prepared ones: fetch from the bucket, decode, judge the quality, apply the recipe."""

import hashlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar, cast

import cv2

from ganomaly.acceleration.cores import usable_cores
from ganomaly.images.preparation import Prepared, prepare_image
from ganomaly.images.quality import QualityGate
from ganomaly.images.recipe import Recipe
from tasks.bucket.bucket import ObjectStore, ObjectStoreError
from tasks.night.listing import ListedImage

CHUNK_BYTES = 250_000_000  # of two chunks at most is something in memory: the next begins when one runs out

LEARNED_FROM = 64
"""So many images tell how many threads are of use."""

_Made = TypeVar("_Made")


class _Took(NamedTuple):
    waiting_s: float
    computing_s: float


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


class _Chunk(Generic[_Made]):
    """Images that go through a `FetchPool` together, and what has become of them so far."""

    def __init__(self, images: Sequence[ListedImage], work: Callable[[ListedImage], tuple[_Made | FailedImage, _Took]]):
        self.todo = deque(enumerate(images))
        self.made: list[_Made | FailedImage | None] = [None] * len(images)
        self.left = len(images)
        self.work = work
        self.error: BaseException | None = None


class FetchPool:
    """Threads that fetch and prepare images and go on with them: as many as keep the cores busy, and no more.

    A thread does all that one image needs, since whoever takes over from another thread waits for the interpreter
    first. Fetching waits for the server, the rest computes. Threads beyond those that the waiting calls for only take
    the interpreter from each other. How long the one and the other take is learned all the time. It is always the same
    threads that rest, because each that works has memory of its own.

    Args:
        threads: at most, and at first: the bucket may be far away.
        cores: that compute, by default those this process may use.

    Attributes:
        busy: how many threads work.
    """

    def __init__(self, threads: int, cores: int | None = None) -> None:
        self._most = threads
        self._cores = cores or usable_cores()
        self._changed = threading.Condition()
        self._chunks: deque[_Chunk[Any]] = deque()
        self._took: list[_Took] = []
        self._ended = False
        self.busy = threads
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"fetch {number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

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

        def work(image: ListedImage) -> tuple[_Made | FailedImage, _Took]:
            began = time.perf_counter()
            try:
                data = objects.get_listed(image.key, image.etag)
            except ObjectStoreError as error:
                return FailedImage(image, error.reason, str(error)), _Took(0.0, 0.0)
            came = time.perf_counter()
            prepared = prepare_image(data, recipe, gate)
            made = then(FetchedImage(image, data, hashlib.sha256(data).hexdigest(), len(data), prepared))
            return made, _Took(came - began, time.perf_counter() - came)

        chunk = _Chunk(images, work)
        if images:
            with self._changed:
                self._chunks.append(chunk)
                self._changed.notify_all()
        return lambda: self._wait(chunk)

    def _wait(self, chunk: _Chunk[_Made]) -> list[_Made | FailedImage]:
        with self._changed:
            self._changed.wait_for(lambda: not chunk.left or chunk.error or self._ended)
        if chunk.error is not None:
            raise chunk.error
        if chunk.left:
            raise CancelledError
        return cast("list[_Made | FailedImage]", chunk.made)

    def _run(self, thread: int) -> None:
        while (turn := self._next(thread)) is not None:
            chunk, number, image = turn
            try:
                made, took = chunk.work(image)
            except BaseException as error:  # raised where the chunk is waited for
                self._fail(chunk, error)
            else:
                self._note(chunk, number, made, took)

    def _next(self, thread: int) -> tuple[_Chunk[Any], int, ListedImage] | None:
        """The next image; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or (self._chunks and thread < self.busy))
            if self._ended:
                return None
            chunk = self._chunks[0]
            number, image = chunk.todo.popleft()
            if not chunk.todo:
                self._chunks.popleft()
            return chunk, number, image

    def _note(self, chunk: _Chunk[_Made], number: int, made: _Made | FailedImage, took: _Took) -> None:
        with self._changed:
            chunk.made[number] = made
            chunk.left -= 1
            self._took.append(took)
            if len(self._took) == LEARNED_FROM:
                self._adapt(sum(one.waiting_s for one in self._took), sum(one.computing_s for one in self._took))
                self._took.clear()
                self._changed.notify_all()
            if not chunk.left:
                self._changed.notify_all()

    def _fail(self, chunk: _Chunk[Any], error: BaseException) -> None:
        with self._changed:
            chunk.error = chunk.error or error
            if chunk in self._chunks:
                self._chunks.remove(chunk)
            self._changed.notify_all()

    def _adapt(self, waiting_s: float, computing_s: float) -> None:
        if computing_s > 0:
            self.busy = min(self._most, math.ceil(self._cores * (1 + waiting_s / computing_s)))

    def end(self) -> None:
        """Leave the rest undone; whoever waits for a chunk gets an error, threads come to the end of their image."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def join(self) -> None:
        """Wait, after `end`, until no thread works any more."""
        for thread in self._threads:
            thread.join()


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
        pool.join()
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
