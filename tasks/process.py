"""All that concerns a whole process: its settings, its garbage collector, SIGTERM in the middle of something whole."""

import gc
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2

from ganomaly.acceleration.memory import keep_freed_memory

MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "1.0",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # a server may ask for hours
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""MLflow's own settings where the user has set none: its defaults wait for a silent server for more than 15 minutes."""
OBJECTS_BETWEEN_COLLECTIONS = 10_000
"""With Python's 700 the collector takes a quarter of the time that the start of a flow takes."""


def set_up_process() -> None:
    """Settings of a process that runs flows or asks their systems; a second time changes nothing."""
    for name, value in MLFLOW_DEFAULTS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("botocore").setLevel(logging.WARNING)  # at DEBUG it writes signatures and session tokens
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    cv2.setNumThreads(1)  # each image has a thread already; OpenCV's own would take the cores from them
    keep_freed_memory()


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
