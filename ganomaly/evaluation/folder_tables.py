"""The measurements of folders as Markdown: means over seeds."""

import statistics
from collections.abc import Sequence

from ganomaly.evaluation.baselines import BASELINES
from ganomaly.evaluation.folders import DETECTOR, FolderRow
from ganomaly.evaluation.tables import mean_over


def markdown(rows: Sequence[FolderRow], command: str, machine: str) -> str:
    """The rows as tables: means over seeds, with the standard deviation of AUROC."""
    names = list(dict.fromkeys(row.data for row in rows))
    lines = [
        f"    {command}",
        "",
        f"{machine}. Means over the seeds {_seeds(rows)}.",
        "",
        *_detector_table(rows, names),
    ]
    lines += ["", *_sure_table(rows, names)]
    return "\n".join([*lines, "", *_method_table(rows, names), "", *_left_out_table(rows, names), ""])


def _detector_table(rows: Sequence[FolderRow], names: Sequence[str]) -> list[str]:
    lines = [
        "| data | good images | AUROC | AUPRO | AUPIMO | good flagged | promised | held | defects missed | unusable "
        "good / defective | fit, s | images/s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in names:
        own = [row for row in rows if row.data == name and row.method == DETECTOR]
        held = sum(bool(row.held) for row in own)
        promised = f"{_mean(own, 'promised'):.1%}"
        if _mean(own, "guaranteed") > _mean(own, "promised") + 1e-9:
            promised += f" (at most {_mean(own, 'guaranteed'):.1%})"
        lines.append(
            f"| {name} | {own[0].train_images} | {_auroc_text(own)} | {_optional(own, 'aupro')} | "
            f"{_optional(own, 'aupimo')} | {_mean(own, 'false_rejects'):.1%} | {promised} | {held} of {len(own)} | "
            f"{_mean(own, 'escapes'):.0%} | {_mean(own, 'unusable_good'):.0f} / {_mean(own, 'unusable_defective'):.0f} "
            f"| {_mean(own, 'fit_s'):.0f} | {_mean(own, 'images_per_s'):.0f} |"
        )
    return lines


def _sure_table(rows: Sequence[FolderRow], names: Sequence[str]) -> list[str]:
    """The second promise, where the detectors make one."""
    of_detector = {name: [row for row in rows if row.data == name and row.method == DETECTOR] for name in names}
    promising = {name: own for name, own in of_detector.items() if all(row.sure_promised is not None for row in own)}
    if not promising:
        return []
    lines = ["| data | promised at most | good sure | defects sure |", "| --- | ---: | ---: | ---: |"]
    return lines + [
        f"| {name} | {_mean(own, 'sure_promised'):.1%} | {_mean(own, 'sure_good'):.1%} | "
        f"{_mean(own, 'sure_defective'):.0%} |"
        for name, own in promising.items()
    ]


def _method_table(rows: Sequence[FolderRow], names: Sequence[str]) -> list[str]:
    methods = list(dict.fromkeys(row.method for row in rows))
    lines = ["AUROC of images:", "", f"| method | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    for method in methods:
        cells = [_auroc_text([row for row in rows if row.data == name and row.method == method]) for name in names]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def _left_out_table(rows: Sequence[FolderRow], names: Sequence[str]) -> list[str]:
    """A table for whoever chooses among the detector and its scores on all other sets."""
    methods = [m for m in dict.fromkeys(row.method for row in rows) if m not in BASELINES]
    if len(names) < 2 or len(methods) < 2:
        return []
    auroc = {(n, m): [r.auroc for r in rows if (r.data, r.method) == (n, m)] for n in names for m in methods}
    common = [m for m in methods if all(auroc[n, m] for n in names)]
    lines = ["Chosen by the mean AUROC on all other sets, reported on the one left out:", ""]
    lines += ["| left out | chosen | AUROC | the detector's |", "| --- | --- | ---: | ---: |"]
    for name in names:
        others = [other for other in names if other != name]
        best = max(common, key=lambda m: statistics.mean(statistics.mean(auroc[o, m]) for o in others))
        found, own = statistics.mean(auroc[name, best]), statistics.mean(auroc[name, DETECTOR])
        lines.append(f"| {name} | {best} | {found:.3f} | {own:.3f} |")
    return lines


def _seeds(rows: Sequence[FolderRow]) -> str:
    return ", ".join(str(seed) for seed in sorted({row.seed for row in rows}))


def _mean(rows: Sequence[FolderRow], field: str) -> float:
    return float(statistics.mean(float(getattr(row, field)) for row in rows))


def _optional(rows: Sequence[FolderRow], field: str) -> str:
    return "-" if getattr(rows[0], field) is None else f"{_mean(rows, field):.3f}"


def _auroc_text(rows: Sequence[FolderRow]) -> str:
    return str(mean_over([row.auroc for row in rows]) or "-")
