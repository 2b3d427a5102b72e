"""How many cores there are, and batches of images spread over them.

Instead of `on_all_cores` a plain loop would do. Torch's own threads share the work within every layer and wait for each
other there: on networks this small two cores are then hardly faster than one.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


def usable_cores() -> int:
    """Cores that the system lets this process run on, where it says so; otherwise all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_all_cores(work: Callable[[_Item], _Found], items: Sequence[_Item], device: torch.device) -> list[_Found]:
    """What the work makes of each item, in order; on a CPU several at once, each on one core."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or len(items) < 2:
        return [work(item) for item in items]
    torch.set_num_threads(1)  # holds for threads that begin from now on
    try:
        with ThreadPoolExecutor(threads, thread_name_prefix="judge") as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(threads)
