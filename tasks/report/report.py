"""One night's report as parquet, CSV, HTML and markdown.

Pure: every function turns a `NightReport` into text or bytes. It knows no bucket, no database, no flow and no network.
"""

import base64
import csv
import io
import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import jinja2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ganomaly.scoring.calibration import plausible_false_rejects
from ganomaly.spreadsheets import spreadsheet_safe
from tasks.night.accounting import RunCounts

SCORE_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("etag", pa.string()),
        ("part", pa.string()),
        ("view", pa.string()),
        ("production_date", pa.date32()),
        ("captured_at", pa.timestamp("us", tz="UTC")),
        ("raw_score", pa.float64()),
        ("normalised_score", pa.float64()),
        ("p_value", pa.float64()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("heat_map_key", pa.string()),
        ("model_version", pa.int64()),
        ("calibration_id", pa.string()),
        ("run_id", pa.string()),
    ]
)
FAILURE_COLUMNS = ("key", "reason", "detail")
STRAY_KEY = "key_layout"
STRAY_SIZE = "object_too_large"
STRAY_REASONS = (STRAY_KEY, STRAY_SIZE)
VERDICTS = ("ok", "flagged", "unusable")

FLAGGED_CSV_COLUMNS = (
    "rank",
    "part",
    "view",
    "key",
    "production_date",
    "captured_at",
    "normalised_score",
    "raw_score",
    "p_value",
    "model_version",
    "calibration_id",
    "heat_map_key",
    "etag",
    "run_id",
)

HISTOGRAM_BINS = 50
MAX_TABLE_ROWS = 500
MARKDOWN_PARTS = 10
ROW_GROUP = 20_000  # rows of the parquet file that are in memory at once


@dataclass(frozen=True)
class Picture:
    """A flagged image and the same image with its heat map laid over it, both as JPEG files of the same proportions."""

    image_jpeg: bytes
    overlay_jpeg: bytes


@dataclass(frozen=True, eq=False)
class NightReport:
    """Everything that the report of one window says.

    Attributes:
        line: name of the line.
        description: the line in words, may be empty.
        timezone: IANA name of the line's time zone, for example ``"Europe/Berlin"``.
        window_start: first production date of the window.
        window_end: last production date of the window, included.
        run_id: the scoring run.
        started_at: begin of the run; UTC where it carries no zone.
        finished_at: end of the run; UTC where it carries no zone.
        model_name: registered model.
        model_version: its version, by which every row of `scores` was judged.
        calibration_id: the calibration that set the limit.
        snapshot_id: the images that the model was trained on.
        code_version: the software that ran.
        recipe_summary: how a camera image became the network's input, in one line.
        promised_false_reject_rate: alpha in (0, 1), per image.
        calibration_images: number n of images that set the limit.
        calibration_above: how many of their scores lie above it.
        guaranteed_false_reject_rate: upper bound of the rate, see `Calibration.guaranteed_rate`.
        reject_limit_raw: the raw score above which an image is flagged.
        counts: what this run did; the rows of `scores` may stem from earlier runs.
        scores: columns of `SCORE_SCHEMA`, one row for each image of the window (the key's present etag) that this
            model version has judged, in this run or before. Scores and p-value are NaN when unusable.
        failures: columns `FAILURE_COLUMNS`, one row for each image that could not be judged for an outside reason.
        pictures: the pictures of flagged images by key; the worst are enough.
        attribution: whom the images belong to, printed in the footer.
    """

    line: str
    description: str
    timezone: str
    window_start: date
    window_end: date
    run_id: str
    started_at: datetime
    finished_at: datetime
    model_name: str
    model_version: int
    calibration_id: str
    snapshot_id: str
    code_version: str
    recipe_summary: str
    promised_false_reject_rate: float
    calibration_images: int
    calibration_above: int
    guaranteed_false_reject_rate: float
    reject_limit_raw: float
    counts: RunCounts
    scores: pd.DataFrame
    failures: pd.DataFrame
    pictures: Mapping[str, Picture]
    attribution: str | None = None

    def __post_init__(self) -> None:
        """Refuse tables that the report would misread.

        Raises:
            ValueError: naming the missing columns, the unknown verdicts or the key that has two rows.
        """
        _require_columns("scores", self.scores, SCORE_SCHEMA.names)
        _require_columns("failures", self.failures, FAILURE_COLUMNS)
        unknown = set(self.scores["verdict"]) - set(VERDICTS)
        if unknown:
            raise ValueError(f"scores: verdict {sorted(map(str, unknown))} is none of {', '.join(VERDICTS)}")
        nameless = self.scores.loc[self.scores["part"].isna(), "key"]
        if len(nameless):
            raise ValueError(f"scores: no part for key {nameless.iloc[0]!r}: an image of no known part is its own part")
        repeated = self.scores.loc[self.scores["key"].duplicated(), "key"]
        if len(repeated):
            raise ValueError(
                f"scores: {len(repeated)} keys have more than one row, for example {repeated.iloc[0]!r}: "
                "pass only the row of each key's present etag"
            )

    @property
    def judged(self) -> pd.DataFrame:
        """Part, verdict and normalised score of the images that have one: verdict ok or flagged."""
        return self.scores.loc[self.scores["verdict"] != "unusable", ["part", "verdict", "normalised_score"]]

    @property
    def unusable(self) -> pd.DataFrame:
        """The images of the window that could not be judged, by key."""
        return self.scores[self.scores["verdict"] == "unusable"].sort_values("key")

    @property
    def flagged_images(self) -> int:
        """Number of flagged images in the window, whichever run judged them."""
        return int((self.scores["verdict"] == "flagged").sum())

    @property
    def judged_parts(self) -> int:
        """Number of parts with at least one image that could be judged."""
        return self.judged["part"].nunique()

    @property
    def uninspected_parts(self) -> int:
        """Number of parts none of whose recorded images could be judged."""
        return self.scores["part"].nunique() - self.judged_parts


