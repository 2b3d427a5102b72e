"""Chunks of a night: nothing of one is lost, one is fetched ahead and no more, and who gives up is not kept waiting."""

import threading
import time
from contextlib import closing
from datetime import date

import cv2
import numpy as np
import pytest

from ganomaly.images.quality import QualityGate
from ganomaly.images.recipe import Recipe
from tasks.bucket.failures import ObjectMissingError
from tasks.lines.line import ScoringConfig
from tasks.night.fetching import CHUNK_BYTES, fetch_chunks, in_chunks, in_shards
from tasks.night.listing import ListedImage

RECIPE, GATE = Recipe(size_px=32), QualityGate()
PNG = cv2.imencode(".png", np.random.default_rng(0).integers(40, 200, (64, 64), np.uint8))[1].tobytes()


def listed(n: int, size_bytes: int = 100) -> list[ListedImage]:
    """So many images as a listing gives them."""
    day = date(2026, 3, 2)
    return [
        ListedImage(f"{number}.png", f"{number}", f"{number}", "", day, size_bytes=size_bytes) for number in range(n)
    ]


class Bucket:
    """Answers after a while; what is not there is missing. Counts what was asked for."""

    def __init__(self, seconds: float = 0.0, missing: str = "", broken: str = "") -> None:
        self.seconds, self.missing, self.broken = seconds, missing, broken
        self.asked: list[str] = []
        self.lock = threading.Lock()

    def get_listed(self, key: str, etag: str) -> bytes:
        """The same image for every key."""
        with self.lock:
            self.asked.append(key)
        time.sleep(self.seconds)
        if key == self.missing:
            raise ObjectMissingError(f"{key}: there is no such object ({etag})")
        if key == self.broken:
            raise RuntimeError("a mistake of this software")
        return PNG


def chunks_of(bucket: Bucket, n: int):
    """Chunks of four images."""
    return fetch_chunks(bucket, listed(n), ScoringConfig(chunk_size=4, fetch_threads=2), RECIPE, GATE)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_every_image_comes_once_and_in_order(count: int) -> None:
    """An image at the border of two chunks would be lost or done twice."""
    bucket = Bucket(missing="5.png")
    fetched, failed = [], []
    for some, others in chunks_of(bucket, count):
        assert len(some) + len(others) <= 4
        fetched += [found.image.key for found in some]
        failed += [failure.image.key for failure in others]
    assert fetched == [f"{n}.png" for n in range(count) if n != 5]
    assert failed == ["5.png"][: count > 5]
    assert sorted(bucket.asked) == sorted(f"{n}.png" for n in range(count))


def test_one_chunk_is_fetched_ahead_and_no_more() -> None:
    """The bucket would wait for the networks, or a night's images be in memory all at once."""
    bucket = Bucket()
    with closing(chunks_of(bucket, 40)) as chunks:
        next(chunks)
        deadline = time.monotonic() + 60
        while len(bucket.asked) < 8:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.2)
        assert len(bucket.asked) == 8


def test_who_gives_up_leaves_the_rest_unasked() -> None:
    """A run that is stopped would first fetch what nobody will judge."""
    bucket = Bucket(0.1)
    with closing(chunks_of(bucket, 40)) as chunks:
        next(chunks)
    assert len(bucket.asked) < 8


def test_a_mistake_of_ours_is_raised() -> None:
    """A night would end as complete without the images that our own mistake has cost."""
    with pytest.raises(RuntimeError, match="a mistake"):
        list(chunks_of(Bucket(broken="2.png"), 9))


@pytest.mark.parametrize("count", [0, 1, 4, 5, 9])
def test_chunks_and_shards_hold_every_image_once(count: int) -> None:
    """Broken if an image at the border of two chunks is lost or done twice."""
    images = listed(count)
    for cut in (in_chunks, in_shards):
        pieces = list(cut(images, 4))
        assert [image for piece in pieces for image in piece] == images
        assert all(1 <= len(piece) <= 4 for piece in pieces)


def test_a_chunk_of_large_images_is_short() -> None:
    """Broken if a line with 150 MB images fills the memory with a chunk of 256 of them."""
    images = [*listed(7, CHUNK_BYTES // 3), *listed(1, CHUNK_BYTES * 2)]
    assert [len(chunk) for chunk in in_chunks(images, 100)] == [3, 3, 1, 1]
