"""What processes cost: CPU seconds by program and the memory at its highest, looked at from outside."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psutil

LOOK_EVERY_S = 1.0  # a look at all processes costs milliseconds, on the same cores


@dataclass
class Usage:
    """What a process and its descendants have used since the watch began.

    Attributes:
        cpu_s: CPU seconds by process id.
        peak_bytes: highest sum of the resident memory of all of them.
    """

    cpu_s: dict[int, float] = field(default_factory=dict)
    peak_bytes: int = 0

    @property
    def total_cpu_s(self) -> float:
        """CPU seconds of all."""
        return sum(self.cpu_s.values())


@contextmanager
def watching(pid: int) -> Iterator[Usage]:
    """Watch a process and its descendants while the block runs.

    What a process uses in the last second before it ends is missed; processes that live shorter are, too.
    """
    usage, done, before = Usage(), threading.Event(), _cpu_of_tree(pid)

    def look() -> None:
        now = _cpu_of_tree(pid)
        usage.cpu_s.update({one: cpu - before.get(one, 0.0) for one, cpu in now.items()})
        usage.peak_bytes = max(usage.peak_bytes, _memory_of_tree(pid))

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


def _memory_of_tree(pid: int) -> int:
    size = 0
    for process in _tree(pid):
        with suppress(psutil.Error):
            size += process.memory_info().rss
    return size
