"""The rows as Parquet and as Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import pandas as pd

from tests.benchmarks.bench.rows import Row


def write(folder: Path, rows: Sequence[Row], machine: dict[str, str], pictures: Iterable[str], command: str) -> Path:
    """Write ``bench.parquet`` and ``bench.md`` into a folder; gives the latter's path."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame([asdict(row) for row in rows]).assign(**{f"machine {name}": v for name, v in machine.items()})
    frame.to_parquet(folder / "bench.parquet", index=False)
    path = folder / "bench.md"
    path.write_text(markdown(rows, machine, pictures, command), encoding="utf-8")
    return path


def markdown(rows: Sequence[Row], machine: dict[str, str], pictures: Iterable[str], command: str) -> str:
    """The whole document; the command is the one that makes it again."""
    where = "\n".join(f"| {name} | {value} |" for name, value in machine.items())
    tables = "\n\n".join(
        f"## {workload}\n\n{_table(list(group))}" for workload, group in groupby(rows, lambda row: row.workload)
    )
    shown = "\n\n".join(f"![{Path(name).stem.replace('-', ' ')}]({name})" for name in pictures)
    return (
        f"# Benchmark\n\nWritten by `{command}`; what each workload does stands in `tests/benchmarks/bench/`.\n"
        "Contestants are measured in turns within one run. A value is the median of the rounds, beside it the smallest "
        "and the\nlargest. A ratio says how many times as fast this project is; it is taken round by round, and its "
        f"median is shown.\n\n| | |\n| --- | --- |\n{where}\n\n{tables}\n" + (f"\n{shown}\n" if shown else "")
    )


def _table(rows: list[Row]) -> str:
    head = "| | px | threads | median | range | unit | CPU ms/image | ours is faster by | |\n"
    head += "| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- |\n"
    return head + "\n".join(_line(row) for row in rows)


def _line(row: Row) -> str:
    spread = f"{_number(row.low)} .. {_number(row.high)}" if row.rounds > 1 else ""
    ratio = ""
    if row.ratio is not None and row.ratio_low is not None and row.ratio_high is not None:
        ratio = f"{row.ratio:.2f}x"
        if row.rounds > 1:
            ratio += f" ({row.ratio_low:.2f} .. {row.ratio_high:.2f})"
    cells = (
        row.contestant,
        "" if row.size_px is None else str(row.size_px),
        "" if row.threads is None else str(row.threads),
        _number(row.median),
        spread,
        row.unit,
        "" if row.cpu_ms is None else f"{row.cpu_ms:.3f}",
        ratio,
        row.note,
    )
    return "| " + " | ".join(cells) + " |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
