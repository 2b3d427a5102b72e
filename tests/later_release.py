"""Software of a later release, whose report store has one more column than that of this one."""

import shutil
from pathlib import Path

import pytest
from alembic.config import Config

from tasks.store import database

NEXT_REVISION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "0006", "0005"


def upgrade():
    with op.batch_alter_table("image") as batch:
        batch.add_column(sa.Column("camera", sa.String))
"""


def become_a_later_release(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the report store use the migrations of a later release, which are written to the folder."""
    source = Path(database.__file__).parents[2] / "infra" / "migrations"
    migrations = Path(shutil.copytree(source, folder / "migrations"))
    (migrations / "versions" / "0006_next.py").write_text(NEXT_REVISION)
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    monkeypatch.setattr(database, "migrations", lambda: config)
