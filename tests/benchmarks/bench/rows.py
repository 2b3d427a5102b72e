"""A row of the result, and ratios taken round by round: what disturbs one round disturbs both of its halves."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        workload: what was done, such as ``training step``.
        contestant: by whom, or which stage of ours.
        size_px: side of the network's input; None where there is none.
        threads: of torch.
        unit: of the values.
        median, low, high: of the rounds.
        rounds: how many there were.
        cpu_ms: CPU milliseconds for an image, median; None where not measured.
        ratio: median over the rounds of ours / this one (of speeds), None for ours and where nobody competes.
        ratio_low, ratio_high: smallest and largest of the rounds.
        note: what a reader must know.
    """

    workload: str
    contestant: str
    unit: str
    median: float
    low: float
    high: float
    rounds: int = 1
    size_px: int | None = None
    threads: int | None = None
    cpu_ms: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    note: str = ""


def row_of(
    workload: str,
    contestant: str,
    unit: str,
    values: Sequence[float],
    *,
    size_px: int | None = None,
    threads: int | None = None,
    cpu_ms: float | None = None,
    ratios: Sequence[float] = (),
    note: str = "",
) -> Row:
    """The row of one figure's values, one for each round, with the ratios of the same rounds."""
    return Row(
        workload=workload,
        contestant=contestant,
        unit=unit,
        median=statistics.median(values),
        low=min(values),
        high=max(values),
        rounds=len(values),
        size_px=size_px,
        threads=threads,
        cpu_ms=cpu_ms,
        ratio=statistics.median(ratios) if ratios else None,
        ratio_low=min(ratios, default=None),
        ratio_high=max(ratios, default=None),
        note=note,
    )


def ratios_of(ours: Sequence[float], theirs: Sequence[float], *, smaller_is_better: bool = False) -> list[float]:
    """How many times as fast ours is, for each round."""
    pairs = zip(ours, theirs, strict=True)
    return [b / a if smaller_is_better else a / b for a, b in pairs]
