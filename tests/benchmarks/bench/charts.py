"""Two pictures: where the time of an image goes, and how many times as fast ours is."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tests.benchmarks.bench.night import SERVER_STAGE, Stages
from tests.benchmarks.bench.rows import Row

STAGES_PICTURE, RATIOS_PICTURE = "bench-stages.png", "bench-ratios.png"
DPI = 120


def draw_stages(stages: Stages, path: Path) -> None:
    """CPU time of an image as one bar, stage by stage; the S3 server, which is not ours, in grey."""
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axes = figure.subplots()
    left, total = 0.0, sum(stages.cpu_ms.values())
    for number, (name, cpu_ms) in enumerate(stages.cpu_ms.items()):
        colour = "0.7" if name == SERVER_STAGE else f"C{number + (number > 6)}"  # C7 is grey as well
        axes.barh([0], [cpu_ms], left=[left], color=colour, label=f"{name}, {cpu_ms:.2f} ms")
        if cpu_ms > total / 25:
            axes.text(left + cpu_ms / 2, 0, f"{100 * cpu_ms / total:.0f} %", ha="center", va="center", fontsize=8)
        left += cpu_ms
    axes.set(yticks=[], xlabel="CPU milliseconds for an image, each stage measured alone", xlim=(0, left))
    axes.legend(ncols=3, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    figure.savefig(path, dpi=DPI)


def draw_ratios(rows: Sequence[Row], path: Path) -> bool:
    """The ratios with their ranges; gives whether there are any."""
    compared = [row for row in rows if row.ratio is not None]
    if not compared:
        return False
    figure = Figure(figsize=(9, 1 + 0.3 * len(compared)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(compared)):
        assert row.ratio is not None
        assert row.ratio_low is not None
        assert row.ratio_high is not None
        axes.barh(place, row.ratio, color="C0" if row.ratio >= 1 else "C3")
        axes.plot([row.ratio_low, row.ratio_high], [place, place], color="black", linewidth=1)
        axes.text(max(row.ratio, row.ratio_high), place, f" {row.ratio:.2f}x", va="center", fontsize=8)
    labels = [
        ", ".join(
            [row.workload, row.contestant]
            + [f"{row.size_px} px"] * (row.size_px is not None)
            + [f"{row.threads} threads"] * (row.threads is not None)
        )
        for row in reversed(compared)
    ]
    axes.set(yticks=range(len(compared)), xlabel="ours is faster by (logarithmic)", xscale="log")
    axes.set_yticklabels(labels, fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(x=0.12)
    figure.savefig(path, dpi=DPI)
    return True
