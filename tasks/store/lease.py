"""Two runs at once never work on the same image: what a run is about to fetch it claims in the report store.

A claim belongs to a run (or an ingest) that is alive: its lease, renewed by a heartbeat, has not run out. What a dead
run had claimed anybody may take over.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tasks.night.listing import ListedImage
from tasks.store.store import ReportStore, ReportStoreError

INGEST = "ingest"
HEARTBEATS_PER_LEASE = 4
WAIT_S = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claimed:
    """What became of a chunk when its images were claimed.

    Attributes:
        mine: to be worked on now; nobody else will.
        finished: done by another run since the work was planned.
        held: another live run works on them.
    """

    mine: tuple[ListedImage, ...]
    finished: tuple[ListedImage, ...]
    held: tuple[ListedImage, ...]


def scoring_by(model_version: int, calibration_id: str) -> str:
    """The name under which one detector's scoring is claimed."""
    return f"score v{model_version} {calibration_id}"


@contextmanager
def heartbeat(store: ReportStore, owner: str, lease_s: float) -> Iterator[None]:
    """Keep an owner's lease from running out while the block runs; the lease stays for its closer to drop."""
    store.hold_lease(owner, lease_s)
    done = threading.Event()

    def beat() -> None:
        while not done.wait(lease_s / HEARTBEATS_PER_LEASE):
            try:
                store.hold_lease(owner, lease_s)
            except ReportStoreError as error:  # the run itself will meet the same error and end with it
                _log.warning("the lease of %s could not be renewed: %s", owner, error)

    thread = threading.Thread(target=beat, name=f"lease of {owner}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def claim(
    store: ReportStore,
    owner: str,
    line: str,
    work: str,
    images: Sequence[ListedImage],
    finished_among: Callable[[list[tuple[str, str]]], Collection[tuple[str, str]]],
) -> Claimed:
    """Claim what is neither finished nor held by another live run.

    Args:
        store: the report store.
        owner: run or ingest, with a live lease.
        line: the line.
        work: `INGEST` or `scoring_by(...)`.
        images: one chunk.
        finished_among: which of (key, etag) pairs are finished by now. It is asked after claiming: whoever finished an
            image before that has let go of it, and nobody can finish one that we hold.
    """
    claimed = store.claim_images(owner, line, work, [image.identity for image in images])
    finished = finished_among([image.identity for image in images])
    if already := [pair for pair in claimed if pair in finished]:
        store.release_images(owner, line, work, already)
    return Claimed(
        mine=tuple(image for image in images if image.identity in claimed and image.identity not in finished),
        finished=tuple(image for image in images if image.identity in finished),
        held=tuple(image for image in images if image.identity not in claimed and image.identity not in finished),
    )


def wait_for_others(held: Sequence[ListedImage]) -> Sequence[ListedImage]:
    """Give the runs that hold these images a moment to finish them or to die; gives the same images."""
    if held:
        time.sleep(WAIT_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, nothing secret
    return held
