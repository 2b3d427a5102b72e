"""What processes cost: CPU seconds by program and the memory at its highest, looked at from outside."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil

LOOK_EVERY_S = 0.2


@dataclass
class Usage:
    """What a process and its descendants have used since the watch began.

    Attributes:
        cpu_s: CPU seconds by process id.
        peak_bytes: highest sum of the resident memory of all of them.
        peak_of_first_bytes: the same of the process itself.
        wall_s: how long the watch took.
    """

    cpu_s: dict[int, float] = field(default_factory=dict)
    peak_bytes: int = 0
    peak_of_first_bytes: int = 0
    wall_s: float = 0.0

    def cpu_of(self, pid: int) -> float:
        """CPU seconds of one process."""
        return self.cpu_s.get(pid, 0.0)

    @property
    def total_cpu_s(self) -> float:
        """CPU seconds of all."""
        return sum(self.cpu_s.values())


@contextmanager
def watching(pid: int) -> Iterator[Usage]:
    """Watch a process and its descendants while the block runs.

    What a process uses in the last fifth of a second before it ends is missed; processes that live shorter are, too.
    """
    usage, done, before = Usage(), threading.Event(), _cpu_of_tree(pid)
    started = time.perf_counter()

    def look() -> None:
        now = _cpu_of_tree(pid)
        usage.cpu_s.update({one: cpu - before.get(one, 0.0) for one, cpu in now.items()})
        sizes = _memory_of_tree(pid)
        usage.peak_bytes = max(usage.peak_bytes, sum(sizes.values()))
        usage.peak_of_first_bytes = max(usage.peak_of_first_bytes, sizes.get(pid, 0))

    def watch() -> None:
        while not done.wait(LOOK_EVERY_S):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield usage
    finally:
        look()
        done.set()
        thread.join()
        usage.wall_s = time.perf_counter() - started


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process and its descendants have used up to now."""
    return sum(_cpu_of_tree(pid).values())


def child_named(name: str) -> int:
    """The process id of our own child of this name.

    Raises:
        LookupError: if there is none.
    """
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if child.name() == name:
                return child.pid
    raise LookupError(f"no child process is called {name!r}")


def _tree(pid: int) -> list[psutil.Process]:
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.Error:
        return []


def _cpu_of_tree(pid: int) -> dict[int, float]:
    found = {}
    for process in _tree(pid):
        with suppress(psutil.Error):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


def _memory_of_tree(pid: int) -> dict[int, int]:
    found = {}
    for process in _tree(pid):
        with suppress(psutil.Error):
            found[process.pid] = process.memory_info().rss
    return found
