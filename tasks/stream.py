"""Three stages that overlap: the next item is fetched and the last one committed while the current one is judged."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Fetched = TypeVar("_Fetched")
_Judged = TypeVar("_Judged")
_Done = TypeVar("_Done")


def in_stages(
    items: Iterable[_Item],
    fetch: Callable[[_Item], _Fetched],
    judge: Callable[[_Fetched], _Judged],
    commit: Callable[[_Judged], _Done],
    *,
    is_stopping: Callable[[], bool] = lambda: False,
    abandon: Callable[[], None] = lambda: None,
) -> Iterator[_Done]:
    """Give what `commit` gives for each item, in their order.

    `fetch` runs in a thread, at most one item ahead; `judge` runs here; `commit` runs in another thread, at most one
    item behind. A slow stage holds up the others, so that three items at most are in memory. The first error of any
    stage ends it all: a commit under way comes to its end, what was fetched ahead is not judged.

    Args:
        items: what goes through the stages.
        fetch: the first stage.
        judge: the second stage.
        commit: the third stage; nothing is judged after one that failed.
        is_stopping: asked before each item is judged; True leaves out that item and all after it.
        abandon: called when nothing more will be judged, so that a fetch under way can end early.
    """
    waiting = iter(items)
    with ThreadPoolExecutor(1, "commit") as behind, ThreadPoolExecutor(1, "fetch ahead") as ahead:
        committing: Future[_Done] | None = None
        try:
            coming = _submit_next(ahead, fetch, waiting)
            while coming is not None:
                fetched = coming.result()
                if is_stopping():
                    break
                coming = _submit_next(ahead, fetch, waiting)
                judged = judge(fetched)
                del fetched
                if committing is not None:
                    yield committing.result()
                committing = behind.submit(commit, judged)
                del judged
        finally:
            abandon()
        if committing is not None:
            yield committing.result()


def _submit_next(
    pool: ThreadPoolExecutor, fetch: Callable[[_Item], _Fetched], waiting: Iterator[_Item]
) -> Future[_Fetched] | None:
    for item in waiting:
        return pool.submit(fetch, item)
    return None