@dataclass(frozen=True)
class FlaggedPart:
    """A part with at least one flagged image.

    Attributes:
        rank: 1 for the night's worst part.
        part: its name.
        images: the rows of its flagged images, worst first.
        judged_images: how many of its images could be judged.
    """

    rank: int
    part: str
    images: tuple[Any, ...]
    judged_images: int


@dataclass(frozen=True)
class HistogramBar:
    """One bin of the normalised score: counts, and heights in per cent of the highest axis tick."""

    low: float
    high: float
    ok: int
    flagged: int
    ok_height: float
    flagged_height: float


def flagged_parts(report: NightReport) -> list[FlaggedPart]:
    """The flagged parts of the window, the one with the highest score first."""
    flagged = report.scores[report.scores["verdict"] == "flagged"]
    # the raw score orders where the normalised one is too close to 1 to tell two images apart
    flagged = flagged.sort_values(["raw_score", "key"], ascending=[False, True])
    images_of: dict[str, list[Any]] = {}
    for image in flagged.itertuples(index=False, name="FlaggedImage"):
        images_of.setdefault(image.part, []).append(image)
    judged = Counter(report.judged["part"])
    return [
        FlaggedPart(rank, part, tuple(images), judged[part])
        for rank, (part, images) in enumerate(images_of.items(), start=1)
    ]


def _expected(report: NightReport) -> str:
    """What the limit promises of new images."""
    rate, bound = report.promised_false_reject_rate, report.guaranteed_false_reject_rate
    if bound <= rate + 1e-9:
        return f"at most {_percent(rate)} are flagged falsely."
    return (
        f"{_percent(rate)} are expected to be flagged falsely, at most {_percent(bound)} for certain: the limit comes "
        "from few parts."
    )


