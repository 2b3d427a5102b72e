"""The results table as Parquet and as Markdown: means over seeds, and in words where a network is not better.

Reads rows, writes files; it knows no job and trains nothing.
"""

import types
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import get_args

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from ganomaly.evaluation.drawn_defects import CONTRASTS, KINDS, SIZES
from ganomaly.evaluation.plan import BASELINES, MAIN, METHODS
from ganomaly.evaluation.rows import DefectRow, Row

ARROW_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
EXPECTED = (("ganomaly", "egbad"), ("egbad", "anogan"))
"""What the paper finds: the first above the second."""


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


def auroc_of(row: Row) -> float:
    """AUROC of a row that did not fail."""
    assert row.auroc is not None
    return row.auroc


@dataclass(frozen=True)
class Comparison:
    """The main rows of one data set that did not fail, by method and score.

    Attributes:
        data: name of the data set.
        rows: all of them.
    """

    data: str
    rows: tuple[Row, ...]

    @property
    def classes(self) -> list[str]:
        """The classes, ascending."""
        return sorted({row.abnormal_class for row in self.rows})

    @property
    def labels(self) -> list[str]:
        """Methods with their scores: networks first; of one method the score that flags last."""
        order = {row.label: (METHODS.index(row.method), row.flagging, row.score) for row in self.rows}
        return sorted(order, key=lambda label: order[label])

    def of(self, label: str) -> list[Row]:
        """Rows of one method and score."""
        return [row for row in self.rows if row.label == label]

    def mean(self, label: str, abnormal_class: str | None = None) -> Mean | None:
        """AUROC over seeds: of one class, or of the mean over the classes for seeds that have all of them."""
        rows = self.of(label)
        if abnormal_class is not None:
            return mean_over([auroc_of(row) for row in rows if row.abnormal_class == abnormal_class])
        found = {(row.seed, row.abnormal_class): auroc_of(row) for row in rows}
        whole = [seed for seed in sorted({row.seed for row in rows}) if all((seed, c) in found for c in self.classes)]
        return mean_over([fmean(found[seed, c] for c in self.classes) for seed in whole])

    def flagging(self, method: str) -> str | None:
        """The label of the score that a method flags with, None if the method has no rows here."""
        return next((row.label for row in self.rows if row.method == method and row.flagging), None)


def compare(rows: Iterable[Row]) -> list[Comparison]:
    """The main study's rows by data set; those of failed jobs are left out."""
    good = [row for row in rows if row.study == MAIN and row.error is None]
    names = sorted({row.data for row in good})
    return [Comparison(name, tuple(row for row in good if row.data == name)) for name in names]


def write_parquet(rows: Sequence[Row] | Sequence[DefectRow], path: Path) -> None:
    """Write all rows, one column for each field of their class; of `Row` if there are none."""
    kind = type(rows[0]) if rows else Row
    columns = [pa.field(field.name, ARROW_TYPES[_plain(field.type)]) for field in fields(kind)]
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=pa.schema(columns))
    unfinished = path.with_name(f".{path.name}.part")
    pq.write_table(table, unfinished)
    unfinished.replace(path)


def _plain(annotation: object) -> type:
    """The type of a field without its None."""
    kinds = get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    found = next(kind for kind in kinds if kind is not types.NoneType)
    assert isinstance(found, type)
    return found


def write_markdown(
    rows: Sequence[Row], path: Path, *, command: str, figures: Sequence[str], defects: Sequence[DefectRow] = ()
) -> None:
    """Write the tables, what they say, and the figures.

    Args:
        rows: all rows of the table.
        path: of the file.
        command: that makes it again.
        figures: paths of pictures relative to the file.
        defects: what the jobs of the rows measured with drawn defects.
    """
    parts = ["# Benchmark", _origin(rows, command)]
    for comparison in compare(rows):
        parts += [f"## {comparison.data}", _settings(comparison), _table(comparison), _list(statements(comparison))]
        if drawn := [row for row in defects if row.data == comparison.data]:
            parts += [f"### {comparison.data}: drawn defects", _said_of_drawn(drawn), _defect_table(drawn)]
    for study in sorted({row.study for row in rows} - {MAIN}):
        parts += [f"## AUROC against {study}", _study_table([row for row in rows if row.study == study])]
    if failed := [row for row in rows if row.error is not None]:
        parts += ["## Failed", _list([f"{row.job}: {row.error}" for row in failed])]
    parts += [f"![{Path(figure).stem}]({figure})" for figure in figures]
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    unfinished.replace(path)


