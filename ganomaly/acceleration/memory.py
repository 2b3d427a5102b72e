"""How this process deals with memory that was freed: it is kept for the next batch, and given back when asked to."""

import ctypes
import platform
from functools import cache

# glibc's malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
KEPT_BYTES = 1 << 30
GROWTH_BYTES = 1 << 25


@cache
def keep_freed_memory() -> None:
    """Have glibc keep up to 1 GiB of freed memory, of all threads together; elsewhere nothing happens.

    By itself it gives the blocks of a batch back to the system and asks for them anew, page by page, for the next: up
    to a third of the time of scoring on a CPU. It also keeps a store for each thread, each of which then holds what the
    busiest needed. This concerns the whole process and cannot be undone, so it is done once.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    settings = (
        (_MMAP_MAX, 0),  # or blocks from 32 MiB would be mapped and given back one by one, whatever else is set
        (_TRIM_THRESHOLD, KEPT_BYTES),
        (_TOP_PAD, GROWTH_BYTES),
        (_ARENA_MAX, 1),
    )
    mallopt = ctypes.CDLL(None).mallopt
    for name, value in settings:
        mallopt(name, value)


def give_back_freed_memory() -> None:
    """Have glibc give freed memory back to the system, wherever it lies; elsewhere nothing happens.

    Threads that score leave holes between what is in use, so that a process grows with the night although no more is
    in use. The next batch has to ask for its memory again, so this is for now and then, not for every batch.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