def scores_parquet(report: NightReport) -> bytes:
    """The scores as a parquet file with the columns and types of `SCORE_SCHEMA`, also on an empty night."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, SCORE_SCHEMA) as writer:
        for start in range(0, max(1, len(report.scores)), ROW_GROUP):
            writer.write_table(_as_arrow(report.scores.iloc[start : start + ROW_GROUP]))
    return buffer.getvalue()


def _as_arrow(scores: pd.DataFrame) -> pa.Table:
    columns = [pa.array(scores[field.name].tolist(), field.type, from_pandas=True) for field in SCORE_SCHEMA]
    return pa.Table.from_arrays(columns, schema=SCORE_SCHEMA)


def flagged_csv(report: NightReport) -> str:
    """Every flagged image, parts worst first, a part's images together (RFC 4180, with a header).

    Text that a spreadsheet would take for a formula gets a leading apostrophe; numbers are written in full precision.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(FLAGGED_CSV_COLUMNS)
    for part in flagged_parts(report):
        for image in part.images:
            cells = (getattr(image, column) for column in FLAGGED_CSV_COLUMNS[1:])
            writer.writerow([part.rank, *map(_csv_cell, cells)])
    return text.getvalue()


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
    return (
        _environment(report)
        .get_template("report.html.j2")
        .render(
            report=report,
            counts=report.counts,
            window=_window(report),
            headline=headline(report),
            problem=accounting_problem(report),
            tone=_tone(report),
            plausible=_plausible(report),
            bars=bars,
            ticks=ticks,
            parts=parts,
            cards=cards,
            rows=[(part, image) for part in parts if part.rank not in carded for image in part.images],
            shown=shown,
            max_rows=MAX_TABLE_ROWS,
            unusable=list(report.unusable.itertuples(index=False)),
            unusable_reasons=_reason_counts(report.unusable["reason"]),
            failures=list(report.failures.sort_values("key").itertuples(index=False)),
            failure_reasons=_reason_counts(report.failures["reason"]),
        )
    )


def night_markdown(report: NightReport) -> str:
    """The night in one screen of markdown: headline, counts, limit, promise and the worst parts."""
    counts = report.counts
    problem = accounting_problem(report)
    parts = flagged_parts(report)
    lines = [
        f"# {_markdown_text(report.line)}, {_window(report)}",
        "",
        f"**{headline(report)}**",
        *(["", f"**Warning:** {problem}"] if problem else []),
        "",
        "| listed | scored | scored earlier | unusable | failed | flagged images | flagged parts |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        f"| {counts.listed} | {counts.scored} | {counts.already_scored} | {counts.unusable} | {counts.failed} "
        f"| {report.flagged_images} | {len(parts)} |",
        "",
        f"{promise(report)} Reject limit: raw score {_number(report.reject_limit_raw)}. "
        f"Model {_markdown_text(report.model_name)} version {report.model_version}, "
        f"calibration {_markdown_text(report.calibration_id)}.",
    ]
    if parts:
        lines += ["", *_markdown_parts(parts)]
    return "\n".join(lines) + "\n"


def _require_columns(name: str, table: pd.DataFrame, columns: Iterable[str]) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(f"{name}: column{'' if len(missing) == 1 else 's'} {', '.join(missing)} missing")


def headline(report: NightReport) -> str:
    """The night in one sentence of plain text, made of numbers only."""
    counts = report.counts
    if counts.listed == 0 and report.scores.empty:
        return "No images in the bucket for this window: nothing was judged."
    if report.judged.empty:
        clauses = ["No part could be judged"]
    else:
        flagged = report.scores.loc[report.scores["verdict"] == "flagged", "part"].nunique()
        clauses = [f"{_integer(flagged) if flagged else 'None'} of {_counted(report.judged_parts, 'part')} flagged"]
    if len(report.unusable):
        clauses.append(f"{_counted(len(report.unusable), 'image')} unusable")
    if counts.failed:
        clauses.append(f"{_counted(counts.failed, 'image')} failed")
    if not accounting_problem(report):
        clauses.append(f"all {_integer(counts.listed)} images accounted for" if counts.listed > 1 else "accounted for")
    return ", ".join(clauses)


def promise(report: NightReport) -> str:
    """What the reject limit promises, in one sentence of plain text."""
    return (
        f"Of images like the {_integer(report.calibration_images)} calibration images of good parts, "
        f"{_expected(report)}"
    )


