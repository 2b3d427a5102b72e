"""Let challenger and champion judge the same golden images and the same recent ones, and ask the gate."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from prefect import task
from prefect.logging import get_run_logger

from tasks.bucket.failures import ObjectStoreError
from tasks.golden.golden_set import GoldenSetError, refuse_trained_on
from tasks.golden.judging import GoldenJudgements, Judgements, judge_golden, judge_with
from tasks.lines.line import LineConfig
from tasks.night.listing import ListedImage
from tasks.night.pinned import PinnedModel
from tasks.promotion.gate import Gate, decide
from tasks.registry.versions import CHALLENGER, CHAMPION
from tasks.steps import NETWORK_STEP
from tasks.systems import Systems
from tasks.training.choose import as_listed, newest_of_each_key, not_normal

RELOADED_IMAGES = 8


@dataclass(frozen=True)
class Comparison:
    """What challenger and champion say about the same images, and what the gate says about that."""

    gate: Gate
    golden: GoldenJudgements
    recent: Judgements
    shadow: pd.DataFrame

    @property
    def shadow_summary(self) -> str:
        """What the challenger said of production beside the champion, in one line; empty where it did not."""
        if self.shadow.empty:
            return ""
        ours, its = (self.shadow[f"{who}_verdict"] for who in (CHAMPION, CHALLENGER))
        judged = (ours != "unusable") & (its != "unusable")
        found = {
            "flagged by both": (ours == "flagged") & (its == "flagged"),
            "by the champion alone": judged & (ours == "flagged") & (its == "ok"),
            "by the challenger alone": judged & (ours == "ok") & (its == "flagged"),
            "unusable for the champion alone": (ours == "unusable") & (its != "unusable"),
            "for the challenger alone": (ours != "unusable") & (its == "unusable"),
        }
        counted = ", ".join(f"{what} {int(which.sum()):,}" for what, which in found.items())
        nights = self.shadow["production_date"].nunique()
        return f"In the shadow: {len(self.shadow):,} images of {nights} production dates seen by both; {counted}."


@task(name="compare-models", **NETWORK_STEP, persist_result=False)
def compare_models(
    systems: Systems, challenger: PinnedModel, champion: PinnedModel, may_miss: Sequence[str]
) -> Comparison:
    """Judge the golden set and recent normal images with both models and ask the gate.

    Recent images are at most `models.recent_images` of the newest `models.recent_days` production dates, drawn evenly:
    that the champion has judged, of parts that no model flagged and no person found defective.

    Raises:
        GoldenSetError: if the golden set cannot be read, one of the models learned from it, or ``may_miss`` names
            another image.
    """
    logger = get_run_logger()
    detectors = {CHALLENGER: challenger.detector, CHAMPION: champion.detector}
    golden = judge_golden(systems, detectors)
    if strange := sorted(set(may_miss) - {image.image for image in golden.images}):
        raise GoldenSetError(
            f"may_miss: {strange[0]!r} is no image of the golden set; `inspection golden list {systems.line.name}` "
            "lists them"
        )
    for version in (challenger.version, champion.version):
        refuse_trained_on(systems, golden.images, version)
    logger.info("golden set: %d images, %d of them defective", len(golden.images), golden.defective_n.sum())
    images, unseen = recent_images(systems, challenger, champion)
    recent = judge_with(detectors, _fetched(systems, images))
    logger.info("%d recent images judged by both models", len(recent.scores[CHALLENGER]))
    calibration = challenger.detector.calibrated
    gate = decide(
        golden,
        recent,
        unseen,
        calibration,
        reload_difference=_reload_difference(systems, challenger, images, recent, golden),
        max_ms_per_image=systems.line.models.max_ms_per_image,
        may_miss=may_miss,
    )
    for check in gate.checks:
        logger.info("%s: %s: %s %s", check.name, check.outcome, check.figure, ", ".join(check.images))
    judges = [(one.version.version, one.calibration_id) for one in (challenger, champion)]
    comparison = Comparison(gate, golden, recent, systems.store.shadow.beside(systems.line.name, *judges))
    logger.info("%s", comparison.shadow_summary or "the challenger judged no night beside the champion")
    return comparison


def recent_images(
    systems: Systems, challenger: PinnedModel, champion: PinnedModel
) -> tuple[tuple[ListedImage, ...], dict[str, tuple[date, str]]]:
    """Images of recent nights that count as normal; key -> part of those that neither version learned from.

    What the champion has not judged is left out: nothing says that it is normal.

    A part that a version learned from is known to it in all views.
    """
    line = systems.line
    newest = systems.store.images.newest_day(line.name, line.today())
    if newest is None:
        return (), {}
    start = newest - timedelta(days=line.models.recent_days - 1)
    recorded = systems.store.images.recorded(line.name, start, newest)
    detector = (champion.version.version, champion.calibration_id)
    judged = systems.store.scores.judged(line.name, start, newest, *detector)
    is_judged = [
        judged.get(image, "unusable") != "unusable" for image in zip(recorded["key"], recorded["etag"], strict=True)
    ]
    recorded = newest_of_each_key(
        recorded[np.array(is_judged, dtype=bool) & (not_normal(systems, recorded, start, newest) == "")]
    )
    if len(recorded) > line.models.recent_images:
        recorded = recorded.iloc[np.linspace(0, len(recorded) - 1, line.models.recent_images).astype(int)]
    known_images: set[str] = set()
    known_parts: set[tuple[date | None, str]] = set()
    for version in (challenger.version, champion.version):
        manifest = systems.registry.snapshot_manifest(version)
        known_images |= set(manifest["sha256"])
        known_parts |= {_dated(line, row.key, row.part) for row in manifest.itertuples()}
    parts = [_dated(line, row.key, row.part) in known_parts for row in recorded.itertuples()]
    seen = recorded["sha256"].isin(known_images) | np.array(parts, dtype=bool)
    unseen = {row.key: (row.production_date, row.part) for row in recorded[~seen].itertuples()}
    return as_listed(recorded), unseen


def _dated(line: LineConfig, key: str, part: str) -> tuple[date | None, str]:
    """A part with its production date, as its key has it: names of parts may come again on another day."""
    fields = line.parse_key(key)
    return None if fields is None else fields.date, part


def _fetched(systems: Systems, images: Sequence[ListedImage]) -> Iterator[tuple[str, bytes]]:
    for image in images:
        try:
            yield image.key, systems.objects.get_listed(image.key, image.etag)
        except ObjectStoreError as error:  # gone or replaced since: it shows nothing
            get_run_logger().warning("%s: not compared: %s", image.key, error)


def _reload_difference(
    systems: Systems,
    challenger: PinnedModel,
    images: Sequence[ListedImage],
    recent: Judgements,
    golden: GoldenJudgements,
) -> float | None:
    """Largest relative difference of a few of the challenger's scores after it was fetched from MLflow once more."""
    with tempfile.TemporaryDirectory() as scratch:
        device = str(challenger.detector.device)
        again = systems.registry.load_detector(challenger.version, Path(scratch), device)
        if len(recent.scores[CHALLENGER]):
            before = recent.scores[CHALLENGER]
            judged = judge_with({CHALLENGER: again}, _fetched(systems, images[:RELOADED_IMAGES])).scores[CHALLENGER]
        else:
            before = golden.judged.scores[CHALLENGER]
            judged = judge_golden(systems, {CHALLENGER: again}).judged.scores[CHALLENGER]
    both = before.merge(judged, on="key", suffixes=("", "_again"))
    if both.empty:
        return None
    if (both["raw_score"].isna() != both["raw_score_again"].isna()).any():
        return float("inf")
    difference = (both["raw_score_again"] - both["raw_score"]).abs() / both["raw_score"].abs().clip(lower=1e-12)
    return float(difference.fillna(0.0).max())  # unusable both times
