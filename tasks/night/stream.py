"""Three stages that overlap: the next item is begun and the last one committed while the current one is finished."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Begun = TypeVar("_Begun")
_Finished = TypeVar("_Finished")
_Done = TypeVar("_Done")


def in_stages(
    items: Iterable[_Item],
    begin: Callable[[_Item], _Begun],
    finish: Callable[[_Begun], _Finished],
    commit: Callable[[_Finished], _Done],
    *,
    is_stopping: Callable[[], bool] = lambda: False,
    abandon: Callable[[], None] = lambda: None,
) -> Iterator[_Done]:
    """Give what `commit` gives for each item, in their order.

    `begin` runs in a thread, at most one item ahead; `finish` runs here; `commit` runs in another thread, at most one
    item behind. A slow stage holds up the others, so that three items at most are in memory. The first error of any
    stage ends it all: a commit under way comes to its end, what was begun ahead is not finished.

    Args:
        items: what goes through the stages.
        begin: the first stage, which need not wait for what it sets going.
        finish: the second stage.
        commit: the third stage; nothing is finished after one that failed.
        is_stopping: asked before each item is finished; True leaves out that item and all after it.
        abandon: called when nothing more will be finished, so that what was begun can end early.
    """
    waiting = iter(items)
    with ThreadPoolExecutor(1, "commit") as behind, ThreadPoolExecutor(1, "ahead") as ahead:
        committing: Future[_Done] | None = None
        try:
            coming = _submit_next(ahead, begin, waiting)
            while coming is not None:
                begun = coming.result()
                if is_stopping():
                    break
                coming = _submit_next(ahead, begin, waiting)
                finished = finish(begun)
                del begun
                if committing is not None:
                    yield committing.result()
                committing = behind.submit(commit, finished)
                del finished
        finally:
            abandon()
        if committing is not None:
            yield committing.result()


def _submit_next(
    pool: ThreadPoolExecutor, begin: Callable[[_Item], _Begun], waiting: Iterator[_Item]
) -> Future[_Begun] | None:
    for item in waiting:
        return pool.submit(begin, item)
    return None
