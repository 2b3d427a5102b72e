"""The report store's tables. Only this package imports them; rows stand in `tasks.store.rows`.

`infra/migrations` builds the same tables, and a test compares the two. Times are stored in UTC and are aware in Python.
"""

from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa


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


_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # only INTEGER counts up by itself in SQLite
_FLAGGED = sa.text("verdict = 'flagged'")
_DETECTOR = ("image_id", "model_version", "calibration_id")
metadata = sa.MetaData()


def _id() -> sa.Column[int]:
    return sa.Column("id", _Id, primary_key=True)


def _image(table: str) -> sa.Column[int]:
    return sa.Column("image_id", _Id, sa.ForeignKey("image.id", name=f"fk_{table}_image"), nullable=False)


def _run(table: str) -> sa.Column[str]:
    return sa.Column("run_id", sa.String, sa.ForeignKey("scoring_run.id", name=f"fk_{table}_run"), nullable=False)


def _of_image_and_run(table: str) -> list[sa.Column[Any]]:
    """What a detector says of an image in a run."""
    return [_id(), _image(table), *_integers("model_version"), *_texts("calibration_id"), _run(table)]


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.String, nullable=False) for name in names]


def _integers(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.Integer, nullable=False) for name in names]


def _doubles(*names: str) -> list[sa.Column[float]]:
    return [sa.Column(name, sa.Double, nullable=False) for name in names]


def _dates(*names: str) -> list[sa.Column[date]]:
    return [sa.Column(name, sa.Date, nullable=False) for name in names]


def _times(*names: str) -> list[sa.Column[datetime]]:
    return [sa.Column(name, UtcDateTime, nullable=False) for name in names]


image_table = sa.Table(
    "image",
    metadata,
    _id(),
    *_texts("line", "key", "etag", "part", "view"),
    *_dates("production_date"),
    *_times("captured_at"),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    *_texts("sha256"),
    *(sa.Column(name, sa.Integer) for name in ("width_px", "height_px")),
    *(
        sa.Column(name, sa.Double)
        for name in ("brightness", "contrast", "sharpness", "red", "blue", "centre_x", "centre_y")
    ),
    sa.Column("usable", sa.Boolean, nullable=False),
    sa.Column("reason", sa.String),
    *_times("recorded_at"),
    # key and part come first: an audit may know nothing else
    sa.UniqueConstraint("key", "line", "etag", name="uq_image_key_line_etag"),
    sa.Index("ix_image_part_line", "part", "line"),
    sa.Index("ix_image_line_production_date", "line", "production_date"),
)

run_table = sa.Table(
    "scoring_run",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    *_texts("line"),
    *_dates("window_start", "window_end"),
    *_texts("model_name"),
    *_integers("model_version"),
    *_texts("calibration_id", "snapshot_id", "code_version", "flow_run_id", "state", "message"),
    *_times("started_at"),
    sa.Column("finished_at", UtcDateTime),
    *_integers("listed", "scored", "already_scored", "unusable", "failed", "flagged"),
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
    *_of_image_and_run("score"),
    *(sa.Column(name, sa.Double) for name in ("raw_score", "normalised_score", "p_value")),
    *_texts("verdict"),
    *(sa.Column(name, sa.String) for name in ("reason", "heat_map_key")),
    *_times("scored_at"),
    # also the index for "the scores of this image", and for a day's scores by way of the day's images
    sa.UniqueConstraint(*_DETECTOR, name="uq_score_image_model_calibration"),
    sa.CheckConstraint("verdict IN ('ok', 'flagged', 'unusable')", name="ck_score_verdict"),
    sa.CheckConstraint("(verdict = 'unusable') = (raw_score IS NULL)", name="ck_score_unusable_has_no_score"),
    sa.Index("ix_score_run_id", "run_id"),
    sa.Index("ix_score_flagged", *_DETECTOR, postgresql_where=_FLAGGED, sqlite_where=_FLAGGED),
)

region_table = sa.Table(
    "region",
    metadata,
    *_of_image_and_run("region"),
    *_integers("place", "x", "y", "width", "height"),
    *_doubles("centre_x", "centre_y"),
    *_integers("area_px"),
    *_doubles("extent_px", "heat"),
    sa.UniqueConstraint(*_DETECTOR, "place", name="uq_region_image_model_calibration_place"),
    sa.Index("ix_region_run_id", "run_id"),
)

# what a challenger says beside the verdict: no report, no limit and no training looks at it
shadow_table = sa.Table(
    "shadow",
    metadata,
    *_of_image_and_run("shadow"),
    sa.Column("normalised_score", sa.Double),
    *_texts("verdict"),
    sa.UniqueConstraint(*_DETECTOR, name="uq_shadow_image_model_calibration"),
    sa.CheckConstraint("verdict IN ('ok', 'flagged', 'unusable')", name="ck_shadow_verdict"),
    sa.Index("ix_shadow_run_id", "run_id"),
)

failure_table = sa.Table(
    "failure",
    metadata,
    _id(),
    _run("failure"),
    *_texts("key", "etag", "reason", "detail"),
    sa.UniqueConstraint("run_id", "key", "etag", name="uq_failure_run_key_etag"),
    sa.Index("ix_failure_key", "key"),
)

promotion_table = sa.Table(
    "promotion",
    metadata,
    _id(),
    *_texts("line", "model_name", "alias"),
    *_integers("version"),
    sa.Column("previous_version", sa.Integer),
    *_texts("who", "why"),
    *_times("promoted_at"),
    *_texts("outcome", "gate", "flow_run_id"),
    sa.CheckConstraint(
        "outcome IN ('promoted', 'refused', 'waiting', 'rolled_back', 'found')", name="ck_promotion_outcome"
    ),
    # also what makes a repeated insert of the same promotion harmless
    sa.Index("uq_promotion_line_alias_promoted_at", "line", "alias", "promoted_at", unique=True),
)

drift_table = sa.Table(
    "drift",
    metadata,
    _id(),
    _run("drift"),
    *_texts("figure"),
    *_doubles("night_median", "usual_median", "above_usual", "allowed"),
    sa.Column("changed", sa.Boolean, nullable=False),
    sa.UniqueConstraint("run_id", "figure", name="uq_drift_run_figure"),
)

release_table = sa.Table(
    "release",
    metadata,
    _id(),
    *_texts("line"),
    *_dates("window_start", "window_end"),
    *_integers("model_version"),
    *_texts("figures", "who", "why"),
    *_times("released_at"),
    sa.UniqueConstraint("line", "window_start", "window_end", "released_at", name="uq_release_line_window_released_at"),
)

review_table = sa.Table(
    "review",
    metadata,
    _id(),
    _image("review"),
    *_texts("finding", "who", "note"),
    *_times("reviewed_at"),
    sa.UniqueConstraint("image_id", "who", "reviewed_at", name="uq_review_image_who_reviewed_at"),
    sa.CheckConstraint("finding IN ('defect', 'good')", name="ck_review_finding"),
)

# an owner (a scoring run's id, or any other name) works on it, and is alive, as long as its lease lasts
lease_table = sa.Table(
    "lease",
    metadata,
    sa.Column("work", sa.String, primary_key=True),
    *_texts("owner"),
    *_times("expires_at"),
    sa.Index("ix_lease_owner", "owner"),
)
