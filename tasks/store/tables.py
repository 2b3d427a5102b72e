"""The report store's tables. Only this package imports them; rows stand in `tasks.store.rows`.

`infra/migrations` builds the same tables, and a test compares the two. Times are stored in UTC and are aware in Python.
"""

from datetime import UTC, datetime

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

region_table = sa.Table(
    "region",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("image_id", _Id, sa.ForeignKey("image.id", name="fk_region_image"), nullable=False),
    sa.Column("model_version", sa.Integer, nullable=False),
    sa.Column("calibration_id", sa.String, nullable=False),
    sa.Column("run_id", sa.String, sa.ForeignKey("scoring_run.id", name="fk_region_run"), nullable=False),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("x", sa.Integer, nullable=False),
    sa.Column("y", sa.Integer, nullable=False),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("centre_x", sa.Double, nullable=False),
    sa.Column("centre_y", sa.Double, nullable=False),
    sa.Column("area_px", sa.Integer, nullable=False),
    sa.Column("extent_px", sa.Double, nullable=False),
    sa.Column("heat", sa.Double, nullable=False),
    sa.UniqueConstraint(
        *("image_id", "model_version", "calibration_id", "place"), name="uq_region_image_model_calibration_place"
    ),
    sa.Index("ix_region_run_id", "run_id"),
)

# what a challenger says beside the verdict: no report, no limit and no training looks at it
shadow_table = sa.Table(
    "shadow",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("image_id", _Id, sa.ForeignKey("image.id", name="fk_shadow_image"), nullable=False),
    sa.Column("model_version", sa.Integer, nullable=False),
    sa.Column("calibration_id", sa.String, nullable=False),
    sa.Column("run_id", sa.String, sa.ForeignKey("scoring_run.id", name="fk_shadow_run"), nullable=False),
    sa.Column("normalised_score", sa.Double),
    sa.Column("verdict", sa.String, nullable=False),
    sa.UniqueConstraint("image_id", "model_version", "calibration_id", name="uq_shadow_image_model_calibration"),
    sa.CheckConstraint("verdict IN ('ok', 'flagged', 'unusable')", name="ck_shadow_verdict"),
    sa.Index("ix_shadow_run_id", "run_id"),
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
