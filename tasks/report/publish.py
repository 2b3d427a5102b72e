"""Write the night's report to the bucket: scores, flagged parts, regions, report.html."""

from contextlib import suppress
from datetime import UTC, datetime

import numpy as np
import pandas as pd
from prefect import task

from ganomaly.detector import Detector
from ganomaly.images.preparation import read_image
from ganomaly.images.regions import RegionRules
from tasks.bucket.failures import ObjectStoreError
from tasks.lines.line import OUTPUTS
from tasks.lines.window import Window
from tasks.night.accounting import RunCounts
from tasks.night.drift import WORDS, NightDrift, in_words
from tasks.night.listing import Listing
from tasks.night.overlays import encode_jpeg, overlay_and_regions
from tasks.night.pinned import PinnedModel
from tasks.night.survey import Unseen, way_out
from tasks.report.markdown import night_markdown
from tasks.report.page import report_html
from tasks.report.report import NightReport, Picture
from tasks.report.tables import flagged_csv, regions_csv, regions_parquet, scores_parquet
from tasks.steps import NETWORK_STEP, show_markdown
from tasks.store.rows import ScoringRun
from tasks.systems import Systems

MAX_PICTURES = 60
PICTURES_AT_ONCE = 10  # images may be large


def report_folder(line: str, window: Window, run_id: str) -> str:
    """Key prefix of a run's report: ``reports/<line>/<last date of the window>/<run>``."""
    return f"{OUTPUTS}{line}/{window.end}/{run_id}"


@task(name="publish-report", **NETWORK_STEP, persist_result=False)
def publish_report(
    systems: Systems,
    model: PinnedModel,
    run: ScoringRun,
    listing: Listing,
    unseen: Unseen,
    counts: RunCounts,
    drift: NightDrift,
) -> str:
    """Write the report of a run's window to the bucket, and its table to the Prefect UI; gives the report's key.

    The list of flagged parts has another name while the verdicts are withheld, so that no program takes it up.
    """
    window = Window(run.window_start, run.window_end)
    report = night_report(systems, model, run, listing, unseen, counts, drift)
    folder = report_folder(run.line, window, run.id)
    systems.objects.put(f"{folder}/scores.parquet", scores_parquet(report), "application/vnd.apache.parquet")
    systems.objects.put(f"{folder}/{report.flagged_file}", flagged_csv(report).encode(), "text/csv; charset=utf-8")
    systems.objects.put(f"{folder}/{report.regions_file}.csv", regions_csv(report).encode(), "text/csv; charset=utf-8")
    systems.objects.put(
        f"{folder}/{report.regions_file}.parquet", regions_parquet(report), "application/vnd.apache.parquet"
    )
    html = report_html(report, max_pictures=MAX_PICTURES)
    key = f"{folder}/report.html"
    systems.objects.put(key, html.encode(), "text/html; charset=utf-8")
    show_markdown(night_markdown(report), key=f"night-{run.line}", description=f"{run.line}, {window}")
    return key


def find_published(systems: Systems, window: Window, model: PinnedModel) -> ScoringRun | None:
    """The newest complete run that wrote a report for exactly this window and model version.

    None as well if another run has scored in the window since that one began: it may have been killed before it could
    write what it found into a report. Nor is a report the newest that was written before its verdicts were released.
    """
    judge = (systems.line.name, window.start, window.end, model.version.version, model.calibration_id)
    published = systems.store.runs.latest_report(*judge)
    if published is None or systems.store.scores.since(*judge, published.started_at, besides=published.id):
        return None
    release = systems.store.drift.last_release(systems.line.name, window.start, window.end, published.model_version)
    if release is not None and release.released_at > published.started_at:
        return None
    return published


def night_report(
    systems: Systems,
    model: PinnedModel,
    run: ScoringRun,
    listing: Listing,
    unseen: Unseen,
    counts: RunCounts,
    drift: NightDrift,
) -> NightReport:
    """Gather what the report of a run says: all verdicts of its model version on what the window's listing holds."""
    calibration = model.detector.calibrated
    scores = systems.store.scores.of_window(
        run.line, run.window_start, run.window_end, run.model_version, run.calibration_id
    )
    etags = {image.key: image.etag for image in listing.images}
    present = [etags.get(key) == etag for key, etag in zip(scores["key"], scores["etag"], strict=True)]
    scores = scores if all(present) else scores[present]
    scores = scores.assign(sure=calibration.is_sure(scores["raw_score"]))
    del etags, present  # what follows takes memory as well
    return NightReport(
        line=systems.line,
        run=run,
        finished_at=datetime.now(UTC),
        calibration=calibration,
        recipe_summary=model.detector.config.recipe.summary,
        counts=counts,
        scores=scores,
        failures=systems.store.runs.failures(run.id),
        regions=_regions(systems, run, scores),
        pictures=_pictures(systems, model.detector, scores[scores["verdict"] == "flagged"].head(MAX_PICTURES)),
        ignored=listing.ignored,
        never_seen=unseen.folders,
        way_out=way_out(systems.line, unseen),
        changes=tuple(in_words(record) for record in drift.changed),
        withheld=drift.is_withheld,
        released=_released(drift),
        figures={WORDS[name]: rows for name, rows in drift.history.groupby("figure", sort=False)},
    )


def _regions(systems: Systems, run: ScoringRun, scores: pd.DataFrame) -> pd.DataFrame:
    """The regions of the flagged images among these scores."""
    regions = systems.store.scores.regions(
        run.line, run.window_start, run.window_end, run.model_version, run.calibration_id
    )
    present = regions["etag"] == regions["key"].map(dict(zip(scores["key"], scores["etag"], strict=True)))
    regions, rules = regions[present], systems.line.region_rules
    figures = zip(*(regions[name] for name in ("area_px", "centre_x", "centre_y", "heat")), strict=True)
    return regions.assign(counts=[rules.counts(*one) for one in figures])


def _released(drift: NightDrift) -> str:
    if drift.release is None:
        return ""
    return f"{drift.release.who}, {drift.release.released_at:%Y-%m-%d %H:%M} UTC: {drift.release.why}"


def _pictures(systems: Systems, detector: Detector, flagged: pd.DataFrame) -> dict[str, Picture]:
    """The pictures of flagged images by key; one that has vanished since is left out."""
    pictures: dict[str, Picture] = {}
    for start in range(0, len(flagged), PICTURES_AT_ONCE):
        fetched: dict[str, bytes] = {}
        for row in flagged.iloc[start : start + PICTURES_AT_ONCE].itertuples():
            with suppress(ObjectStoreError):
                fetched[row.key] = systems.objects.get(row.key, row.etag)
        pictures |= _draw(detector, fetched, systems.line.region_rules)
    return pictures


def _draw(detector: Detector, images: dict[str, bytes], rules: RegionRules) -> dict[str, Picture]:
    """Images and their overlays, drawn anew: who scores need not be allowed to read the reports, where they lie."""
    prepared = {key: detector.prepare(data) for key, data in images.items()}
    usable = [key for key, image in prepared.items() if image.usable]
    if not usable:
        return {}
    pixels = detector.stack([prepared[key] for key in usable], np.ones(len(usable), dtype=bool))  # noqa: PD013 no table
    heats = detector.heat_maps(pixels)
    return {
        key: Picture(
            encode_jpeg(read_image(images[key], detector.config.recipe)),
            overlay_and_regions(detector, images[key], heat, rules)[0],
        )
        for key, heat in zip(usable, heats, strict=True)
    }
