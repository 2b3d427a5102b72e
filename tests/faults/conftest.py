"""What can go wrong and what becomes of it: tests say it with the mark `fault`, docs/reliability.md is made of them.

`make reliability` runs the marked tests and writes the table; only what passed can be written. An ordinary run of the
whole suite compares the table with the marks (`test_reliability_table.py`).
"""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.postgres_cluster import Cluster, server_programs, tell

AREAS = (
    "Image file",
    "Key",
    "Object",
    "Camera",
    "S3",
    "Report store",
    "MLflow",
    "Prefect",
    "Process",
    "Disk",
    "Security",
)
TABLE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
HEAD = """# What can go wrong, and what becomes of it

Each row is a test; `make reliability` runs them all and writes this page. *Failed* means: named with its reason in the
run's record and in the report, tried again by the next run, and never silently missing.

`make fuzz` is the long form of the fuzz. With seeds 0 and 1, 100,000 files and keys each, it found nothing; a file took
at most 38 MB and 0.5 s (2 busy cores of an AMD EPYC). Of 200,000 damaged files of kinds with a checksum none
decoded to other pixels.
"""


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    area: str
    fault: str
    outcome: str
    test: str

    def __post_init__(self) -> None:
        if self.area not in AREAS:
            raise ValueError(f"{self.test}: area {self.area!r} is none of {', '.join(AREAS)}")


def faults_of(items: list[pytest.Item]) -> list[Fault]:
    """The rows that the marks of these tests make; cases that say the same are one row."""
    rows = {}
    for item in items:
        for mark in item.iter_markers("fault"):
            test = f"{item.path.relative_to(TABLE.parents[1]).as_posix()}::{item.originalname}"
            row = Fault(**mark.kwargs, test=test)
            rows[row.area, row.fault, row.outcome] = row
    return sorted(rows.values(), key=lambda row: (AREAS.index(row.area), row.test))


def as_markdown(rows: list[Fault]) -> str:
    """The whole page."""
    lines = [HEAD]
    for area in AREAS:
        mine = [row for row in rows if row.area == area]
        if mine:
            lines += [f"## {area}", "", "| fault | outcome | test |", "| --- | --- | --- |"]
            lines += [f"| {_cell(row.fault)} | {_cell(row.outcome)} | `{row.test}` |" for row in mine]
            lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


@pytest.fixture(scope="session")
def reliability_page(request: pytest.FixtureRequest) -> str:
    """The page that the marks of this session's tests make; skips when only a part of the tests was asked for."""
    marked = {path for path in TABLE.parents[1].glob("tests/**/test_*.py") if "mark.fault(" in path.read_text("utf-8")}
    missing = marked - {item.path for item in request.session.items}
    if missing or request.config.option.keyword or request.config.option.markexpr:
        pytest.skip("only a run of all tests knows the whole table")
    return as_markdown(faults_of(request.session.items))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the page when asked to and everything passed."""
    asked, ran = session.config.getoption("--write-reliability"), not session.config.option.collectonly
    if asked and ran and exitstatus == pytest.ExitCode.OK:
        TABLE.write_text(as_markdown(faults_of(session.items)), encoding="utf-8")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster that tests may stop; skips where PostgreSQL's server is not installed."""
    programs = server_programs()
    if programs is None:
        pytest.skip("PostgreSQL's initdb and postgres are not installed")
    # not below pytest's folder, which only the user who runs the tests may enter
    folder = Path(tempfile.mkdtemp(prefix="inspection-pg-"))
    cluster = Cluster(programs, folder)
    cluster.start()
    tell(f"{cluster.server}/postgres", "CREATE ROLE careful LOGIN PASSWORD 'right'")
    yield cluster
    cluster.stop("immediate")
    shutil.rmtree(folder)
