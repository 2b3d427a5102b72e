"""Where on a flagged image it does not look normal."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the table region."""
    op.create_table(
        "region",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("image_id", _ID, sa.ForeignKey("image.id", name="fk_region_image"), nullable=False),
        sa.Column("model_version", sa.Integer, nullable=False),
        sa.Column("calibration_id", sa.String, nullable=False),
        sa.Column("run_id", sa.String, sa.ForeignKey("scoring_run.id", name="fk_region_run"), nullable=False),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("place", "x", "y", "width", "height")),
        *(sa.Column(name, sa.Double, nullable=False) for name in ("centre_x", "centre_y")),
        sa.Column("area_px", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Double, nullable=False) for name in ("extent_px", "heat")),
        sa.UniqueConstraint(
            *("image_id", "model_version", "calibration_id", "place"), name="uq_region_image_model_calibration_place"
        ),
    )
    op.create_index("ix_region_run_id", "region", ["run_id"])


def downgrade() -> None:
    """Drop it again."""
    op.drop_table("region")
