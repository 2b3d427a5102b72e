"""The figures of the paper's section 4, drawn from rows and saved arrays: redrawing trains nothing.

Each function takes data and returns a matplotlib figure; `draw_all` knows which there are and writes them as PNG.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from ganomaly.evaluation.baselines import BASELINES
from ganomaly.evaluation.paper.experiments import STUDIES
from ganomaly.evaluation.paper.rows import Row, read_arrays
from ganomaly.evaluation.paper.tables import Comparison, auroc_of, compare
from ganomaly.evaluation.tables import Mean, mean_over

NORMAL, ABNORMAL = "#4c78a8", "#c0392b"
NETWORK_COLOURS = ("#1b7f5c", "#0b3d91", "#c0392b", "#e08214", "#7b3294", "#2aa1c0", "#a6761d", "#444444")
NETWORK_MARKERS = "osD^vP*X"
WEIGHTS = [study for study in STUDIES if study.startswith("weight_")]
DPI = 120
BINS = 40


def draw_all(rows: Sequence[Row], runs: Path, folder: Path) -> list[Path]:
    """Draw every figure that rows of a comparison's folder allow into another; those of an earlier call are removed.

    Returns:
        The files, in the order in which a reader wants them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in _figures(rows, runs):
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=DPI)
        written.append(path)
    for stale in set(folder.glob("*.png")) - set(written):
        stale.unlink()
    return written


def _figures(rows: Sequence[Row], runs: Path) -> Iterator[tuple[str, Figure]]:
    comparisons = compare(rows)
    lines = [comparison for comparison in comparisons if comparison.classes == ["abnormal"]]
    if lines:
        yield "auroc-lines", line_figure(lines)
    for comparison in comparisons:
        if comparison not in lines:
            yield f"auroc-{comparison.data}", class_figure(comparison)
        yield f"time-{comparison.data}", time_figure(comparison)
    good = [row for row in rows if row.error is None]
    if latent := [row for row in good if row.study == "latent_size"]:
        yield "latent-size", study_figure({"latent_size": latent}, {"latent_size": "latent size"})
    if weights := {study: found for study in WEIGHTS if (found := [row for row in good if row.study == study])}:
        yield "loss-weights", study_figure(weights, dict(zip(weights, weights, strict=True)))
    for comparison in comparisons:
        for job, title in _pictured(comparison).items():
            arrays, name = read_arrays(runs, job), title.replace(", unseen ", "-")
            yield f"scores-{name}", histogram_figure(arrays, title)
            yield f"tsne-{name}", embedding_figure(arrays, title)
            yield f"reconstructions-{name}", reconstruction_figure(arrays, title)


def _pictured(comparison: Comparison) -> dict[str, str]:
    """GANomaly's job of the smallest seed for each class, with a title."""
    rows = [row for row in comparison.rows if row.method == "ganomaly"]
    first = {row.abnormal_class: row for row in sorted(rows, key=lambda row: -row.seed)}
    what = {name: comparison.data if name == "abnormal" else f"{comparison.data}, unseen {name}" for name in first}
    return {row.job: what[name] for name, row in sorted(first.items())}


@dataclass(frozen=True)
class Place:
    """A group of points in a figure: one class of a data set, or the mean over its classes."""

    name: str
    comparison: Comparison
    abnormal_class: str | None

    def mean(self, label: str) -> Mean | None:
        """AUROC of a method and score here."""
        return self.comparison.mean(label, self.abnormal_class)


def class_figure(comparison: Comparison) -> Figure:
    """AUROC of each method and score for each class that was unseen, and their mean."""
    places = [Place(name, comparison, name) for name in comparison.classes]
    places += [Place("mean", comparison, None)] if len(places) > 1 else []
    return auroc_figure(places, comparison.data, "class that is abnormal and unseen")


def line_figure(comparisons: Sequence[Comparison]) -> Figure:
    """AUROC of each method and score for data that is good or bad, side by side."""
    places = [Place(comparison.data, comparison, comparison.classes[0]) for comparison in comparisons]
    return auroc_figure(places, "defective against good parts", "")


