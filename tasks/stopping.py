"""SIGTERM while something must not be cut in two: held back until it is done, then delivered."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def finish_before_stopping() -> Iterator[None]:
    """Hold back SIGTERM until the block is done, then deliver it to whoever handles it (Prefect, or the system).

    Python handles signals in the main thread only; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
        if received:
            signal.raise_signal(signal.SIGTERM)
