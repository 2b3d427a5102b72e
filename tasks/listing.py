"""What lies in the bucket for a window: images of the line, and objects that are none."""

from dataclasses import dataclass
from datetime import date, datetime

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.retries import NETWORK_STEP
from tasks.systems import Systems
from tasks.window import Window


@dataclass(frozen=True)
class ListedImage:
    """One object of the bucket whose key is that of an image of the line."""

    key: str
    etag: str
    part: str
    view: str
    production_date: date
    captured_at: datetime | None = None
    size_bytes: int | None = None


@dataclass(frozen=True)
class Listing:
    """The objects of a window.

    Attributes:
        images: those whose key follows the line's layout, by key.
        strays: keys under the window's prefix that do not follow it.
    """

    images: tuple[ListedImage, ...]
    strays: tuple[str, ...]

    @property
    def total(self) -> int:
        """Number of objects."""
        return len(self.images) + len(self.strays)


@task(name="list-window", **NETWORK_STEP, cache_policy=NO_CACHE, persist_result=False)
def list_window(systems: Systems, window: Window) -> Listing:
    """List the window's objects and read part, view and production date from their keys."""
    images: list[ListedImage] = []
    strays: list[str] = []
    for prefix in systems.line.listing_prefixes(window.start, window.end):
        for found in systems.objects.list_objects(prefix):
            fields = systems.line.parse_key(found.key)
            if fields is None:
                strays.append(found.key)
            elif fields.date in window:
                images.append(
                    ListedImage(
                        key=found.key,
                        etag=found.etag,
                        part=fields.part,
                        view=fields.view,
                        production_date=fields.date,
                        captured_at=found.modified_at,
                        size_bytes=found.size_bytes,
                    )
                )
    return Listing(tuple(sorted(images, key=lambda image: image.key)), tuple(sorted(strays)))
