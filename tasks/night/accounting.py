"""Counts that must add up: every listed image ends in exactly one of them."""

from dataclasses import astuple, dataclass, fields
from typing import Self


class AccountingError(RuntimeError):
    """The counts of a run do not add up to what was listed."""


@dataclass(frozen=True)
class _Counts:
    """Numbers of images; ``listed`` is known before anything is done with them."""

    listed: int = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def accounted(self) -> int:
        """The sum of all but those that are listed; ``flagged`` are among others."""
        return sum(getattr(self, one.name) for one in fields(self) if one.name not in ("listed", "flagged"))

    def reconcile(self) -> None:
        """Check that every listed image is accounted for.

        Raises:
            AccountingError: with all counts.
        """
        if self.accounted != self.listed:
            raise AccountingError(f"{self.listed} images were listed, but {self.accounted} are accounted for: {self}")


@dataclass(frozen=True)
class RunCounts(_Counts):
    """What a scoring run did: listed = scored + already scored + unusable + failed.

    ``flagged`` counts those among ``scored`` whose score exceeds the reject limit.
    """

    scored: int = 0
    already_scored: int = 0
    unusable: int = 0
    failed: int = 0
    flagged: int = 0


@dataclass(frozen=True)
class IngestCounts(_Counts):
    """What an ingest did: listed = recorded + already recorded + unusable + failed."""

    recorded: int = 0
    already_recorded: int = 0
    unusable: int = 0
    failed: int = 0