def auroc_figure(places: Sequence[Place], title: str, xlabel: str) -> Figure:
    """Means over seeds with their deviation as error bar; networks in colours, baselines hollow and grey."""
    order: dict[str, None] = {}
    for place in places:
        order |= dict.fromkeys(place.comparison.labels)
    networks = [label for label in order if label not in BASELINES]
    labels = [*networks, *(label for label in BASELINES if label in order)]
    figure = Figure(figsize=(max(7.0, 2.5 + 0.13 * len(labels) * len(places)), 4.8), layout="constrained")
    axes = figure.subplots()
    for i, label in enumerate(labels):
        style = _baseline_style(label) if label in BASELINES else _network_style(networks.index(label))
        shift = (i - (len(labels) - 1) / 2) * 0.8 / len(labels)
        _draw_points(axes, [place.mean(label) for place in places], shift, label, style)
    for n in range(len(places) - 1):
        axes.axvline(n + 0.5, color="#e5e5e5", linewidth=1, zorder=0)
    axes.axhline(0.5, color="#888888", linewidth=1, linestyle=":", zorder=0)
    axes.set_xticks(range(len(places)), [place.name for place in places])
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.set(ylabel="AUROC", xlabel=xlabel)
    figure.suptitle(f"{title} ({_seeds(places)})")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def _draw_points(axes: Axes, means: Sequence[Mean | None], shift: float, label: str, style: dict[str, Any]) -> None:
    points = [(n + shift, mean) for n, mean in enumerate(means) if mean is not None]
    barred = [(x, mean.value, mean.deviation) for x, mean in points if mean.deviation is not None]
    if barred:
        x, y, deviation = zip(*barred, strict=True)
        axes.errorbar(x, y, deviation, linestyle="none", color=style["color"], capsize=3, linewidth=1.2)
    axes.plot([x for x, _ in points], [mean.value for _, mean in points], label=label, **style)


def _network_style(i: int) -> dict[str, Any]:
    colour, marker = NETWORK_COLOURS[i % len(NETWORK_COLOURS)], NETWORK_MARKERS[i % len(NETWORK_MARKERS)]
    return {"color": colour, "marker": marker, "markersize": 6, "linestyle": "none"}


def _baseline_style(label: str) -> dict[str, Any]:
    marker = "osD"[list(BASELINES).index(label)]
    hollow = {"markerfacecolor": "white", "markeredgewidth": 1.5}
    return {"color": "#7f7f7f", "marker": marker, "markersize": 6, "linestyle": "none", **hollow}


def _seeds(places: Sequence[Place]) -> str:
    count = max(len({row.seed for row in place.comparison.rows}) for place in places)
    return "one seed" if count == 1 else f"bars: standard deviation over up to {count} seeds"


def time_figure(comparison: Comparison) -> Figure:
    """Milliseconds per image of each method, the fastest on top."""
    times: dict[str, list[float]] = {}
    for row in comparison.rows:
        if row.score_ms_per_image is not None:
            times.setdefault(row.method, []).append(row.score_ms_per_image)
    means = sorted((fmean(found), method) for method, found in times.items())
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(means)), layout="constrained")
    axes = figure.subplots()
    colours = ["#9a9a9a" if method in BASELINES else NORMAL for _, method in means]
    bars = axes.barh([method for _, method in means], [value for value, _ in means], color=colours)
    axes.bar_label(bars, [f"{value:.3g}" for value, _ in means], padding=4)
    machine = comparison.rows[0].machine.split(";")[0]
    axes.set(xscale="log", xlabel="milliseconds per image", title=f"{comparison.data} on {machine}")
    axes.set_xlim(means[0][0] / 2, means[-1][0] * 4)
    axes.invert_yaxis()
    return figure