def accounting_problem(report: NightReport) -> str | None:
    """What does not add up in the run's numbers, or None."""
    counts = report.counts
    if counts.accounted != counts.listed:
        return (
            f"The numbers do not add up: {_integer(counts.listed)} images listed, but scored + scored earlier + "
            f"unusable + failed = {_integer(counts.accounted)}."
        )
    strays = int(report.failures["reason"].isin(STRAY_REASONS).sum())  # counted as unusable, but of no known part
    if len(report.scores) + strays < counts.listed - counts.failed:
        return (
            f"The report is incomplete: {_integer(counts.listed - counts.failed - strays)} images were judged, "
            f"but it holds {_integer(len(report.scores))} verdicts."
        )
    return None


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


def _plausible(report: NightReport) -> int | None:
    return plausible_false_rejects(len(report.judged), report.calibration_images, report.calibration_above)


def _tone(report: NightReport) -> str:
    if report.flagged_images or accounting_problem(report):
        return "alert"
    if report.judged.empty or report.counts.failed or report.uninspected_parts:
        return "gap"
    return "clear"


def _reason_counts(reasons: pd.Series) -> list[tuple[str, int]]:
    """How often each reason occurs, the most frequent first; what follows a colon is detail."""
    return Counter(str(reason).partition(":")[0] for reason in reasons).most_common()


def _environment(report: NightReport) -> jinja2.Environment:
    zone = ZoneInfo(report.timezone)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        integer=_integer,
        counted=_counted,
        number=_number,
        percent=_percent,
        score=lambda value: f"{value:.3f}",
        text=_text,
        jpeg_url=lambda data: f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}",
        local_time=lambda moment: _time(moment, zone),
        utc_time=lambda moment: _time(moment, UTC),
    )
    environment.globals["promise"] = promise(report)
    return environment


def _window(report: NightReport) -> str:
    """The production dates in words."""
    first, last = report.window_start, report.window_end
    if first == last:
        return f"{first:%A}, {first.day} {first:%B %Y}"
    return f"{first.day} {first:%B %Y} to {last.day} {last:%B %Y}"


def _time(moment: Any, zone: Any) -> str:
    """A moment in a zone, with the zone's abbreviation; naive moments are UTC, missing ones a dash."""
    if pd.isna(moment):
        return "\u2013"
    return f"{_utc(moment).astimezone(zone):%Y-%m-%d %H:%M %Z}"


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _text(value: Any) -> str:
    """Text for people; a dash for what is missing."""
    return "\u2013" if pd.isna(value) or value == "" else str(value)


def _integer(value: int) -> str:
    """12345 as 12 345, with narrow spaces that do not break: a comma would mean another thing in half of Europe."""
    return f"{value:,}".replace(",", "\u202f")


def _counted(value: int, noun: str) -> str:
    return f"{_integer(value)} {noun}{'' if value == 1 else 's'}"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g}\u00a0%"


def _csv_cell(value: Any) -> Any:
    """A cell that a spreadsheet shows and does not run; missing values are empty."""
    if isinstance(value, str):
        return spreadsheet_safe(value)
    if pd.isna(value):
        return ""
    if isinstance(value, datetime):
        return _utc(value).isoformat()
    return value.isoformat() if isinstance(value, date) else value


def _markdown_parts(parts: list[FlaggedPart]) -> Iterator[str]:
    yield "| # | part | view | production date | normalised score | raw score | p-value |"
    yield "| ---: | --- | --- | --- | ---: | ---: | ---: |"
    for part in parts[:MARKDOWN_PARTS]:
        worst = part.images[0]
        texts = f"{_markdown_text(part.part)} | {_markdown_text(worst.view)} | {worst.production_date:%Y-%m-%d}"
        figures = f"{worst.normalised_score:.3f} | {_number(worst.raw_score)} | {_number(worst.p_value)}"
        yield f"| {part.rank} | {texts} | {figures} |"
    if len(parts) > MARKDOWN_PARTS:
        yield ""
        yield f"{_counted(len(parts) - MARKDOWN_PARTS, 'more flagged part')}: see flagged.csv."


def _markdown_text(value: Any) -> str:
    """Text that stands in a table cell as it is: no markup, no link, no HTML, one line."""
    line = re.sub(r"[\x00-\x1f\x7f\u2028\u2029]+", " ", _text(value))
    entities = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
    plain = "-/ "
    return "".join(
        entities.get(char, f"\\{char}" if char in string.punctuation and char not in plain else char) for char in line
    )