def _origin(rows: Sequence[Row], command: str) -> str:
    """How the table was made."""
    if not rows:
        return f"No job has finished yet. Made by `{command}`."
    trainings = {row.job: row.duration_s for row in rows}
    machines = sorted(
        {f"{row.cpu}, {row.threads} of {row.cores} cores used" + (f", {row.gpu}" if row.gpu else "") for row in rows}
    )
    versions = sorted({f"Python {r.python}, torch {r.torch}, OpenCV {r.opencv}, numpy {r.numpy}" for r in rows})
    lines = [
        f"Made by `{command}`: {len(trainings)} jobs, {sum(trainings.values()) / 60:.1f} minutes in all,",
        f"between {min(row.started_at for row in rows)[:16]} and {max(row.started_at for row in rows)[:16]} UTC.",
        f"Code {', '.join(sorted({row.code_version for row in rows}))}. {'; '.join(machines)}. {'; '.join(versions)}.",
        "",
        "AUROC of raw scores, networks in `eval()` mode after the last epoch; nothing was chosen on the test images.",
        "Cells are means over seeds ± their standard deviation. **Bold**: the score that the detector flags with.",
        "Milliseconds per image are for all scores of the same networks together, read from prepared images.",
    ]
    return "\n".join(lines)


def _settings(comparison: Comparison) -> str:
    """One line for all methods with the same settings."""
    methods: dict[str, list[str]] = {}
    for method in METHODS:
        if rows := [row for row in comparison.rows if row.method == method]:
            methods.setdefault(_settings_of(method, rows), []).append(method)
    return _list([f"{', '.join(names)}: {said}" for said, names in methods.items()])


def _settings_of(method: str, rows: Sequence[Row]) -> str:
    said = [f"{rows[0].size_px} px"]
    if method not in BASELINES:
        said += [f"{rows[0].epochs} epochs", f"{rows[0].features} features", f"latent {rows[0].latent_size}"]
    seeds = len({row.seed for row in rows})
    said += ["one seed" if seeds == 1 else f"{seeds} seeds", _counts(rows), *sorted({r.note for r in rows if r.note})]
    return "; ".join(said)