def study_figure(studies: Mapping[str, Sequence[Row]], names: Mapping[str, str]) -> Figure:
    """AUROC of GANomaly's scores against a setting: one column for each study, one curve for each class and score."""
    figure = Figure(figsize=(4.2 * len(studies) + 3.2, 4.2), layout="constrained")
    panels = figure.subplots(1, len(studies), squeeze=False, sharey=True)[0]
    for axes, (study, rows) in zip(panels, studies.items(), strict=True):
        _draw_study(axes, rows)
        axes.set(xlabel=names[study])
    panels[0].set_ylabel("AUROC")
    panels[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def _draw_study(axes: Axes, rows: Sequence[Row]) -> None:
    values = sorted({row.value for row in rows if row.value is not None})
    # equal steps: the values are a geometric series that may start at 0
    axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    scores = sorted({row.score for row in rows})
    for i, (data, name) in enumerate(sorted({(row.data, row.abnormal_class) for row in rows})):
        for score, line in zip(scores, ("-", "--", "-.", ":"), strict=False):
            curve = [r for r in rows if (r.data, r.abnormal_class, r.score) == (data, name, score)]
            means = [mean_over([auroc_of(r) for r in curve if r.value == value]) for value in values]
            label = f"{data} ({score})" if name == "abnormal" else f"{data} {name} ({score})"
            style = _network_style(i) | {"linestyle": line}
            _draw_points(axes, means, 0.0, label, style)
    axes.axhline(0.5, color="#888888", linewidth=1, linestyle=":", zorder=0)


def histogram_figure(arrays: Mapping[str, NDArray[Any]], title: str) -> Figure:
    """Raw scores of normal and abnormal test images, one panel for each score of the networks."""
    scores = {name.removeprefix("score_"): values for name, values in arrays.items() if name.startswith("score_")}
    figure = Figure(figsize=(4.6 * len(scores), 3.6), layout="constrained")
    panels = figure.subplots(1, len(scores), squeeze=False)[0]
    abnormal = arrays["abnormal"]
    for axes, (name, values) in zip(panels, scores.items(), strict=True):
        edges, scale = _bins(values)
        shown = values.clip(edges[0], edges[-1])
        for kind, colour, word in ((False, NORMAL, "normal"), (True, ABNORMAL, "abnormal")):
            mine = shown[abnormal == kind]
            share = np.full(len(mine), 1 / max(1, len(mine)))
            axes.hist(mine, edges, weights=share, color=colour, alpha=0.6, label=f"{word} ({len(mine):,})")
        axes.set(xlabel=f"raw score: {name}", ylabel="share of the images", xscale=scale)
        if scale == "linear":
            axes.locator_params(axis="x", nbins=5)
        axes.set_ylim(0, 1.2 * axes.get_ylim()[1])  # the legend stands above the bars
        axes.legend(loc="upper right", ncols=2)
    figure.suptitle(f"{title} (the last bin holds all that is further out)")
    return figure


def _bins(scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], str]:
    """Edges and scale of the axis: a few images far out must not squeeze all others into one bin."""
    low, middle, high = np.quantile(scores, (0, 0.5, 0.995))
    if low > 0 and high > 20 * middle:
        return np.geomspace(low, high, BINS + 1), "log"
    return np.linspace(low, max(high, low + 1e-9), BINS + 1), "linear"


def embedding_figure(arrays: Mapping[str, NDArray[Any]], title: str) -> Figure:
    """t-SNE of the discriminator's last features and of z - z_hat, normal and abnormal test images."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    panels = figure.subplots(1, 2)
    kinds = ("embedded_features", "the discriminator's last features"), ("embedded_latent_differences", "z - z_hat")
    abnormal = arrays["embedded_abnormal"]
    for axes, (name, what) in zip(panels, kinds, strict=True):
        placed = _embed(arrays[name])
        for kind, colour, word in ((False, NORMAL, "normal"), (True, ABNORMAL, "abnormal")):
            mine = placed[abnormal == kind]
            axes.scatter(mine[:, 0], mine[:, 1], s=14, color=colour, alpha=0.7, linewidths=0, label=word)
        axes.set(title=f"t-SNE of {what}", xticks=[], yticks=[])
    panels[0].legend()
    figure.suptitle(title)
    return figure


def _embed(vectors_kd: NDArray[Any]) -> NDArray[np.float64]:
    """Vectors (K, D) in two dimensions, (K, 2)."""
    perplexity = min(30, (len(vectors_kd) - 1) / 3)
    # networks that collapsed have no principal axes to start from
    start = "pca" if np.ptp(vectors_kd, axis=0).any() else "random"
    placed: NDArray[np.float64] = TSNE(perplexity=perplexity, init=start, random_state=0).fit_transform(vectors_kd)
    return placed


def reconstruction_figure(arrays: Mapping[str, NDArray[Any]], title: str) -> Figure:
    """Input, reconstruction and residual: the model gives back the normal and fails to produce the abnormal."""
    images, made = arrays["shown_images"].astype(np.float32), arrays["shown_reconstructions"].astype(np.float32)
    abnormal, count = arrays["shown_abnormal"], len(images)
    residuals = np.abs(images - made).mean(axis=3)
    figure = Figure(figsize=(1.15 * count + 1, 4.4), layout="constrained")
    grid = figure.subplots(3, count, squeeze=False)
    bright = float(np.quantile(residuals, 0.995)) or 1.0
    for column in range(count):
        pictures = (images[column] / 255, made[column] / 255, residuals[column] / bright)
        for axes, picture in zip(grid[:, column], pictures, strict=True):
            colours = "inferno" if picture is pictures[2] else "gray"
            axes.imshow(picture.squeeze().clip(0, 1), cmap=colours, vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        word, colour = ("abnormal", ABNORMAL) if abnormal[column] else ("normal", NORMAL)
        error = residuals[column].mean()
        grid[0, column].set_title(word, color=colour, fontsize=10)
        grid[2, column].set_xlabel(f"mean {error:.1f}", fontsize=9)
    for axes, what in zip(grid[:, 0], ("input", "reconstruction", "residual"), strict=True):
        axes.set_ylabel(what)
    figure.suptitle(f"{title}: residuals in grey levels of 255")
    return figure
