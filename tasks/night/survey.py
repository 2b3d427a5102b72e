"""What lies under a line's prefix that no run has looked at: late uploads, wrong clocks, idle days, odd folders."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import islice

from prefect import task
from prefect.logging import get_run_logger

from tasks.bucket.bucket import ObjectInfo
from tasks.lines.line import LineConfig
from tasks.lines.window import Window
from tasks.night.listing import storable
from tasks.night.lookback import days_to_revisit
from tasks.steps import NETWORK_STEP
from tasks.systems import Systems

AT_ONCE = 1000
"""Objects of which the report store is asked together."""
NAMED_IN_LOG = 10


@dataclass(frozen=True)
class Unseen:
    """Objects that no run has looked at.

    Attributes:
        folders: how many lie in each folder, of a day or right below the line's prefix, the fullest first.
        days: the production dates of those whose key follows the line's layout, ascending.
    """

    folders: Mapping[str, int]
    days: tuple[date, ...]

    @property
    def total(self) -> int:
        """Number of objects."""
        return sum(self.folders.values())


@task(name="survey", **NETWORK_STEP, persist_result=False)
def survey(systems: Systems, besides: Collection[date]) -> Unseen:
    """Look through the line's whole prefix for objects that no run has recorded, judged or named.

    Args:
        systems: of the line.
        besides: production dates that are left out, beside today's, which is still going on.
    """
    line, logger = systems.line, get_run_logger()
    left_out = {*besides, line.today()}
    folders: Counter[str] = Counter()
    days: set[date] = set()
    candidates = _candidates(systems, left_out)
    while some := list(islice(candidates, AT_ONCE)):
        for found in _unseen(systems, some):
            fields = line.parse_key(found.key)
            folders[_folder(line, found.key) if fields is None else line.prefix_for(fields.date)] += 1
            days |= set() if fields is None else {fields.date}
    unseen = Unseen(dict(folders.most_common()), tuple(sorted(days)))
    for folder, count in list(unseen.folders.items())[:NAMED_IN_LOG]:
        logger.warning("%d objects in %r were never looked at", count, folder)
    if unseen.total:
        logger.warning("%d objects in all were never looked at; %s", unseen.total, way_out(line, unseen))
    return unseen


def elsewhere(systems: Systems, window: Window) -> Unseen:
    """What no run has looked at outside a window, and outside the days that the night looks at again."""
    if not systems.line.scoring.survey:
        return Unseen({}, ())
    revisited = [day for day, _ in days_to_revisit(systems, window.end)]
    return survey(systems, [*window.days, *revisited])


def way_out(line: LineConfig, unseen: Unseen) -> str:
    """What a person can do about it."""
    if unseen.days:
        return (
            f"judge those whose keys have a production date with `inspection catch-up {line.name}`; for others see "
            "images.key_pattern, images.ignore"
        )
    return (
        f"their keys do not follow {line.images.prefix}{line.images.key_pattern}: see images.key_pattern, images.ignore"
    )


def _candidates(systems: Systems, left_out: Collection[date]) -> Iterator[ObjectInfo]:
    line, folders = systems.line, tuple(systems.line.prefix_for(day) for day in left_out)
    for found in systems.objects.list_objects(line.images.prefix):
        if line.ignores(found.key) or line.is_own(found.key):
            continue
        fields = line.parse_key(found.key)
        # another run's listing names what lies in a day's folder and is no image
        known = found.key.startswith(folders) if fields is None else fields.date in left_out
        if not known:
            yield found


def _folder(line: LineConfig, key: str) -> str:
    """The folder right below the line's prefix; the prefix itself for an object that lies in it."""
    first, slash, _ = key.removeprefix(line.images.prefix).partition("/")
    return f"{line.images.prefix}{first}/" if slash else line.images.prefix


def _unseen(systems: Systems, some: Sequence[ObjectInfo]) -> list[ObjectInfo]:
    named = [(storable(found.key), found.etag) for found in some]
    seen = systems.store.images.among(systems.line.name, named) | systems.store.runs.named(systems.line.name, named)
    return [found for found, name in zip(some, named, strict=True) if name not in seen]
