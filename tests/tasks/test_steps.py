"""Large arguments of tasks."""

import pytest
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from tasks.steps import quote


class SearchedError(RuntimeError):
    """Somebody looked into the argument."""


class Fragile(list[int]):
    """A list that minds being searched."""

    def __iter__(self):  # type: ignore[no-untyped-def]
        raise SearchedError


@task(cache_policy=NO_CACHE, persist_result=False)
def length(values: list[int]) -> int:
    """How many there are."""
    return len(values)


@flow
def hand_over(values: list[int]) -> int:
    """Hand values to a task as they are."""
    return length(quote(values))


@flow
def hand_over_plainly() -> int:
    """Hand values to a task as Prefect does."""
    return length(Fragile([1, 2]))


@flow
def hand_over_quote() -> int:
    """Hand the same values over quote."""
    return length(quote(Fragile([1, 2])))


@pytest.mark.usefixtures("prefect_server")
def test_prefect_does_not_look_into_it() -> None:
    """A night of a million images would wait for minutes before each task, or the task get something else."""
    assert hand_over([1, 2, 3]) == 3
    assert hand_over_quote() == 2
    with pytest.raises(SearchedError):
        hand_over_plainly()
