"""The night as one HTML file that loads nothing else and needs no JavaScript."""

import base64
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from zoneinfo import ZoneInfo

import jinja2
import numpy as np
import pandas as pd

from ganomaly.scoring.calibration import plausible_false_rejects
from tasks.report.report import FlaggedPart, NightReport, Picture, flagged_parts
from tasks.report.words import (
    accounting_problem,
    counted,
    headline,
    integer,
    number,
    percent,
    promise,
    reason_counts,
    second_promise,
    text,
    time_in,
    tone,
    window_in_words,
)

HISTOGRAM_BINS = 50
MAX_TABLE_ROWS = 500


@dataclass(frozen=True)
class HistogramBar:
    """One bin of the normalised score: counts, and heights in per cent of the highest axis tick."""

    low: float
    high: float
    ok: int
    flagged: int
    ok_height: float
    flagged_height: float


def _failed(report: NightReport) -> pd.DataFrame:
    """Images that were not read for a reason outside of them, by key."""
    return report.failures.drop(report.strays.index).sort_values("key")


@dataclass(frozen=True)
class NightPoint:
    """One night in the chart of a figure, in per cent of its width and height."""

    day: str
    x: float
    y: float
    low: float
    high: float
    changed: bool


def night_chart(rows: pd.DataFrame) -> list[NightPoint]:
    """The nights of a figure as points: the chance of lying above usual, and the band that is allowed."""
    count = len(rows)
    return [
        NightPoint(
            f"{row.day}",
            100 * (place + 0.5) / count,
            100 * (1 - row.above_usual),
            100 * (0.5 - row.allowed),
            100 * (0.5 + row.allowed),
            bool(row.changed),
        )
        for place, row in enumerate(rows.itertuples())
    ]


def report_html(report: NightReport, *, max_pictures: int = 60) -> str:
    """The report as one HTML file that loads nothing else and needs no JavaScript.

    Args:
        report: the night.
        max_pictures: how many flagged images are shown; the rest follow as table rows, the first `MAX_TABLE_ROWS`.
    """
    parts = flagged_parts(report)
    shown = _shown_keys(parts, report.pictures, max_pictures)
    cards = [part for part in parts if any(image.key in shown for image in part.images)]
    carded = {part.rank for part in cards}
    bars, ticks = score_histogram(report.judged)
    second = report.calibration.sure
    return (
        _environment(report)
        .get_template("report.html.j2")
        .render(
            report=report,
            counts=report.counts,
            window=window_in_words(report),
            headline=headline(report),
            problem=accounting_problem(report),
            tone=tone(report),
            plausible=_plausible(report, report.calibration.n_above),
            plausible_sure=None if second is None else _plausible(report, second.n_above),
            second=second,
            second_promise=second_promise(report),
            bars=bars,
            ticks=ticks,
            parts=parts,
            cards=cards,
            rows=[(part, image) for part in parts if part.rank not in carded for image in part.images],
            shown=shown,
            regions=_sizes(report),
            below=Counter(report.regions.loc[~report.regions["counts"].astype(bool), "key"]),
            max_rows=MAX_TABLE_ROWS,
            days=report.days,
            charts={name: night_chart(rows) for name, rows in report.figures.items()},
            unusable=list(report.unusable.itertuples(index=False)),
            unusable_reasons=reason_counts(report.unusable["reason"]),
            failures=list(_failed(report).itertuples(index=False)),
            failure_reasons=reason_counts(_failed(report)["reason"]),
            strays=list(report.strays.sort_values("key").itertuples(index=False)),
            stray_reasons=reason_counts(report.strays["reason"]),
        )
    )


def score_histogram(judged: pd.DataFrame) -> tuple[list[HistogramBar], list[tuple[int, float]]]:
    """Bin the normalised scores of images with a verdict.

    Returns:
        `HISTOGRAM_BINS` bars over [0, 1], and the ticks of the count axis as (count, height in per cent).
    """
    edges = np.linspace(0.0, 1.0, HISTOGRAM_BINS + 1)
    flagged = judged["verdict"] == "flagged"
    values = judged["normalised_score"].to_numpy(dtype=np.float64)
    ok_n, flagged_n = (np.histogram(values[mask], bins=edges)[0] for mask in (~flagged, flagged))
    ticks = _axis_ticks(int((ok_n + flagged_n).max()))
    bars = [
        HistogramBar(
            low, high, ok, hit, ok_height=_bar_height(ok, ticks[-1]), flagged_height=_bar_height(hit, ticks[-1])
        )
        for low, high, ok, hit in zip(edges[:-1], edges[1:], ok_n.tolist(), flagged_n.tolist(), strict=True)
    ]
    return bars, [(tick, 100 * tick / ticks[-1]) for tick in ticks]


def _axis_ticks(highest: int) -> list[int]:
    """Three to six whole ticks from 0 to at least `highest`, a 1, 2 or 5 times a power of ten apart."""
    magnitude = 10 ** max(0, len(str(highest)) - 2)
    step = next(step for step in (magnitude * f for f in (1, 2, 5, 10, 20, 50)) if 4 * step >= highest)
    return list(range(0, max(highest, 2 * step) + step, step))


def _bar_height(count: int, axis_top: int) -> float:
    """Height in per cent; a single image among thousands still shows."""
    return max(100 * count / axis_top, 1.0) if count else 0.0


def _shown_keys(parts: Iterable[FlaggedPart], pictures: Mapping[str, Picture], max_pictures: int) -> set[str]:
    keys = [image.key for part in parts for image in part.images if image.key in pictures]
    return set(keys[:max_pictures])


def _sizes(report: NightReport) -> dict[str, list[tuple[int, str]]]:
    """The regions of each image that count: number and size in words, by its key."""
    scale, words = report.line.images.mm_per_px, dict[str, list[tuple[int, str]]]()
    for row in report.regions[report.regions["counts"].astype(bool)].sort_values(["key", "place"]).itertuples():
        size = f"{row.width:,} x {row.height:,} px at {row.x:,}, {row.y:,}"
        if scale:
            mm = f"{row.width * scale:.3g} x {row.height * scale:.3g} mm, longest {row.extent_px * scale:.3g} mm"
            size = f"{mm}, {row.area_px * scale**2:.3g} mm² ({size})"
        else:
            size = f"{size}, longest {row.extent_px:.0f} px, {row.area_px:,} px²"
        words.setdefault(row.key, []).append((row.place, size))
    return words


def _plausible(report: NightReport, above: int) -> int | None:
    return plausible_false_rejects(len(report.judged), report.calibration.n_images, above)


def _environment(report: NightReport) -> jinja2.Environment:
    zone = ZoneInfo(report.line.timezone)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        integer=integer,
        counted=counted,
        number=number,
        percent=percent,
        score=lambda value: f"{value:.3f}",
        text=text,
        jpeg_url=lambda data: f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}",
        local_time=lambda moment: time_in(moment, zone),
        utc_time=lambda moment: time_in(moment, UTC),
    )
    environment.globals["promise"] = promise(report)
    return environment
