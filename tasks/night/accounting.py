"""Counts that must add up: every listed image ends in exactly one of them."""

from dataclasses import astuple, dataclass
from typing import Self


class AccountingError(RuntimeError):
    """The counts of a run do not add up to what was listed."""


@dataclass(frozen=True)
class RunCounts:
    """What a scoring run did with the images it listed: listed = scored + already scored + unusable + failed.

    ``listed`` is known before anything is done, the others are counted as they happen. ``flagged`` counts those among
    ``scored`` whose score exceeds the reject limit.
    """

    listed: int = 0
    scored: int = 0
    already_scored: int = 0
    unusable: int = 0
    failed: int = 0
    flagged: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def accounted(self) -> int:
        """Scored + already scored + unusable + failed."""
        return self.scored + self.already_scored + self.unusable + self.failed

    def reconcile(self) -> None:
        """Check that every listed image is accounted for.

        Raises:
            AccountingError: with all counts.
        """
        if self.accounted != self.listed:
            raise AccountingError(f"{self.listed} images were listed, but {self.accounted} are accounted for: {self}")


@dataclass(frozen=True)
class IngestCounts:
    """What an ingest did with the images it listed: listed = recorded + already recorded + unusable + failed."""

    listed: int = 0
    recorded: int = 0
    already_recorded: int = 0
    unusable: int = 0
    failed: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def accounted(self) -> int:
        """Recorded + already recorded + unusable + failed."""
        return self.recorded + self.already_recorded + self.unusable + self.failed

    def reconcile(self) -> None:
        """Check that every listed image is accounted for.

        Raises:
            AccountingError: with all counts.
        """
        if self.accounted != self.listed:
            raise AccountingError(f"{self.listed} images were listed, but {self.accounted} are accounted for: {self}")
