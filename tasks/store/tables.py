"""The report store's tables, and its rows as Python sees them. Only this package imports the tables.

`infra/migrations` builds the same tables, and a test compares the two. Times are stored in UTC and are aware in Python.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Literal

import sqlalchemy as sa

RunState = Literal["running", "completed", "failed", "interrupted"]
Finding = Literal["defect", "good"]
PromotionOutcome = Literal["promoted", "refused", "waiting", "rolled_back", "found"]
"""What became of a model that wanted an alias. ``waiting``: it needs a person's approval; ``found``: MLflow had the
alias on this version although no row said so."""


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An aware time, in UTC on both sides. SQLite stores no zone, so it is put back when reading."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        """To UTC; ValueError for a time without a zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        """From the database, always aware."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# --- tables ---------------------------------------------------------------------------------------------------------

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # only INTEGER counts up by itself in SQLite
metadata = sa.MetaData()

image_table = sa.Table(
    "image",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("line", sa.String, nullable=False),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("etag", sa.String, nullable=False),
    sa.Column("part", sa.String, nullable=False),
    sa.Column("view", sa.String, nullable=False),
    sa.Column("production_date", sa.Date, nullable=False),
    sa.Column("captured_at", UtcDateTime, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String, nullable=False),
    sa.Column("width_px", sa.Integer),
    sa.Column("height_px", sa.Integer),
    sa.Column("brightness", sa.Double),
    sa.Column("contrast", sa.Double),
    sa.Column("sharpness", sa.Double),
    sa.Column("red", sa.Double),
    sa.Column("blue", sa.Double),
    sa.Column("centre_x", sa.Double),
    sa.Column("centre_y", sa.Double),
    sa.Column("usable", sa.Boolean, nullable=False),
    sa.Column("reason", sa.String),
    sa.Column("recorded_at", UtcDateTime, nullable=False),
    # key and part come first: an audit may know nothing else
    sa.UniqueConstraint("key", "line", "etag", name="uq_image_key_line_etag"),
    sa.Index("ix_image_part_line", "part", "line"),
    sa.Index("ix_image_line_production_date", "line", "production_date"),
)

run_table = sa.Table(
    "scoring_run",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("line", sa.String, nullable=False),
    sa.Column("window_start", sa.Date, nullable=False),
    sa.Column("window_end", sa.Date, nullable=False),
    sa.Column("model_name", sa.String, nullable=False),
    sa.Column("model_version", sa.Integer, nullable=False),
    sa.Column("calibration_id", sa.String, nullable=False),
    sa.Column("snapshot_id", sa.String, nullable=False),
    sa.Column("code_version", sa.String, nullable=False),
    sa.Column("flow_run_id", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("message", sa.String, nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("finished_at", UtcDateTime),
    sa.Column("listed", sa.Integer, nullable=False),
    sa.Column("scored", sa.Integer, nullable=False),
    sa.Column("already_scored", sa.Integer, nullable=False),
    sa.Column("unusable", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("flagged", sa.Integer, nullable=False),
    sa.Column("report_key", sa.String),
    sa.CheckConstraint("state IN ('running', 'completed', 'failed', 'interrupted')", name="ck_scoring_run_state"),
    sa.CheckConstraint(
        "state <> 'completed' OR listed = scored + already_scored + unusable + failed", name="ck_scoring_run_adds_up"
    ),
    sa.Index("ix_scoring_run_line_window", "line", "window_start", "window_end"),
)

score_table = sa.Table(
    "score",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("image_id", _Id, sa.ForeignKey("image.id", name="fk_score_image"), nullable=False),
    sa.Column("model_version", sa.Integer, nullable=False),
    sa.Column("calibration_id", sa.String, nullable=False),
    sa.Column("run_id", sa.String, sa.ForeignKey("scoring_run.id", name="fk_score_run"), nullable=False),
    sa.Column("raw_score", sa.Double),
    sa.Column("normalised_score", sa.Double),
    sa.Column("p_value", sa.Double),
    sa.Column("verdict", sa.String, nullable=False),
    sa.Column("reason", sa.String),
    sa.Column("heat_map_key", sa.String),
    sa.Column("scored_at", UtcDateTime, nullable=False),
    # also the index for "the scores of this image", and for a day's scores by way of the day's images
    sa.UniqueConstraint("image_id", "model_version", "calibration_id", name="uq_score_image_model_calibration"),
    sa.CheckConstraint("verdict IN ('ok', 'flagged', 'unusable')", name="ck_score_verdict"),
    sa.CheckConstraint("(verdict = 'unusable') = (raw_score IS NULL)", name="ck_score_unusable_has_no_score"),
    sa.Index("ix_score_run_id", "run_id"),
    sa.Index(
        "ix_score_flagged",
        *("image_id", "model_version", "calibration_id"),
        postgresql_where=sa.text("verdict = 'flagged'"),
        sqlite_where=sa.text("verdict = 'flagged'"),
    ),
)

failure_table = sa.Table(
    "failure",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("run_id", sa.String, sa.ForeignKey("scoring_run.id", name="fk_failure_run"), nullable=False),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("etag", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("detail", sa.String, nullable=False),
    sa.UniqueConstraint("run_id", "key", "etag", name="uq_failure_run_key_etag"),
    sa.Index("ix_failure_key", "key"),
)

promotion_table = sa.Table(
    "promotion",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("line", sa.String, nullable=False),
    sa.Column("model_name", sa.String, nullable=False),
    sa.Column("alias", sa.String, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("previous_version", sa.Integer),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("why", sa.String, nullable=False),
    sa.Column("promoted_at", UtcDateTime, nullable=False),
    sa.Column("outcome", sa.String, nullable=False, server_default="promoted"),
    sa.Column("gate", sa.String, nullable=False, server_default=""),
    sa.Column("flow_run_id", sa.String, nullable=False, server_default=""),
    sa.CheckConstraint(
        "outcome IN ('promoted', 'refused', 'waiting', 'rolled_back', 'found')", name="ck_promotion_outcome"
    ),
    # also what makes a repeated insert of the same promotion harmless
    sa.Index("uq_promotion_line_alias_promoted_at", "line", "alias", "promoted_at", unique=True),
)

drift_table = sa.Table(
    "drift",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("run_id", sa.String, sa.ForeignKey("scoring_run.id", name="fk_drift_run"), nullable=False),
    sa.Column("figure", sa.String, nullable=False),
    sa.Column("night_median", sa.Double, nullable=False),
    sa.Column("usual_median", sa.Double, nullable=False),
    sa.Column("above_usual", sa.Double, nullable=False),
    sa.Column("allowed", sa.Double, nullable=False),
    sa.Column("changed", sa.Boolean, nullable=False),
    sa.UniqueConstraint("run_id", "figure", name="uq_drift_run_figure"),
)

release_table = sa.Table(
    "release",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("line", sa.String, nullable=False),
    sa.Column("window_start", sa.Date, nullable=False),
    sa.Column("window_end", sa.Date, nullable=False),
    sa.Column("model_version", sa.Integer, nullable=False),
    sa.Column("figures", sa.String, nullable=False),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("why", sa.String, nullable=False),
    sa.Column("released_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("line", "window_start", "window_end", "released_at", name="uq_release_line_window_released_at"),
)

review_table = sa.Table(
    "review",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("image_id", _Id, sa.ForeignKey("image.id", name="fk_review_image"), nullable=False),
    sa.Column("finding", sa.String, nullable=False),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("note", sa.String, nullable=False),
    sa.Column("reviewed_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("image_id", "who", "reviewed_at", name="uq_review_image_who_reviewed_at"),
    sa.CheckConstraint("finding IN ('defect', 'good')", name="ck_review_finding"),
)

# an owner (a scoring run's id, or any other name) works on it, and is alive, as long as its lease lasts
lease_table = sa.Table(
    "lease",
    metadata,
    sa.Column("work", sa.String, primary_key=True),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Index("ix_lease_owner", "owner"),
)


# --- rows -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageRecord:
    """One image as it was ingested. Figures are None where the image could not be decoded; `reason` when unusable."""

    key: str
    etag: str
    part: str
    view: str
    production_date: date
    captured_at: datetime
    size_bytes: int
    sha256: str
    usable: bool
    reason: str | None = None
    width_px: int | None = None
    height_px: int | None = None
    brightness: float | None = None
    contrast: float | None = None
    sharpness: float | None = None
    red: float | None = None
    blue: float | None = None
    centre_x: float | None = None
    centre_y: float | None = None


@dataclass(frozen=True)
class ScoreRecord:
    """What a detector says about one image; no scores when the verdict is ``unusable``."""

    verdict: Literal["ok", "flagged", "unusable"]
    raw_score: float | None = None
    normalised_score: float | None = None
    p_value: float | None = None
    reason: str | None = None
    heat_map_key: str | None = None


@dataclass(frozen=True)
class JudgedImage:
    """An image and what a detector says about it."""

    image: ImageRecord
    score: ScoreRecord


@dataclass(frozen=True)
class FailureRecord:
    """An image that could not be judged in this run: vanished, changed, or not to be fetched."""

    key: str
    etag: str
    reason: str
    detail: str


@dataclass(frozen=True)
class ScoringRun:
    """One row of table `scoring_run`."""

    id: str
    line: str
    window_start: date
    window_end: date
    model_name: str
    model_version: int
    calibration_id: str
    snapshot_id: str
    code_version: str
    flow_run_id: str
    state: RunState
    message: str
    started_at: datetime
    finished_at: datetime | None
    listed: int
    scored: int
    already_scored: int
    unusable: int
    failed: int
    flagged: int
    report_key: str | None


@dataclass(frozen=True)
class Promotion:
    """One row of table `promotion`: what was decided about a version and an alias, by whom and why.

    Attributes:
        line: its name.
        model_name: the registered model.
        alias: that the version has now, or keeps.
        version: that was decided about.
        previous_version: that had the alias before.
        who: a person, or the flow.
        why: in words.
        promoted_at: when.
        outcome: what became of it.
        gate: the gate's checks as JSON, see `tasks.promotion.gate`; empty where it was not asked.
        flow_run_id: Prefect's.
    """

    line: str
    model_name: str
    alias: str
    version: int
    previous_version: int | None
    who: str
    why: str
    promoted_at: datetime
    outcome: PromotionOutcome = "promoted"
    gate: str = ""
    flow_run_id: str = ""


@dataclass(frozen=True)
class DriftRecord:
    """One figure of a night beside what is usual on the line.

    Attributes:
        figure: a quality figure of images, or ``score``.
        night_median: of the night's usable images.
        usual_median: of the images that the model learned from; of the calibration images for ``score``.
        above_usual: chance that an image of the night has a higher figure than a usual one, ties half, [0, 1].
        allowed: how far that may lie from one half.
        changed: whether it lies further.
    """

    figure: str
    night_median: float
    usual_median: float
    above_usual: float
    allowed: float
    changed: bool


@dataclass(frozen=True)
class Release:
    """One row of table `release`: somebody said that the verdicts of a suspect window may be used.

    Attributes:
        line: its name.
        window_start: first production date.
        window_end: last production date, included.
        model_version: whose verdicts.
        figures: that were not as usual then, separated by commas; another one withholds the window again.
        who: a person.
        why: in words.
        released_at: when.
    """

    line: str
    window_start: date
    window_end: date
    model_version: int
    figures: str
    who: str
    why: str
    released_at: datetime


@dataclass(frozen=True, kw_only=True)
class StoredImage(ImageRecord):
    """One row of table `image`."""

    id: int
    line: str
    recorded_at: datetime


@dataclass(frozen=True)
class StoredScore:
    """One row of table `score`, with what its image and line are."""

    image_id: int
    key: str
    etag: str
    line: str
    run_id: str
    model_version: int
    calibration_id: str
    raw_score: float | None
    normalised_score: float | None
    p_value: float | None
    verdict: Literal["ok", "flagged", "unusable"]
    reason: str | None
    heat_map_key: str | None
    scored_at: datetime


@dataclass(frozen=True, kw_only=True)
class StoredFailure(FailureRecord):
    """One row of table `failure`, with the time at which its run started."""

    run_id: str
    started_at: datetime


@dataclass(frozen=True)
class Review:
    """One row of table `review`: what a person found on the part that an image shows."""

    image_id: int
    finding: Finding
    who: str
    note: str
    reviewed_at: datetime
