"""The production dates that one run covers."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from tasks.errors import OperatingError


class WindowError(OperatingError, ValueError):
    """Dates that make no window."""


@dataclass(frozen=True)
class Window:
    """Production dates from ``start`` to ``end``, both included."""

    start: date
    end: date

    def __post_init__(self) -> None:
        """Refuse a window that ends before it starts.

        Raises:
            WindowError: naming both dates.
        """
        if self.end < self.start:
            raise WindowError(f"the window ends on {self.end}, before it starts on {self.start}; exchange them")

    @property
    def days(self) -> list[date]:
        """All production dates, ascending."""
        return [self.start + timedelta(days=n) for n in range((self.end - self.start).days + 1)]

    def __contains__(self, day: date) -> bool:
        return self.start <= day <= self.end

    def __str__(self) -> str:
        return str(self.start) if self.start == self.end else f"{self.start} to {self.end}"


def last_production_date(timezone: str, scheduled: datetime | None = None) -> date:
    """The day before, where the line stands: what a nightly run judges when it is given no date.

    Args:
        timezone: the line's.
        scheduled: when the run was to start: one that a worker picks up a day late still judges its own night. Default
            now.
    """
    return (scheduled or datetime.now(UTC)).astimezone(ZoneInfo(timezone)).date() - timedelta(days=1)


def window_of(timezone: str, first: date | None, last: date | None, scheduled: datetime | None = None) -> Window:
    """The window from optional dates: none means `last_production_date`, one means that day."""
    day = last_production_date(timezone, scheduled) if first is None and last is None else None
    start = first or last or day
    end = last or first or day
    assert start is not None
    assert end is not None
    return Window(start, end)
