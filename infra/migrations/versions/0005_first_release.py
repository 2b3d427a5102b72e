"""The first release's tables. Stores of the revisions 0001 to 0004 were written before it.

It repeats the helpers of `tasks/store/tables.py` on purpose: what changes there later must not change the past here.
"""

from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_FLAGGED = sa.text("verdict = 'flagged'")
_DETECTOR = ("image_id", "model_version", "calibration_id")


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "image",
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
        sa.UniqueConstraint("key", "line", "etag", name="uq_image_key_line_etag"),
    )
    op.create_index("ix_image_part_line", "image", ["part", "line"])
    op.create_index("ix_image_line_production_date", "image", ["line", "production_date"])
    op.create_table(
        "scoring_run",
        sa.Column("id", sa.String, primary_key=True),
        *_texts("line"),
        *_dates("window_start", "window_end"),
        *_texts("model_name"),
        *_integers("model_version"),
        *_texts("calibration_id", "snapshot_id", "code_version", "flow_run_id", "state", "message"),
        *_times("started_at"),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        *_integers("listed", "scored", "already_scored", "unusable", "failed", "flagged"),
        sa.Column("report_key", sa.String),
        sa.CheckConstraint("state IN ('running', 'completed', 'failed', 'interrupted')", name="ck_scoring_run_state"),
        sa.CheckConstraint(
            "state <> 'completed' OR listed = scored + already_scored + unusable + failed",
            name="ck_scoring_run_adds_up",
        ),
    )
    op.create_index("ix_scoring_run_line_window", "scoring_run", ["line", "window_start", "window_end"])
    op.create_table(
        "score",
        *_of_image_and_run("score"),
        *(sa.Column(name, sa.Double) for name in ("raw_score", "normalised_score", "p_value")),
        *_texts("verdict"),
        *(sa.Column(name, sa.String) for name in ("reason", "heat_map_key")),
        *_times("scored_at"),
        sa.UniqueConstraint(*_DETECTOR, name="uq_score_image_model_calibration"),
        sa.CheckConstraint("verdict IN ('ok', 'flagged', 'unusable')", name="ck_score_verdict"),
        sa.CheckConstraint("(verdict = 'unusable') = (raw_score IS NULL)", name="ck_score_unusable_has_no_score"),
    )
    op.create_index("ix_score_run_id", "score", ["run_id"])
    op.create_index("ix_score_flagged", "score", list(_DETECTOR), postgresql_where=_FLAGGED, sqlite_where=_FLAGGED)
    op.create_table(
        "failure",
        _id(),
        _run("failure"),
        *_texts("key", "etag", "reason", "detail"),
        sa.UniqueConstraint("run_id", "key", "etag", name="uq_failure_run_key_etag"),
    )
    op.create_index("ix_failure_key", "failure", ["key"])
    op.create_table(
        "promotion",
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
    )
    op.create_index("uq_promotion_line_alias_promoted_at", "promotion", ["line", "alias", "promoted_at"], unique=True)
    op.create_table(
        "review",
        _id(),
        _image("review"),
        *_texts("finding", "who", "note"),
        *_times("reviewed_at"),
        sa.UniqueConstraint("image_id", "who", "reviewed_at", name="uq_review_image_who_reviewed_at"),
        sa.CheckConstraint("finding IN ('defect', 'good')", name="ck_review_finding"),
    )
    op.create_table("lease", sa.Column("work", sa.String, primary_key=True), *_texts("owner"), *_times("expires_at"))
    op.create_index("ix_lease_owner", "lease", ["owner"])
    op.create_table(
        "drift",
        _id(),
        _run("drift"),
        *_texts("figure"),
        *_doubles("night_median", "usual_median", "above_usual", "allowed"),
        sa.Column("changed", sa.Boolean, nullable=False),
        sa.UniqueConstraint("run_id", "figure", name="uq_drift_run_figure"),
    )
    op.create_table(
        "release",
        _id(),
        *_texts("line"),
        *_dates("window_start", "window_end"),
        *_integers("model_version"),
        *_texts("figures", "who", "why"),
        *_times("released_at"),
        sa.UniqueConstraint(
            "line", "window_start", "window_end", "released_at", name="uq_release_line_window_released_at"
        ),
    )
    op.create_table(
        "shadow",
        *_of_image_and_run("shadow"),
        sa.Column("normalised_score", sa.Double),
        *_texts("verdict"),
        sa.UniqueConstraint(*_DETECTOR, name="uq_shadow_image_model_calibration"),
        sa.CheckConstraint("verdict IN ('ok', 'flagged', 'unusable')", name="ck_shadow_verdict"),
    )
    op.create_index("ix_shadow_run_id", "shadow", ["run_id"])
    op.create_table(
        "region",
        *_of_image_and_run("region"),
        *_integers("place", "x", "y", "width", "height"),
        *_doubles("centre_x", "centre_y"),
        *_integers("area_px"),
        *_doubles("extent_px", "heat"),
        sa.UniqueConstraint(*_DETECTOR, "place", name="uq_region_image_model_calibration_place"),
    )
    op.create_index("ix_region_run_id", "region", ["run_id"])


def _id() -> sa.Column[int]:
    return sa.Column("id", _ID, primary_key=True)


def _image(table: str) -> sa.Column[int]:
    return sa.Column("image_id", _ID, sa.ForeignKey("image.id", name=f"fk_{table}_image"), nullable=False)


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
    return [sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in names]
