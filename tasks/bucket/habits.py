"""What is learned about a server while it is used: whether it is away for long, and what its ETags mean."""

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import md5
from threading import Lock

from tasks.bucket.failures import OUTAGE_S, OutageError

OUTAGE_FAILURES = 20
FOREIGN_ETAGS = 3
_MD5 = re.compile(r"[0-9a-f]{32}")

_log = logging.getLogger(__name__)


class Outage:
    """Whether the server leaves everybody without an answer, for so long that no further request should wait for it.

    In a short outage each request waits out its own attempts. After `OUTAGE_S` and `OUTAGE_FAILURES` attempts in a row
    without one answer, a request gets one attempt, and while one is under way the others fail unsent: ten thousand
    images of a night then cost a few timeouts, not ten thousand times five. The first answer ends it. botocore's own
    quota is spent after some 35 attempts, which 16 threads make in a second.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._under_way = Lock()
        self._failures = 0
        self._since = 0.0

    def note(self, *, answered: bool) -> None:
        """Say whether an attempt was answered."""
        with self._lock:
            if answered:
                self._failures = 0
                return
            if self._failures == 0:
                self._since = time.monotonic()
            self._failures += 1

    def begins(self) -> bool:
        """Whether the latest attempt of all stayed without an answer."""
        return self._failures > 0

    def lasts(self) -> bool:
        """Whether no further request should wait for the server."""
        with self._lock:
            return self._failures >= OUTAGE_FAILURES and time.monotonic() - self._since >= OUTAGE_S

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Send a request in the block, unless the server is away and another one is finding out.

        Raises:
            OutageError: where the request is not to be sent.
        """
        if not self.lasts():
            yield
            return
        if not self._under_way.acquire(blocking=False):
            raise OutageError
        try:
            yield
        finally:
            self._under_way.release()


class EtagCheck:
    """Compares what came with its ETag, which is the MD5 of the content on most servers, but not on all.

    Unequal bytes are read again. On a server whose ETags were right at least once, an object that is never equal is
    corrupted. Where none was right so far, the same bytes twice mean that ETags are something else there: they are
    accepted with a warning, and after `FOREIGN_ETAGS` such objects nothing is compared any more. Amazon's encrypted
    objects, whose ETags are no MD5 either, say so themselves and do not come here.
    """

    def __init__(self) -> None:
        self._right_once = False
        self._foreign = 0

    def accept(self, uri: str, etag: str, data: bytes, came: set[str]) -> bool:
        """Whether `data` may be the object's; `came` holds the digests of earlier attempts and gets this one."""
        if not _MD5.fullmatch(etag) or (self._foreign >= FOREIGN_ETAGS and not self._right_once):
            return True
        digest = md5(data, usedforsecurity=False).hexdigest()
        if digest == etag:
            self._right_once = True
            return True
        if digest not in came or self._right_once:
            came.add(digest)
            return False
        self._foreign += 1
        _log.warning("%s: its ETag is not the MD5 of its content; accepted, because two reads gave the same", uri)
        return True
