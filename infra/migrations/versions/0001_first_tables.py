"""The first tables: image, scoring_run, score, failure, promotion."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create all tables."""
    _create_image()
    _create_scoring_run()
    _create_score()
    op.create_table(
        "failure",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("run_id", sa.String, sa.ForeignKey("scoring_run.id", name="fk_failure_run"), nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("etag", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("detail", sa.String, nullable=False),
        sa.UniqueConstraint("run_id", "key", "etag", name="uq_failure_run_key_etag"),
    )
    op.create_table(
        "promotion",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("line", sa.String, nullable=False),
        sa.Column("model_name", sa.String, nullable=False),
        sa.Column("alias", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("previous_version", sa.Integer),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("why", sa.String, nullable=False),
        sa.Column("promoted_at", _TIME, nullable=False),
    )
    op.create_index("ix_promotion_line", "promotion", ["line"])


def downgrade() -> None:
    """Drop all tables."""
    for table in ("promotion", "failure", "score", "scoring_run", "image"):
        op.drop_table(table)


def _create_image() -> None:
    op.create_table(
        "image",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("line", sa.String, nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("etag", sa.String, nullable=False),
        sa.Column("part", sa.String, nullable=False),
        sa.Column("view", sa.String, nullable=False),
        sa.Column("production_date", sa.Date, nullable=False),
        sa.Column("captured_at", _TIME, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String, nullable=False),
        sa.Column("width_px", sa.Integer),
        sa.Column("height_px", sa.Integer),
        sa.Column("brightness", sa.Double),
        sa.Column("contrast", sa.Double),
        sa.Column("sharpness", sa.Double),
        sa.Column("usable", sa.Boolean, nullable=False),
        sa.Column("reason", sa.String),
        sa.Column("recorded_at", _TIME, nullable=False),
        sa.UniqueConstraint("line", "key", "etag", name="uq_image_line_key_etag"),
    )
    op.create_index("ix_image_line_part", "image", ["line", "part"])
    op.create_index("ix_image_line_production_date", "image", ["line", "production_date"])


def _create_scoring_run() -> None:
    op.create_table(
        "scoring_run",
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
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME),
        *(
            sa.Column(name, sa.Integer, nullable=False)
            for name in ("listed", "scored", "already_scored", "unusable", "failed", "flagged")
        ),
        sa.Column("report_key", sa.String),
        sa.CheckConstraint("state IN ('running', 'completed', 'failed')", name="ck_scoring_run_state"),
        sa.CheckConstraint(
            "state <> 'completed' OR listed = scored + already_scored + unusable + failed",
            name="ck_scoring_run_adds_up",
        ),
    )
    op.create_index("ix_scoring_run_line_window", "scoring_run", ["line", "window_start", "window_end"])


def _create_score() -> None:
    op.create_table(
        "score",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("image_id", _ID, sa.ForeignKey("image.id", name="fk_score_image"), nullable=False),
        sa.Column("model_version", sa.Integer, nullable=False),
        sa.Column("calibration_id", sa.String, nullable=False),
        sa.Column("run_id", sa.String, sa.ForeignKey("scoring_run.id", name="fk_score_run"), nullable=False),
        sa.Column("raw_score", sa.Double),
        sa.Column("normalised_score", sa.Double),
        sa.Column("p_value", sa.Double),
        sa.Column("verdict", sa.String, nullable=False),
        sa.Column("reason", sa.String),
        sa.Column("heat_map_key", sa.String),
        sa.Column("scored_at", _TIME, nullable=False),
        sa.UniqueConstraint("image_id", "model_version", "calibration_id", name="uq_score_image_model_calibration"),
        sa.CheckConstraint("verdict IN ('ok', 'flagged', 'unusable')", name="ck_score_verdict"),
        sa.CheckConstraint("(verdict = 'unusable') = (raw_score IS NULL)", name="ck_score_unusable_has_no_score"),
    )
    op.create_index("ix_score_run_id", "score", ["run_id"])
