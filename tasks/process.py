"""What concerns the whole process of a flow: the garbage collector, and SIGTERM in the middle of something whole."""

import gc
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def imports_left_alone() -> Iterator[None]:
    """Keep the garbage collector from what there is already: it takes 0.3 s, in which nothing else can run."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def finish_before_stopping() -> Iterator[Callable[[], bool]]:
    """Hold back SIGTERM until the block is done, then deliver it to whoever handles it (Prefect, or the system).

    Gives a function that says whether one is held back: a long block asks it, to come to its end soon.

    Python handles signals in the main thread only; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
        if received:
            signal.raise_signal(signal.SIGTERM)
