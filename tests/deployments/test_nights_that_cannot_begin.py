"""What an operator is told when a night cannot begin: tables older or newer than the code, dates in the wrong order."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect.logging.configuration import setup_logging
from typer.testing import CliRunner

from deployments.commands.inspection import app
from deployments.steps import upgrade_report_store
from tasks.store.database import SchemaError
from tasks.store.store import ReportStore
from tests.later_release import become_a_later_release

LINE = "plates"


class Log(logging.Handler):
    """What Prefect logs about flows, as it stands in a log file."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Take it down."""
        self.text += self.format(record) + "\n"


@pytest.fixture
def log(environment: str, prefect_server: None, write_line: Callable[..., Path]) -> Iterator[Log]:
    """What flows of a line log."""
    write_line(LINE)
    setup_logging()  # otherwise Prefect would do it within the command, whose standard error is not there for long
    log = Log()
    logging.getLogger("prefect.flow_runs").addHandler(log)
    yield log
    logging.getLogger("prefect.flow_runs").removeHandler(log)


def error_of(log: Log, *arguments: str) -> str:
    """What the command tells an operator in one line; fails if it or the log say more than that."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert "Encountered exception during execution" in log.text
    assert "Traceback" not in log.text
    return said


def test_dates_in_the_wrong_order(log: Log) -> None:
    """Broken if a slip of the hand ends in pages of the engine's own calls."""
    said = error_of(log, "ingest", LINE, "--from", "2026-03-08", "--to", "2026-03-01")
    assert said == "error: the window ends on 2026-03-01, before it starts on 2026-03-08; exchange them"


def test_a_night_does_not_begin_on_older_tables(
    log: Log, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken if a worker that was updated before its database ends in SQL errors, or changes the tables itself."""
    monkeypatch.setenv("INSPECTION_STORE_URL", postgres_url)
    upgrade_report_store()
    become_a_later_release(tmp_path, monkeypatch)
    said = error_of(log, "nightly", LINE, "--date", "2026-03-08")
    assert said.endswith("its tables are older than this software needs; run `inspection db upgrade`")
    upgrade_report_store()  # what a deployment does
    with ReportStore(postgres_url) as store:
        store.check()
        assert store.runs.of_line(LINE, 1) == []


def test_a_night_does_not_begin_on_newer_tables(log: Log, tmp_path: Path) -> None:
    """Broken if a worker that was not updated writes into tables that it does not understand, or deploys over them."""
    url = os.environ["INSPECTION_STORE_URL"]
    with ReportStore(url) as store:
        store.prepare()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    before = (tmp_path / "inspection.db").read_bytes()
    said = error_of(log, "nightly", LINE, "--date", "2026-03-08")
    assert said.endswith("its tables are newer than this software; install the newer version")
    with pytest.raises(SchemaError, match="newer than this software; nothing was changed"):
        upgrade_report_store()
    assert (tmp_path / "inspection.db").read_bytes() == before
