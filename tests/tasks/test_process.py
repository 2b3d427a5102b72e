"""SIGTERM during a chunk."""

import signal
import subprocess
import sys
import threading

import pytest

from tasks.process import finish_before_stopping


def test_sigterm_waits_for_the_block_and_is_then_delivered() -> None:
    """Broken if a chunk is cut in two, or if the signal is swallowed."""
    handled: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: handled.append(number))
    try:
        with finish_before_stopping():
            signal.raise_signal(signal.SIGTERM)
            assert handled == []
        assert handled == [signal.SIGTERM]
        signal.raise_signal(signal.SIGTERM)
        assert len(handled) == 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_is_delivered_although_the_block_fails() -> None:
    """Broken if an error in the chunk makes a process deaf to the signal that came with it."""
    handled: list[int] = []

    def fail() -> None:
        with finish_before_stopping():
            signal.raise_signal(signal.SIGTERM)
            raise ValueError("the chunk's own")

    before = signal.signal(signal.SIGTERM, lambda number, _frame: handled.append(number))
    try:
        with pytest.raises(ValueError, match="the chunk's own"):
            fail()
        assert handled == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_are_left_alone() -> None:
    """Broken if scoring on a thread fails because only the main thread may handle signals."""
    ran = []

    def work() -> None:
        with finish_before_stopping():
            ran.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ran == [True]


def test_without_a_handler_the_process_ends_after_the_block() -> None:
    """Broken if a process with the system's own handling survives SIGTERM, or dies before the block is done."""
    code = (
        "import signal\nfrom tasks.process import finish_before_stopping\n"
        "with finish_before_stopping():\n    signal.raise_signal(signal.SIGTERM)\n    print('done', flush=True)\n"
        "print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("done\n", -signal.SIGTERM)
