"""What a challenger says beside the verdicts of a night."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the table shadow."""
    op.create_table(
        "shadow",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("image_id", _ID, sa.ForeignKey("image.id", name="fk_shadow_image"), nullable=False),
        sa.Column("model_version", sa.Integer, nullable=False),
        sa.Column("calibration_id", sa.String, nullable=False),
        sa.Column("run_id", sa.String, sa.ForeignKey("scoring_run.id", name="fk_shadow_run"), nullable=False),
        sa.Column("normalised_score", sa.Double),
        sa.Column("verdict", sa.String, nullable=False),
        sa.UniqueConstraint("image_id", "model_version", "calibration_id", name="uq_shadow_image_model_calibration"),
        sa.CheckConstraint("verdict IN ('ok', 'flagged', 'unusable')", name="ck_shadow_verdict"),
    )
    op.create_index("ix_shadow_run_id", "shadow", ["run_id"])


def downgrade() -> None:
    """Drop it again."""
    op.drop_table("shadow")
