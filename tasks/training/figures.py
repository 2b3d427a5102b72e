"""The figures of a training run: losses, calibration, reconstructions. They take data and return matplotlib figures."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ganomaly import Calibration
from ganomaly.networks.training import EpochStats

LOSSES = {
    "loss_adversarial": "L_adv",
    "loss_contextual": "L_con",
    "loss_encoder": "L_enc",
    "loss_discriminator": "discriminator",
}


def loss_figure(history: Sequence[EpochStats]) -> Figure:
    """Each loss over the epochs, on a logarithmic scale."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    epochs = [stats.epoch for stats in history]
    for field, label in LOSSES.items():
        axes.plot(epochs, [max(getattr(stats, field), 1e-8) for stats in history], marker=".", label=label)
    axes.set(yscale="log", xlabel="epoch", ylabel="loss, unweighted", title="Training losses")
    axes.legend()
    return figure


def calibration_figure(calibration: Calibration) -> Figure:
    """Histogram of the calibration scores with the reject limit."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.hist(calibration.scores_n, bins=30, color="#4c78a8")
    axes.axvline(calibration.limit, color="#c0392b", label=f"reject limit {calibration.limit:.3f}")
    axes.set(
        xlabel="raw score",
        ylabel="images",
        title=f"{calibration.n_images} normal images, at most {calibration.guaranteed_rate:.2%} flagged",
    )
    axes.legend()
    return figure


def golden_figure(scores: pd.DataFrame, defective_n: np.ndarray) -> Figure:
    """Histogram of the normalised scores (N,) of the golden set's good and defective images; 0.5 is the limit."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    normalised = scores["normalised_score"].to_numpy()
    for label, chosen, colour in (("good", ~defective_n, "#4c78a8"), ("defective", defective_n, "#e45756")):
        axes.hist(
            normalised[chosen & ~np.isnan(normalised)], bins=30, range=(0, 1), alpha=0.7, label=label, color=colour
        )
    axes.axvline(0.5, color="#333333", label="reject limit")
    axes.set(xlabel="normalised score", ylabel="images", title="Golden set, which training never saw")
    axes.legend()
    return figure


def reconstruction_figure(images_nhwc: np.ndarray, heat_nhw: np.ndarray, scores: Sequence[float]) -> Figure:
    """Network inputs (N, S, S, C) above their heat maps (N, S, S), with their raw scores."""
    count = len(images_nhwc)
    figure = Figure(figsize=(1.6 * count, 3.8), layout="constrained")
    rows = figure.subplots(2, count, squeeze=False)
    for column, (image, heat, score) in enumerate(zip(images_nhwc, heat_nhw, scores, strict=True)):
        rows[0][column].imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        rows[0][column].set_title(f"{score:.2f}", fontsize=9)
        rows[1][column].imshow(heat, cmap="inferno", vmin=0, vmax=2)
        for row in rows:
            row[column].set_axis_off()
    figure.suptitle("Held-out normal images, from the most usual to the most unusual, and their heat maps")
    return figure
