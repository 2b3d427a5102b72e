"""What lies in the bucket for a window: images of the line, and objects that are none."""

from dataclasses import dataclass
from datetime import date, datetime

from prefect import task

from tasks.bucket.bucket import ObjectInfo
from tasks.lines.line import LineConfig
from tasks.lines.window import Window
from tasks.process import imports_left_alone
from tasks.report.report import STRAY_KEY, STRAY_SIZE
from tasks.steps import NETWORK_STEP
from tasks.systems import Systems

NUL_PICTURE = "\u2400"  # what stands for a NUL in a report store that cannot hold one


@dataclass(frozen=True, slots=True)  # a night has a million
class ListedImage:
    """One object of the bucket whose key is that of an image of the line."""

    key: str
    etag: str
    part: str
    view: str
    production_date: date
    captured_at: datetime | None = None
    size_bytes: int | None = None

    @property
    def identity(self) -> tuple[str, str]:
        """What tells an image from every other of its line: (key, etag)."""
        return self.key, self.etag


@dataclass(frozen=True)
class Stray:
    """An object under the window's prefix that cannot be judged, which its key or its size already says.

    Attributes:
        key: of the object.
        etag: of the object.
        reason: one of `tasks.report.report.STRAY_REASONS`.
        detail: what was found and what is allowed.
    """

    key: str
    etag: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Listing:
    """The objects of a window.

    Attributes:
        images: those whose key follows the line's layout, by key.
        strays: the others, by key; they count as unusable and are never fetched.
        ignored: how many more there are that `images.ignore` names; they count nowhere.
    """

    images: tuple[ListedImage, ...]
    strays: tuple[Stray, ...]
    ignored: int = 0

    @property
    def total(self) -> int:
        """Number of objects, without those that are ignored."""
        return len(self.images) + len(self.strays)


@task(name="list-window", **NETWORK_STEP, persist_result=False)
def list_window(systems: Systems, window: Window) -> Listing:
    """List the window's objects and read part, view and production date from their keys."""
    images: list[ListedImage] = []
    strays: list[Stray] = []
    ignored = 0
    with imports_left_alone():
        for prefix in systems.line.listing_prefixes(window.start, window.end):
            for found in systems.objects.list_objects(prefix):
                if systems.line.is_own(found.key):
                    continue
                if systems.line.ignores(found.key):
                    ignored += 1
                    continue
                item = _identify(systems.line, window, found)
                if isinstance(item, Stray):
                    strays.append(item)
                elif item is not None:
                    images.append(item)
    return Listing(tuple(sorted(images, key=_key)), tuple(sorted(strays, key=_key)), ignored)


def _identify(line: LineConfig, window: Window, found: ObjectInfo) -> ListedImage | Stray | None:
    """What an object is for this window; None for an image of another production date."""
    fields = line.parse_key(found.key)
    if fields is None:
        detail = f"does not follow {line.images.prefix}{line.images.key_pattern}"
        return Stray(storable(found.key), found.etag, STRAY_KEY, detail)
    if fields.date not in window:
        return None
    if found.size_bytes > line.images.max_bytes:
        detail = f"the object has {found.size_bytes} bytes, images.max_bytes allows {line.images.max_bytes}"
        return Stray(found.key, found.etag, STRAY_SIZE, detail)
    return ListedImage(
        key=found.key,
        etag=found.etag,
        part=fields.part,
        view=fields.view,
        production_date=fields.date,
        captured_at=found.modified_at,
        size_bytes=found.size_bytes,
    )


def storable(key: str) -> str:
    """The key as the report store holds it."""
    return key.replace("\x00", NUL_PICTURE)


def _key(item: ListedImage | Stray) -> str:
    return item.key
