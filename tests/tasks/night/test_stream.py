"""Stages that overlap."""

import threading
from collections.abc import Iterator

import pytest

from tasks.night.stream import in_stages

SOON_S = 30.0


def test_the_three_stages_overlap() -> None:
    """Broken if the networks wait for the bucket or the report store: none of the stages would meet at the barrier."""
    together = threading.Barrier(3)

    def meet(item: int, at: int) -> int:
        if item == at:
            together.wait(SOON_S)
        return item

    done = in_stages(range(4), lambda i: meet(i, 2), lambda i: meet(i, 1), lambda i: meet(i, 0))
    assert list(done) == [0, 1, 2, 3]


def test_a_slow_stage_holds_up_the_others() -> None:
    """Broken if a slow report store lets the whole night's images pile up in memory."""
    drawn: list[int] = []
    released = threading.Event()

    def items() -> Iterator[int]:
        for number in range(10):
            drawn.append(number)
            yield number

    def commit(item: int) -> int:
        assert released.wait(SOON_S)
        return len(drawn) - item

    threading.Timer(0.3, released.set).start()
    assert max(in_stages(items(), lambda i: i, lambda i: i, commit)) <= 3


@pytest.mark.parametrize("stage", ["fetch", "judge", "commit"])
def test_an_error_of_any_stage_ends_the_stream(stage: str) -> None:
    """Broken if a chunk is lost without a word, or if anything goes on after a commit that failed."""
    committed: list[int] = []
    abandoned: list[bool] = []

    def step(name: str, item: int) -> int:
        if name == stage and item == 2:
            raise ValueError(name)
        if name == "commit":
            committed.append(item)
        return item

    stream = in_stages(
        range(9),
        lambda i: step("fetch", i),
        lambda i: step("judge", i),
        lambda i: step("commit", i),
        abandon=lambda: abandoned.append(True),
    )
    with pytest.raises(ValueError, match=stage):
        list(stream)
    assert committed == [0, 1]
    assert abandoned == [True]


def test_who_is_to_stop_finishes_what_was_judged() -> None:
    """Broken if SIGTERM cuts a chunk in two, or waits for the rest of the night."""
    judged: list[int] = []

    def judge(item: int) -> int:
        judged.append(item)
        return item

    done = list(in_stages(range(100), lambda i: i, judge, lambda i: i, is_stopping=lambda: len(judged) == 2))
    assert done == judged == [0, 1]
