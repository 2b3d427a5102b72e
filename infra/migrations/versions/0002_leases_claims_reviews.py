"""Leases and claims of runs, reviews, runs that were interrupted, and indexes for audits."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)
_FLAGGED = sa.text("verdict = 'flagged'")


def upgrade() -> None:
    """Add the new tables, and change constraints and indexes of the old ones; all rows stay."""
    _create_lease_and_claim()
    _create_review()
    _replace_run_states("'running', 'completed', 'failed', 'interrupted'")
    _replace_image_indexes(("line", "key", "etag"), ("line", "part"), ("key", "line", "etag"), ("part", "line"))
    op.create_index(
        "ix_score_flagged",
        "score",
        ["image_id", "model_version", "calibration_id"],
        postgresql_where=_FLAGGED,
        sqlite_where=_FLAGGED,
    )
    op.create_index("ix_failure_key", "failure", ["key"])
    op.create_index("uq_promotion_line_alias_promoted_at", "promotion", ["line", "alias", "promoted_at"], unique=True)
    op.drop_index("ix_promotion_line", "promotion")


def downgrade() -> None:
    """Back to the first tables; reviews are lost and interrupted runs count as failed."""
    op.create_index("ix_promotion_line", "promotion", ["line"])
    op.drop_index("uq_promotion_line_alias_promoted_at", "promotion")
    op.drop_index("ix_failure_key", "failure")
    op.drop_index("ix_score_flagged", "score")
    _replace_image_indexes(("key", "line", "etag"), ("part", "line"), ("line", "key", "etag"), ("line", "part"))
    op.execute("UPDATE scoring_run SET state = 'failed' WHERE state = 'interrupted'")
    _replace_run_states("'running', 'completed', 'failed'")
    for table in ("review", "claim", "lease"):
        op.drop_table(table)


def _create_lease_and_claim() -> None:
    op.create_table(
        "lease",
        sa.Column("owner", sa.String, primary_key=True),
        sa.Column("expires_at", _TIME, nullable=False),
    )
    op.create_table(
        "claim",
        *(sa.Column(name, sa.String, primary_key=True) for name in ("line", "work", "key", "etag")),
        sa.Column("owner", sa.String, nullable=False),
    )
    op.create_index("ix_claim_owner", "claim", ["owner"])


def _create_review() -> None:
    op.create_table(
        "review",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("image_id", _ID, sa.ForeignKey("image.id", name="fk_review_image"), nullable=False),
        sa.Column("finding", sa.String, nullable=False),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("note", sa.String, nullable=False),
        sa.Column("reviewed_at", _TIME, nullable=False),
        sa.UniqueConstraint("image_id", "who", "reviewed_at", name="uq_review_image_who_reviewed_at"),
        sa.CheckConstraint("finding IN ('defect', 'good')", name="ck_review_finding"),
    )


def _replace_run_states(states: str) -> None:
    with op.batch_alter_table("scoring_run") as batch:
        batch.drop_constraint("ck_scoring_run_state", type_="check")
        batch.create_check_constraint("ck_scoring_run_state", f"state IN ({states})")


def _replace_image_indexes(
    old_key: tuple[str, ...], old_part: tuple[str, ...], new_key: tuple[str, ...], new_part: tuple[str, ...]
) -> None:
    with op.batch_alter_table("image") as batch:
        batch.drop_constraint(f"uq_image_{'_'.join(old_key)}", type_="unique")
        batch.create_unique_constraint(f"uq_image_{'_'.join(new_key)}", list(new_key))
    op.drop_index(f"ix_image_{'_'.join(old_part)}", "image")
    op.create_index(f"ix_image_{'_'.join(new_part)}", "image", list(new_part))
