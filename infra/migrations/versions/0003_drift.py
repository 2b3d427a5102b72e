"""Colour and position of images, how far a night is from what is usual, and who released a suspect one."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_FIGURES = ("red", "blue", "centre_x", "centre_y")


def upgrade() -> None:
    """Add four figures of an image and the tables drift and release."""
    with op.batch_alter_table("image") as batch:
        for name in _FIGURES:
            batch.add_column(sa.Column(name, sa.Double))
    op.create_table(
        "drift",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("run_id", sa.String, sa.ForeignKey("scoring_run.id", name="fk_drift_run"), nullable=False),
        sa.Column("figure", sa.String, nullable=False),
        *(
            sa.Column(name, sa.Double, nullable=False)
            for name in ("night_median", "usual_median", "above_usual", "allowed")
        ),
        sa.Column("changed", sa.Boolean, nullable=False),
        sa.UniqueConstraint("run_id", "figure", name="uq_drift_run_figure"),
    )
    op.create_table(
        "release",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("line", sa.String, nullable=False),
        *(sa.Column(name, sa.Date, nullable=False) for name in ("window_start", "window_end")),
        sa.Column("model_version", sa.Integer, nullable=False),
        *(sa.Column(name, sa.String, nullable=False) for name in ("figures", "who", "why")),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint(
            "line", "window_start", "window_end", "released_at", name="uq_release_line_window_released_at"
        ),
    )


def downgrade() -> None:
    """Drop them again."""
    op.drop_table("release")
    op.drop_table("drift")
    with op.batch_alter_table("image") as batch:
        for name in reversed(_FIGURES):
            batch.drop_column(name)
