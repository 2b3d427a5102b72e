"""Whether camera or process changed: a night's images and scores beside what is usual on the line.

Hundreds of parts flagged because a lamp aged are no false rejects that somebody should look at one by one. For each
figure the chance is estimated that an image of the night lies above a usual one (Mann and Whitney 1947): one half where
nothing changed, whatever the unit, the spread or a few defective parts do to it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from prefect import task
from prefect.logging import get_run_logger

from tasks.errors import OperatingError
from tasks.lines.window import Window
from tasks.night.listing import Listing
from tasks.night.pinned import PinnedModel
from tasks.registry.reaching import ModelRegistryError
from tasks.steps import NETWORK_STEP
from tasks.store.drift import FIGURES
from tasks.store.rows import DriftRecord, Release
from tasks.systems import Systems

SCORE = "score"
MIN_IMAGES = 19
"""Fewer say nothing about a night, nor about what is usual: as many as calibrate a rate of 5 %."""
MOST_IMAGES = 2000
"""So many suffice, drawn at equal distances."""
ALLOWED = 0.35
"""How far from one half the chance may lie: 3.8 standard deviations for a night of 20 images beside 20 usual ones."""
DAYS_DIFFER = 0.1
"""On a line whose training days differ among each other by more, that much beyond the largest difference is allowed."""
MOST_ALLOWED = 0.48
NIGHTS_SHOWN = 30
WORDS = {
    "brightness": "brightness",
    "contrast": "contrast",
    "sharpness": "sharpness",
    "red": "share of red",
    "blue": "share of blue",
    "centre_x": "position from the left",
    "centre_y": "position from above",
    SCORE: "anomaly score",
}


class ReleaseError(OperatingError):
    """A release that cannot be recorded as it is."""


@dataclass(frozen=True)
class NightDrift:
    """A night beside what is usual.

    Attributes:
        figures: that could be compared.
        release: by whom the window's verdicts were released; None if nobody did.
        history: columns day, figure, above_usual, allowed, changed of the line's newest nights.
    """

    figures: tuple[DriftRecord, ...]
    release: Release | None
    history: pd.DataFrame

    @property
    def changed(self) -> tuple[DriftRecord, ...]:
        """The figures that are not as usual."""
        return tuple(figure for figure in self.figures if figure.changed)

    @property
    def is_withheld(self) -> bool:
        """Whether something changed that nobody has released."""
        released = set(self.release.figures.split(",")) if self.release else set()
        return not {record.figure for record in self.changed} <= released


@task(name="compare-with-usual", **NETWORK_STEP, persist_result=False)
def compare_with_usual(
    systems: Systems, model: PinnedModel, run_id: str, window: Window, listing: Listing
) -> NightDrift:
    """Compare the window's usable images with those that the model learned from, its scores with the calibration's.

    Where MLflow does not tell what the model learned from, the scores alone are compared: a night does not fail for it.
    """
    line, store = systems.line.name, systems.store
    calibration = model.detector.calibrated
    usual = store.drift.figures(line, _some(_learned_from(systems, model)))
    night = store.drift.figures(line, _some([image.identity for image in listing.images]))
    scores = store.scores.raw(line, window.start, window.end, model.version.version, calibration.id)
    found = [compare(name, night[name], usual[name], usual["production_date"]) for name in FIGURES]
    found.append(compare(SCORE, scores, pd.Series(calibration.scores_n), None))
    records = tuple(record for record in found if record is not None)
    store.drift.record(run_id, records)
    drift = recall_drift(systems, run_id, window, model.version.version)
    for record in drift.changed:
        get_run_logger().warning("%s, %s: camera or process changed: %s", line, window, in_words(record))
    return drift


def recall_drift(systems: Systems, run_id: str, window: Window, model_version: int) -> NightDrift:
    """What was found when the run ended, and whether the window was released since."""
    line, drift = systems.line.name, systems.store.drift
    release = drift.last_release(line, window.start, window.end, model_version)
    return NightDrift(tuple(drift.of_run(run_id)), release, drift.history(line, NIGHTS_SHOWN))


def release_window(systems: Systems, window: Window, who: str, why: str) -> int:
    """Record that the verdicts of a withheld window may be used; gives the model version that judged it.

    Once more after it was released changes nothing: the report may not have been written since.

    Raises:
        ReleaseError: if nothing is withheld, or nobody or no reason is named.
    """
    line, store = systems.line.name, systems.store
    if not who.strip() or not why.strip():
        raise ReleaseError("a release needs the name of who says so (--who) and why (--why)")
    run = store.runs.newest(line, window.start, window.end, compared=True)
    drift = None if run is None else recall_drift(systems, run.id, window, run.model_version)
    if run is None or drift is None or not drift.changed:
        raise ReleaseError(f"{line}, {window}: nothing is withheld; `inspection runs {line}` lists what was judged")
    if drift.is_withheld:
        figures = ",".join(record.figure for record in drift.changed)
        now = datetime.now(UTC)
        store.drift.release(
            Release(line, window.start, window.end, run.model_version, figures, who.strip(), why.strip(), now)
        )
    return run.model_version


def compare(
    name: str, night: "pd.Series[float]", usual: "pd.Series[float]", days: "pd.Series[date] | None"
) -> DriftRecord | None:
    """One figure of a night's images beside that of usual ones, which were made on these days.

    None where either are fewer than `MIN_IMAGES`, or the figure never varies. Of the score only a rise counts.
    """
    night, known = night.dropna(), usual.notna()
    usual = usual[known]
    never_varies = len(set(night) | set(usual)) == 1
    if len(night) < MIN_IMAGES or len(usual) < MIN_IMAGES or never_varies:
        return None
    above = chance_above(night.to_numpy(), usual.to_numpy())
    allowed = ALLOWED
    if days is not None:
        spread = max(_days_differ(usual, days[known]), default=0.0)
        allowed = min(MOST_ALLOWED, max(ALLOWED, spread + DAYS_DIFFER))
    distance = above - 0.5 if name == SCORE else abs(above - 0.5)
    return DriftRecord(name, float(night.median()), float(usual.median()), above, allowed, bool(distance > allowed))


def chance_above(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """The chance that one of the first lies above one of the second, ties half."""
    ordered = np.sort(second)
    below = np.searchsorted(ordered, first, side="left") + np.searchsorted(ordered, first, side="right")
    return float(below.mean() / (2 * len(second)))


def _days_differ(usual: "pd.Series[float]", days: "pd.Series[date]") -> Iterable[float]:
    """How far each day with enough images is from the other days."""
    for day in days.unique():
        today = (days == day).to_numpy()
        if today.sum() >= MIN_IMAGES and (~today).sum() >= MIN_IMAGES:
            yield abs(chance_above(usual[today].to_numpy(), usual[~today].to_numpy()) - 0.5)


def in_words(record: DriftRecord) -> str:
    """A figure for people."""
    return (
        f"{WORDS[record.figure]} {record.night_median:.4g}, usually {record.usual_median:.4g} (medians); "
        f"{record.above_usual:.0%} above usual, {0.5 - record.allowed:.0%} to {0.5 + record.allowed:.0%} is allowed"
    )


def _learned_from(systems: Systems, model: PinnedModel) -> list[tuple[str, str]]:
    try:
        manifest = systems.registry.snapshot_manifest(model.version)
    except ModelRegistryError as error:
        get_run_logger().warning("images are not compared with usual ones: %s", error)
        return []
    return list(zip(manifest["key"], manifest["etag"], strict=True))


def _some(images: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [images[at] for at in np.linspace(0, len(images) - 1, min(len(images), MOST_IMAGES)).astype(int)]
