"""How many threads fetch and prepare, and that nothing of a chunk is lost whatever their number."""

import threading
import time
from concurrent.futures import CancelledError
from datetime import date

import cv2
import numpy as np
import pytest

from ganomaly.quality import QualityGate
from ganomaly.recipe import Recipe
from tasks.fetching import FailedImage, FetchedImage, FetchPool
from tasks.listing import ListedImage
from tasks.object_store import ObjectMissingError

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


def test_results_come_in_order_and_a_missing_image_does_not_stop_the_rest() -> None:
    """Scores would be written for other images than they were made of, or a chunk be lost with one object."""
    pool, images = FetchPool(8, cores=3), listed(40)
    results = pool.fetch(Bucket(0.001, missing="7.png"), images, RECIPE, GATE)  # type: ignore[arg-type]
    assert [result.image for result in results] == images
    kinds = {type(result): [r.image.key for r in results if type(r) is type(result)] for result in results}
    assert kinds[FailedImage] == ["7.png"]
    assert len(kinds[FetchedImage]) == 39
    assert pool.fetch(Bucket(0), [], RECIPE, GATE) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(("waited_s", "computed_s", "busy"), [(0, 3, 2), (1, 3, 3), (6, 3, 6), (90, 3, 8), (1, 0, 8)])
def test_as_many_threads_as_waiting_calls_for(waited_s: float, computed_s: float, busy: int) -> None:
    """Threads would take the interpreter from those that score, or more be started than the line allows."""
    pool = FetchPool(8, cores=2)
    pool._adapt(waited_s, computed_s)
    assert pool.busy == busy


def test_a_distant_bucket_is_asked_by_more_threads() -> None:
    """Cores would be idle while a bucket elsewhere takes its time."""
    pool, bucket = FetchPool(8, cores=2), Bucket(0.2)
    for _ in range(2):
        pool.fetch(bucket, listed(16), RECIPE, GATE)  # type: ignore[arg-type]
    assert pool.busy == bucket.most == 8


def test_the_end_leaves_the_rest_undone() -> None:
    """A night that is told to stop would fetch its whole chunk from a slow bucket first."""
    pool, bucket = FetchPool(2, cores=1), Bucket(0.05)
    threading.Timer(0.1, pool.end).start()
    with pytest.raises(CancelledError):
        pool.fetch(bucket, listed(200), RECIPE, GATE)  # type: ignore[arg-type]
    assert bucket.asked < 20
