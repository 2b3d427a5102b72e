"""Pictures of a comparison: both models' scores of the same images, and the images that they disagree about."""

from collections.abc import Iterator, Mapping
from contextlib import suppress

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from prefect.logging import get_run_logger

from ganomaly import Detector
from ganomaly.images.pixels import shrunk
from ganomaly.images.preparation import prepare_image, read_image
from ganomaly.scoring.heatmap import draw_overlay
from tasks.bucket.failures import ObjectStoreError
from tasks.night.overlays import as_8bit
from tasks.promotion.compare import Comparison
from tasks.registry.versions import CHALLENGER, CHAMPION
from tasks.systems import Systems

MOST_PICTURES = 8
SIDE_PX = 320
LIMIT = 0.5  # of every normalised score


def draw(systems: Systems, comparison: Comparison, detectors: dict[str, Detector]) -> dict[str, Figure]:
    """All pictures of a comparison by their names. One that cannot be drawn is left out: no decision waits for it."""
    figures = {"scores": score_figure(comparison)}
    try:
        disagreements = disagreement_figure(systems, comparison, detectors)
    except Exception as error:
        get_run_logger().warning("the images that the models disagree about are not drawn: %r", error)
    else:
        figures |= {"disagreements": disagreements} if disagreements is not None else {}
    return figures


def score_figure(comparison: Comparison) -> Figure:
    """Each image at the champion's and the challenger's normalised score; 0.5 is the limit of either."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    golden, recent = comparison.golden.judged.scores, comparison.recent.scores
    defective = comparison.golden.defective_n
    groups = (
        ("recent, unlabelled", recent, np.ones(len(recent[CHAMPION]), dtype=bool), "#bbbbbb"),
        ("golden, good", golden, ~defective, "#4c78a8"),
        ("golden, defective", golden, defective, "#e45756"),
    )
    for label, tables, chosen, colour in groups:
        x, y = (tables[who]["normalised_score"].to_numpy()[chosen] for who in (CHAMPION, CHALLENGER))
        axes.scatter(x, y, s=14, label=f"{label} ({len(x)})", color=colour, alpha=0.8)
    axes.axvline(0.5, color="#333333", linewidth=0.8)
    axes.axhline(0.5, color="#333333", linewidth=0.8)
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="champion: normalised score",
        ylabel="challenger: normalised score",
    )
    axes.set_title("The same images by both models; beyond 0.5 an image is flagged", fontsize=10)
    figure.legend(loc="outside lower center", ncol=3, fontsize=9)
    return figure


def disagreement_figure(systems: Systems, comparison: Comparison, detectors: dict[str, Detector]) -> Figure | None:
    """Images on which the two models' verdicts differ, each with both heat maps; None where there are none.

    Defects that the challenger loses come first, then other golden images, then those of nights that it judged in the
    shadow, then recent normal ones; the widest difference of normalised scores first.
    """
    shown = list(_disagreements(systems, comparison))
    if not shown:
        return None
    figure = Figure(figsize=(2.2 * len(shown), 7.6), layout="constrained")
    rows = figure.subplots(3, len(shown), squeeze=False)
    for column, (title, data, normalised) in enumerate(shown):
        image = read_image(data, detectors[CHALLENGER].config.recipe)
        rows[0][column].imshow(shrunk(as_8bit(image), SIDE_PX), cmap="gray")
        rows[0][column].set_title(title, fontsize=8, parse_math=False)
        for row, who in zip(rows[1:], (CHAMPION, CHALLENGER), strict=True):
            row[column].imshow(shrunk(as_8bit(_overlay(detectors[who], data)), SIDE_PX))
            row[column].set_title(f"{who} {normalised[who]:.3f}", fontsize=8)
    for axes in rows.flat:
        axes.set_axis_off()
    return figure


def _disagreements(systems: Systems, comparison: Comparison) -> Iterator[tuple[str, bytes, dict[str, float]]]:
    ranked: list[tuple[int, float, str, str, dict[str, float]]] = []
    golden, images = comparison.golden.judged.scores, comparison.golden.images
    for place, image in enumerate(images):
        if (scores := _scores_apart(golden, place)) is not None:
            rank = 0 if image.is_defective and scores[CHALLENGER] < LIMIT else 1
            title, key = f"golden: {image.kind}\n{image.part}", systems.line.golden_prefix + image.image
            ranked.append((rank, -abs(scores[CHALLENGER] - scores[CHAMPION]), title, key, scores))
    shadow, prefix = comparison.shadow, systems.line.images.prefix
    verdicts = shadow[[f"{CHAMPION}_verdict", f"{CHALLENGER}_verdict"]]
    for row in shadow[verdicts.isin(["ok", "flagged"]).all(axis=1) & (verdicts.nunique(axis=1) == 2)].itertuples():
        scores = {CHAMPION: float(row.champion), CHALLENGER: float(row.challenger)}
        title = f"in the shadow\n{row.key.removeprefix(prefix)}"
        ranked.append((2, -abs(row.challenger - row.champion), title, row.key, scores))
    recent, of_nights = comparison.recent.scores, set(shadow["key"])
    for place, key in enumerate(recent[CHALLENGER]["key"]):
        if key not in of_nights and (scores := _scores_apart(recent, place)) is not None:
            ranked.append(
                (3, -abs(scores[CHALLENGER] - scores[CHAMPION]), f"recent\n{key.removeprefix(prefix)}", key, scores)
            )
    for _, _, title, key, scores in sorted(ranked, key=lambda row: row[:2])[:MOST_PICTURES]:
        with suppress(ObjectStoreError):  # gone or replaced since
            yield title, systems.objects.get(key), scores


def _scores_apart(tables: Mapping[str, pd.DataFrame], place: int) -> dict[str, float] | None:
    """Both normalised scores of an image; None where the verdicts agree or there is none."""
    rows = {who: tables[who].iloc[place] for who in (CHAMPION, CHALLENGER)}
    if {row["verdict"] for row in rows.values()} != {"ok", "flagged"}:
        return None
    return {who: float(row["normalised_score"]) for who, row in rows.items()}


def _overlay(detector: Detector, data: bytes) -> np.ndarray:
    recipe = detector.config.recipe
    image = read_image(data, recipe)
    prepared = prepare_image(data, recipe, detector.config.quality)
    (heat_hw,) = detector.heat_maps(detector.stack([prepared], np.ones(1, dtype=bool)))  # noqa: PD013 - no table
    return draw_overlay(image, recipe.to_image_pixels(heat_hw, image), recipe.ignored(image.shape))
