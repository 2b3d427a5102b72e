"""The results of a comparison as CSV and as Markdown: means over seeds. Reads rows, writes files, trains nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from ganomaly.evaluation.paper.experiments import MAIN, METHODS
from ganomaly.evaluation.paper.rows import Row
from ganomaly.evaluation.tables import Mean, mean_over

NONE = "-"


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


def compare(rows: Iterable[Row]) -> list[Comparison]:
    """The main study's rows by data set; those of failed jobs are left out."""
    good = [row for row in rows if row.study == MAIN and row.error is None]
    names = sorted({row.data for row in good})
    return [Comparison(name, tuple(row for row in good if row.data == name)) for name in names]


def write_markdown(rows: Sequence[Row], path: Path, *, command: str, figures: Sequence[str]) -> None:
    """Write the tables and the figures.

    Args:
        rows: all rows of the table.
        path: of the file.
        command: that makes it again.
        figures: paths of pictures relative to the file.
    """
    parts = ["# The paper's comparison", _origin(rows, command)]
    for comparison in compare(rows):
        parts += [f"## {comparison.data}", _settings(comparison), _table(comparison)]
    for study in sorted({row.study for row in rows} - {MAIN}):
        parts += [f"## AUROC against {study}", _study_table([row for row in rows if row.study == study])]
    if failed := [row for row in rows if row.error is not None]:
        parts += ["## Failed", *(f"- {row.job}: {row.error}" for row in failed)]
    parts += [f"![{Path(figure).stem}]({figure})" for figure in figures]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _origin(rows: Sequence[Row], command: str) -> str:
    if not rows:
        return f"No job has finished yet. Made by `{command}`."
    minutes = sum({row.job: row.duration_s for row in rows}.values()) / 60
    return (
        f"Made by `{command}`: {len({row.job for row in rows})} jobs, {minutes:.1f} minutes in all. "
        f"{'; '.join(sorted({row.machine for row in rows}))}.\n\n"
        "AUROC of raw scores, networks in `eval()` mode after the last epoch; nothing was chosen on the test images.\n"
        "Cells are means over seeds ± their standard deviation. **Bold**: the score that the detector flags with.\n"
        "Milliseconds per image are for all scores of the same networks together, read from prepared images."
    )


def _settings(comparison: Comparison) -> str:
    """One line for all methods with the same settings."""
    methods: dict[str, list[str]] = {}
    for method in METHODS:
        if rows := [row for row in comparison.rows if row.method == method]:
            seeds = len({row.seed for row in rows})
            notes = sorted({row.note for row in rows if row.note})
            said = [rows[0].settings, "one seed" if seeds == 1 else f"{seeds} seeds", rows[0].images, *notes]
            methods.setdefault("; ".join(said), []).append(method)
    return "\n".join(f"- {', '.join(names)}: {said}" for said, names in methods.items())


def _table(comparison: Comparison) -> str:
    classes = comparison.classes
    one = len(classes) == 1
    head = ["method", *classes, *([] if one else ["mean"]), "ms per image", "training s"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for label in comparison.labels:
        rows = comparison.of(label)
        cells = [_cell(comparison.mean(label, each)) for each in classes]
        cells += [] if one else [_cell(comparison.mean(label))]
        cells.append(f"{fmean(row.score_ms_per_image or 0.0 for row in rows):.2f}")
        cells.append(f"{fmean(row.train_s or 0.0 for row in rows):.1f}")
        flags = rows[0].flagging and rows[0].score != rows[0].method
        lines.append([f"**{label}**" if flags else label, *cells])
    return _lines(lines)


def _study_table(rows: Sequence[Row]) -> str:
    good = [row for row in rows if row.error is None]
    values = sorted({row.value for row in good if row.value is not None})
    curves = sorted({(row.data, row.abnormal_class, row.label) for row in good})
    lines = [["data", "class", "score", *(f"{value:g}" for value in values)]]
    lines.append(["---", "---", "---", *["---:"] * len(values)])
    for curve in curves:
        mine = [row for row in good if (row.data, row.abnormal_class, row.label) == curve]
        cells = [mean_over([auroc_of(row) for row in mine if row.value == value]) for value in values]
        lines.append([*curve, *map(_cell, cells)])
    return _lines(lines)


def _cell(mean: Mean | None) -> str:
    return NONE if mean is None else str(mean)


def _lines(cells: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
