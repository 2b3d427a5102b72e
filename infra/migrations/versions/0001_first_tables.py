"""The first tables: image, scoring_run, score, failure, promotion, review, lease."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)
_FLAGGED = sa.text("verdict = 'flagged'")


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "image",
        sa.Column("id", _ID, primary_key=True),
        *_texts("line", "key", "etag", "part", "view"),
        sa.Column("production_date", sa.Date, nullable=False),
        sa.Column("captured_at", _TIME, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        *_texts("sha256"),
        *(sa.Column(name, sa.Integer) for name in ("width_px", "height_px")),
        *(sa.Column(name, sa.Double) for name in ("brightness", "contrast", "sharpness")),
        sa.Column("usable", sa.Boolean, nullable=False),
        sa.Column("reason", sa.String),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.UniqueConstraint("key", "line", "etag", name="uq_image_key_line_etag"),
    )
    op.create_index("ix_image_part_line", "image", ["part", "line"])
    op.create_index("ix_image_line_production_date", "image", ["line", "production_date"])
    op.create_table(
        "scoring_run",
        sa.Column("id", sa.String, primary_key=True),
        *_texts("line"),
        *(sa.Column(name, sa.Date, nullable=False) for name in ("window_start", "window_end")),
        *_texts("model_name"),
        sa.Column("model_version", sa.Integer, nullable=False),
        *_texts("calibration_id", "snapshot_id", "code_version", "flow_run_id", "state", "message"),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME),
        *(
            sa.Column(name, sa.Integer, nullable=False)
            for name in ("listed", "scored", "already_scored", "unusable", "failed", "flagged")
        ),
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
        sa.Column("id", _ID, primary_key=True),
        sa.Column("image_id", _ID, sa.ForeignKey("image.id", name="fk_score_image"), nullable=False),
        sa.Column("model_version", sa.Integer, nullable=False),
        *_texts("calibration_id"),
        sa.Column("run_id", sa.String, sa.ForeignKey("scoring_run.id", name="fk_score_run"), nullable=False),
        *(sa.Column(name, sa.Double) for name in ("raw_score", "normalised_score", "p_value")),
        *_texts("verdict"),
        *(sa.Column(name, sa.String) for name in ("reason", "heat_map_key")),
        sa.Column("scored_at", _TIME, nullable=False),
        sa.UniqueConstraint("image_id", "model_version", "calibration_id", name="uq_score_image_model_calibration"),
        sa.CheckConstraint("verdict IN ('ok', 'flagged', 'unusable')", name="ck_score_verdict"),
        sa.CheckConstraint("(verdict = 'unusable') = (raw_score IS NULL)", name="ck_score_unusable_has_no_score"),
    )
    op.create_index("ix_score_run_id", "score", ["run_id"])
    detector = ["image_id", "model_version", "calibration_id"]
    op.create_index("ix_score_flagged", "score", detector, postgresql_where=_FLAGGED, sqlite_where=_FLAGGED)
    op.create_table(
        "failure",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("run_id", sa.String, sa.ForeignKey("scoring_run.id", name="fk_failure_run"), nullable=False),
        *_texts("key", "etag", "reason", "detail"),
        sa.UniqueConstraint("run_id", "key", "etag", name="uq_failure_run_key_etag"),
    )
    op.create_index("ix_failure_key", "failure", ["key"])
    op.create_table(
        "promotion",
        sa.Column("id", _ID, primary_key=True),
        *_texts("line", "model_name", "alias"),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("previous_version", sa.Integer),
        *_texts("who", "why"),
        sa.Column("promoted_at", _TIME, nullable=False),
    )
    op.create_index("uq_promotion_line_alias_promoted_at", "promotion", ["line", "alias", "promoted_at"], unique=True)
    op.create_table(
        "review",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("image_id", _ID, sa.ForeignKey("image.id", name="fk_review_image"), nullable=False),
        *_texts("finding", "who", "note"),
        sa.Column("reviewed_at", _TIME, nullable=False),
        sa.UniqueConstraint("image_id", "who", "reviewed_at", name="uq_review_image_who_reviewed_at"),
        sa.CheckConstraint("finding IN ('defect', 'good')", name="ck_review_finding"),
    )
    op.create_table(
        "lease",
        sa.Column("work", sa.String, primary_key=True),
        *_texts("owner"),
        sa.Column("expires_at", _TIME, nullable=False),
    )
    op.create_index("ix_lease_owner", "lease", ["owner"])


def downgrade() -> None:
    """Drop all tables."""
    for table in ("lease", "review", "promotion", "failure", "score", "scoring_run", "image"):
        op.drop_table(table)


def _texts(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.String, nullable=False) for name in names]
