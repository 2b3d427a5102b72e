"""Sharing a window's images between runs, on the real report store."""

import time
from datetime import UTC, date, datetime

import pytest

from tasks.night.fetching import CHUNK_BYTES, in_chunks, in_shards
from tasks.night.listing import ListedImage
from tasks.store.lease import INGEST, claim, heartbeat, scoring_by
from tasks.store.store import ImageRecord, ReportStore

DAY = date(2026, 3, 8)
LINE = "plates"


def listed(number: int, size_bytes: int = 100) -> ListedImage:
    """One image of DAY."""
    key = f"images/{LINE}/{DAY}/p{number}/top.png"
    return ListedImage(key, f"etag{number}", f"p{number}", "top", DAY, datetime(2026, 3, 8, tzinfo=UTC), size_bytes)


def record(image: ListedImage) -> ImageRecord:
    """Its row."""
    assert image.captured_at is not None
    return ImageRecord(
        image.key, image.etag, image.part, image.view, DAY, image.captured_at, 100, "ab" * 32, usable=True
    )


def test_two_owners_divide_a_chunk(store: ReportStore) -> None:
    """Broken if two live runs are given the same image, or if what the first has finished is done again."""
    images = [listed(number) for number in range(6)]

    def known(pairs: list[tuple[str, str]]) -> set[tuple[str, str]]:
        return store.known_among(LINE, pairs)

    store.hold_lease("a", 60)
    store.hold_lease("b", 60)
    first = claim(store, "a", LINE, INGEST, images[:4], known)
    assert (first.mine, first.finished, first.held) == (tuple(images[:4]), (), ())
    store.commit_images("a", LINE, [record(image) for image in images[:2]])
    second = claim(store, "b", LINE, INGEST, images, known)
    assert second.mine == tuple(images[4:])
    assert second.finished == tuple(images[:2])
    assert second.held == tuple(images[2:4])
    store.drop_lease("a")
    assert claim(store, "b", LINE, INGEST, images, known).mine == tuple(images[2:])


def test_another_model_version_is_other_work(store: ReportStore) -> None:
    """Broken if scoring with a new model waits for the run of an old one."""
    images = [listed(number) for number in range(3)]
    for owner, work in (("a", scoring_by(1, "cal-1")), ("b", scoring_by(2, "cal-2"))):
        store.hold_lease(owner, 60)
        assert claim(store, owner, LINE, work, images, lambda _: set()).mine == tuple(images)


def test_the_heartbeat_outlives_the_lease(store: ReportStore) -> None:
    """Broken if a chunk that takes longer than the lease loses its images to another run."""
    images = [listed(number) for number in range(3)]
    store.hold_lease("b", 60)
    with heartbeat(store, "a", 1.0):
        assert claim(store, "a", LINE, INGEST, images, lambda _: set()).mine == tuple(images)
        time.sleep(1.6)
        assert claim(store, "b", LINE, INGEST, images, lambda _: set()).held == tuple(images)
    time.sleep(1.2)
    assert claim(store, "b", LINE, INGEST, images, lambda _: set()).mine == tuple(images)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 9])
def test_chunks_and_shards_hold_every_image_once(count: int) -> None:
    """Broken if an image at the border of two chunks is lost or done twice."""
    images = [listed(number) for number in range(count)]
    for cut in (in_chunks, in_shards):
        pieces = list(cut(images, 4))
        assert [image for piece in pieces for image in piece] == images
        assert all(1 <= len(piece) <= 4 for piece in pieces)


def test_a_chunk_of_large_images_is_short() -> None:
    """Broken if a line with 150 MB images fills the memory with a chunk of 256 of them."""
    images = [listed(number, CHUNK_BYTES // 3) for number in range(7)] + [listed(9, CHUNK_BYTES * 2)]
    assert [len(chunk) for chunk in in_chunks(images, 100)] == [3, 3, 1, 1]
