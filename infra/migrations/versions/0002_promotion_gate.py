"""What became of a model that wanted an alias, and what its gate measured."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add outcome, gate and flow run; what was recorded before was promoted."""
    with op.batch_alter_table("promotion") as batch:
        batch.add_column(sa.Column("outcome", sa.String, nullable=False, server_default="promoted"))
        batch.add_column(sa.Column("gate", sa.String, nullable=False, server_default=""))
        batch.add_column(sa.Column("flow_run_id", sa.String, nullable=False, server_default=""))
        batch.create_check_constraint(
            "ck_promotion_outcome", "outcome IN ('promoted', 'refused', 'waiting', 'rolled_back', 'found')"
        )


def downgrade() -> None:
    """Drop them again."""
    with op.batch_alter_table("promotion") as batch:
        batch.drop_constraint("ck_promotion_outcome", type_="check")
        for name in ("flow_run_id", "gate", "outcome"):
            batch.drop_column(name)