def _counts(rows: Sequence[Row]) -> str:
    """How many images trained and tested; a range where classes differ."""
    kinds = (
        ("trained", [row.train_images for row in rows]),
        ("fitted", [row.fit_images for row in rows]),
        ("calibrated", [row.calibrate_images for row in rows]),
        ("normal tested", [row.test_normal for row in rows]),
        ("abnormal tested", [row.test_abnormal for row in rows]),
    )
    said = (f"{_range([n for n in counts if n is not None])} {what}" for what, counts in kinds)
    return f"images: {', '.join(said)}"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _table(comparison: Comparison) -> str:
    classes = comparison.classes
    one = len(classes) == 1
    head = ["method", *classes, *([] if one else ["mean"]), "ms per image", "training s"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for label in comparison.labels:
        cells = [_cell(comparison.mean(label, each)) for each in classes]
        cells += [] if one else [_cell(comparison.mean(label))]
        times = [(row.score_ms_per_image or 0.0, row.train_s or 0.0) for row in comparison.of(label)]
        cells += [f"{fmean(ms for ms, _ in times):.2f}", f"{fmean(s for _, s in times):.1f}"]
        lines.append([f"**{label}**" if _is_flagging(comparison, label) else label, *cells])
    return _lines(lines)


def _is_flagging(comparison: Comparison, label: str) -> bool:
    """Whether a network has several scores and this is the one that counts."""
    row = comparison.of(label)[0]
    return row.flagging and row.score != row.method


def _cell(mean: Mean | None) -> str:
    return "–" if mean is None else str(mean)  # noqa: RUF001 - a dash, not a minus


def _said_of_drawn(drawn: Sequence[DefectRow]) -> str:
    counts = [row.images for row in drawn]
    return (
        f"Heat maps against defects drawn into {_range(counts)} good test images for each sort and seed: pixel AUROC / "
        "AUPRO / image AUROC, means over seeds and over all sorts of a line. A map that knows nothing has a pixel "
        "AUROC of 0.5 and an AUPRO of 0.15."
    )


def _defect_table(drawn: Sequence[DefectRow]) -> str:
    """Means by kind, by size and by contrast: a column for each method."""
    methods = [method for method in METHODS if any(row.method == method for row in drawn)]
    lines = [["drawn", *methods], ["---", *["---:"] * len(methods)]]
    groups = [("all", list(drawn))]
    for field, names in (("kind", KINDS), ("size", SIZES), ("contrast", CONTRASTS)):
        groups += [(f"{field}: {name}", [row for row in drawn if getattr(row, field) == name]) for name in names]
    for name, rows in groups:
        lines.append([name, *(_figures([row for row in rows if row.method == method]) for method in methods)])
    return _lines(lines)


def _figures(rows: Sequence[DefectRow]) -> str:
    if not rows:
        return "–"  # noqa: RUF001 - a dash, not a minus
    columns = ("pixel_auroc", "aupro", "image_auroc")
    return " / ".join(f"{fmean(getattr(row, column) for row in rows):.3f}" for column in columns)


def _study_table(rows: Sequence[Row]) -> str:
    good = [row for row in rows if row.error is None]
    values = sorted({row.value for row in good if row.value is not None})
    curves = sorted({(row.data, row.abnormal_class, row.label) for row in good})
    lines = [["data", "class", "score", *(f"{value:g}" for value in values)]]
    lines.append(["---", "---", "---", *["---:"] * len(values)])
    for data, abnormal_class, label in curves:
        mine = [r for r in good if (r.data, r.abnormal_class, r.label) == (data, abnormal_class, label)]
        cells = [mean_over([auroc_of(row) for row in mine if row.value == value]) for value in values]
        lines.append([data, abnormal_class, label, *map(_cell, cells)])
    return _lines(lines)


def _lines(cells: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def statements(comparison: Comparison) -> list[str]:
    """What the table says about the paper's order and about the baselines, in sentences."""
    said = []
    for better, worse in EXPECTED:
        rival = comparison.flagging(worse)
        said += [_order(comparison, label, rival) for label in _scores(comparison, better) if rival is not None]
    said += [_against_baselines(comparison, label) for label in comparison.labels if label not in BASELINES]
    return [sentence for sentence in said if sentence]


def _scores(comparison: Comparison, method: str) -> list[str]:
    return [label for label in comparison.labels if comparison.of(label)[0].method == method]


def _order(comparison: Comparison, better: str, worse: str) -> str:
    """Whether the first is above the second, and on which classes it is not."""
    pairs = _pairs(comparison, better, worse)
    if not pairs:
        return ""
    mine, theirs = fmean(a for a, _ in pairs.values()), fmean(b for _, b in pairs.values())
    against = [name for name, (a, b) in pairs.items() if not a > b]
    word = "is above" if mine > theirs else "is **not** above"
    scope = f" over {len(pairs)} classes" if len(pairs) > 1 else ""
    where = f"; not on {', '.join(against)}" if against and len(pairs) > 1 else ""
    return f"{better} {word} {worse}{scope}: {mine:.3f} against {theirs:.3f}{where}."


def _against_baselines(comparison: Comparison, network: str) -> str:
    """A sentence where a network does not beat some baseline, nothing where it beats all."""
    lost, partly = [], []
    for baseline in (label for label in comparison.labels if label in BASELINES):
        pairs = _pairs(comparison, network, baseline)
        against = [name for name, (a, b) in pairs.items() if not a > b]
        if not against:
            continue
        mine, theirs = fmean(a for a, _ in pairs.values()), fmean(b for _, b in pairs.values())
        means = f"{mine:.3f} against {theirs:.3f}"
        if mine > theirs:
            partly.append(f"{baseline} on average but not on {', '.join(against)} ({means})")
        else:
            won = f", better on {len(pairs) - len(against)} of {len(pairs)} classes" if len(pairs) > 1 else ""
            lost.append(f"{baseline} ({means}{won})")
    said = [f"does **not** beat {_and(lost)}"] if lost else []
    said += [f"beats {_and(partly)}"] if partly else []
    return f"{network} {'; it '.join(said)}." if said else ""


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _pairs(comparison: Comparison, first: str, second: str) -> dict[str, tuple[float, float]]:
    """Mean AUROC of both for each class, over the seeds that both have."""
    found: dict[str, tuple[float, float]] = {}
    for abnormal_class in comparison.classes:
        mine, theirs = (
            {row.seed: auroc_of(row) for row in comparison.of(label) if row.abnormal_class == abnormal_class}
            for label in (first, second)
        )
        both = sorted(mine.keys() & theirs.keys())
        if both:
            found[abnormal_class] = fmean(mine[seed] for seed in both), fmean(theirs[seed] for seed in both)
    return found
