"""Means over seeds, and rows as CSV: shared by the benchmark of folders and the paper's comparison."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any


@dataclass(frozen=True)
class Mean:
    """Mean over seeds with its deviation.

    Attributes:
        value: the mean.
        deviation: standard deviation of the seeds; None for a single one.
        seeds: how many.
    """

    value: float
    deviation: float | None
    seeds: int

    def __str__(self) -> str:
        return f"{self.value:.3f}" + (f" ± {self.deviation:.3f}" if self.deviation is not None else "")


def mean_over(values: Sequence[float]) -> Mean | None:
    """The mean of one value for each seed, None without any."""
    if not values:
        return None
    return Mean(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def write_csv(rows: Sequence[Any], path: Path) -> None:
    """Write rows of one dataclass as they are, one column for each field."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
