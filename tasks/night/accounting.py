"""Counts that must add up: every listed image ends in exactly one of them."""

from dataclasses import astuple, dataclass
from typing import Self


class AccountingError(RuntimeError):
    """The counts of a run do not add up to what was listed."""


class _Counts:
    """What a run did with the images it listed; ``listed`` is known before anything is done."""

    listed: int

    def __add__(self, other: Self) -> Self:
        return type(self)(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))  # type: ignore[call-overload]

    @property
    def accounted(self) -> int:
        """All but those that are listed."""
        raise NotImplementedError

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

    listed: int = 0
    scored: int = 0
    already_scored: int = 0
    unusable: int = 0
    failed: int = 0
    flagged: int = 0

    @property
    def accounted(self) -> int:
        """Scored + already scored + unusable + failed."""
        return self.scored + self.already_scored + self.unusable + self.failed


@dataclass(frozen=True)
class IngestCounts(_Counts):
    """What an ingest did: listed = recorded + already recorded + unusable + failed."""

    listed: int = 0
    recorded: int = 0
    already_recorded: int = 0
    unusable: int = 0
    failed: int = 0

    @property
    def accounted(self) -> int:
        """Recorded + already recorded + unusable + failed."""
        return self.recorded + self.already_recorded + self.unusable + self.failed
