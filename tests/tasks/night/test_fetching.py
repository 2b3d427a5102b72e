"""How many threads fetch and prepare, and that nothing of a chunk is lost whatever their number."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from datetime import date

import cv2
import numpy as np
import pytest

from ganomaly.images.quality import QualityGate
from ganomaly.images.recipe import Recipe
from tasks.bucket.bucket import ObjectMissingError
from tasks.night.fetching import LEARNED_FROM, FailedImage, FetchedImage, FetchPool
from tasks.night.listing import ListedImage

Then = Callable[[FetchedImage], FetchedImage]
Waiting = Callable[[], list[FetchedImage | FailedImage]]
SOON_S = 30.0
RECIPE, GATE = Recipe(size_px=32), QualityGate()
PNG = cv2.imencode(".png", np.random.default_rng(0).integers(40, 200, (64, 64), np.uint8))[1].tobytes()


def listed(n: int) -> list[ListedImage]:
    """So many images as a listing gives them."""
    day = date(2026, 3, 2)
    return [
        ListedImage(f"{number}.png", f"{number}", part=f"{number}", view="", production_date=day) for number in range(n)
    ]


class Bucket:
    """Answers after a while; what is not there is missing. Counts how many ask at once."""

    def __init__(self, seconds: float, missing: str = "") -> None:
        self.seconds = seconds
        self.missing = missing
        self.asking = self.most = self.asked = 0
        self.lock = threading.Lock()

    def get_listed(self, key: str, etag: str) -> bytes:
        """The same image for every key."""
        with self.lock:
            self.asked += 1
            self.asking += 1
            self.most = max(self.most, self.asking)
        time.sleep(self.seconds)
        with self.lock:
            self.asking -= 1
        if key == self.missing:
            raise ObjectMissingError(f"{key}: there is no such object ({etag})")
        return PNG


def fetch(pool: FetchPool, bucket: Bucket, images: list[ListedImage], then: Then = lambda found: found) -> Waiting:
    """Have the pool fetch images from the bucket; gives what waits for them."""
    return pool.start(bucket, images, RECIPE, GATE, then)  # type: ignore[arg-type]


def test_results_come_in_order_and_a_missing_image_does_not_stop_the_rest() -> None:
    """Scores would be written for other images than they were made of, or a chunk be lost with one object."""
    pool, images = FetchPool(8, cores=3), listed(40)
    results = fetch(pool, Bucket(0.001, missing="7.png"), images)()
    assert [result.image for result in results] == images
    kinds = {type(result): [r.image.key for r in results if type(r) is type(result)] for result in results}
    assert kinds[FailedImage] == ["7.png"]
    assert len(kinds[FetchedImage]) == 39
    assert fetch(pool, Bucket(0), [])() == []


@pytest.mark.parametrize(("waited_s", "computed_s", "busy"), [(0, 3, 2), (1, 3, 3), (6, 3, 6), (90, 3, 8), (1, 0, 8)])
def test_as_many_threads_as_waiting_calls_for(waited_s: float, computed_s: float, busy: int) -> None:
    """Threads would take the interpreter from those that score, or more be started than the line allows."""
    pool = FetchPool(8, cores=2)
    pool._adapt(waited_s, computed_s)
    assert pool.busy == busy


def test_a_distant_bucket_is_asked_by_more_threads() -> None:
    """Cores would be idle while a bucket elsewhere takes its time."""
    pool, bucket = FetchPool(8, cores=2), Bucket(0.05)
    fetch(pool, bucket, listed(2 * LEARNED_FROM))()
    assert pool.busy == bucket.most == 8


def test_surplus_threads_rest_within_the_first_chunk() -> None:
    """Each would score with memory of its own, and take the interpreter from those that the cores can carry."""
    workers: list[str] = []

    def take_long(found: FetchedImage) -> FetchedImage:
        workers.append(threading.current_thread().name)
        time.sleep(0.02)  # beside it the bucket's answers take nothing
        return found

    pool = FetchPool(8, cores=2)
    fetch(pool, Bucket(0), listed(3 * LEARNED_FROM), take_long)()
    assert pool.busy < 8  # two or three, were nothing else running
    assert len(set(workers[:LEARNED_FROM])) == 8
    assert "fetch 7" not in workers[-LEARNED_FROM:]


def test_the_end_leaves_the_rest_undone() -> None:
    """A night that is told to stop would fetch its whole chunk from a slow bucket first."""
    pool, bucket = FetchPool(2, cores=1), Bucket(0.05)
    threading.Timer(0.1, pool.end).start()
    with pytest.raises(CancelledError):
        fetch(pool, bucket, listed(200))()
    assert bucket.asked < 20


def test_no_thread_is_idle_between_two_chunks() -> None:
    """Broken if a chunk is begun only when the last image of the one before has come: the second never would."""
    pool, first_of_next = FetchPool(2, cores=2), threading.Event()

    def hold_up_the_last(found: FetchedImage) -> FetchedImage:
        if found.image.key == "3.png":
            assert first_of_next.wait(SOON_S)
        return found

    def tell(found: FetchedImage) -> FetchedImage:
        first_of_next.set()
        return found

    waiting = [fetch(pool, Bucket(0), listed(4), then) for then in (hold_up_the_last, tell)]
    assert [len(wait()) for wait in waiting] == [4, 4]


def test_an_error_of_what_is_done_with_an_image_is_raised() -> None:
    """Broken if images that could not be scored count as done."""

    def fail(found: FetchedImage) -> FetchedImage:
        raise ValueError(found.image.key)

    with pytest.raises(ValueError, match="png"):
        fetch(FetchPool(2, cores=2), Bucket(0), listed(4), fail)()
