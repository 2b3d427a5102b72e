"""A line that has ingested its week and trained its first model. It is made once, and each test gets a copy."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from flows.ingest_images import ingest_images
from flows.train_ganomaly import train_ganomaly
from infra.local_s3 import LocalS3
from tasks.bucket.bucket import ObjectStore
from tests.conftest import point_to, write_line_file
from tests.flows.plates import LAST_DAY, LINE, WEEK, key_of, plate, week


@pytest.fixture(scope="session")
def trained_line(
    s3: LocalS3, prefect_server: None, empty_mlflow_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The work folder of a line after its week was ingested and its first model trained."""
    folder = tmp_path_factory.mktemp("trained-line")
    with pytest.MonkeyPatch.context() as patch:
        point_to(s3, folder, "trained-line", empty_mlflow_database, patch)
        write_line_file(LINE)
        with ObjectStore("trained-line", s3.endpoint_url) as bucket:
            bucket.create_bucket_if_missing()
            for key, data in week().items():
                bucket.put(key, data, "image/png")
        ingest_images(LINE, WEEK[0], WEEK[-1])
        train_ganomaly(LINE, device="cpu")
    return folder


@pytest.fixture
def copy_trained_line(trained_line: Path, environment: str, tmp_path: Path) -> Callable[[], None]:
    """A function that gives the line's records, MLflow and models to the test's own work folder."""

    def copy() -> None:
        for name in ("mlartifacts", "lines"):
            shutil.copytree(trained_line / name, tmp_path / name, dirs_exist_ok=True)
        for name in ("inspection.db", "mlflow.db"):
            with (
                closing(sqlite3.connect(trained_line / name)) as original,
                closing(sqlite3.connect(tmp_path / name)) as mine,
            ):
                original.backup(mine)
                _replace_text(mine, str(trained_line), str(tmp_path))

    return copy


def _replace_text(database: sqlite3.Connection, old: str, new: str) -> None:
    """In every column of every table: MLflow records where its artifacts lie."""
    tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})") if "CHAR" in row[2].upper()]
        for column in columns:
            database.execute(
                f'UPDATE {table} SET "{column}" = replace("{column}", ?, ?) WHERE instr("{column}", ?)', (old, new, old)
            )
    database.commit()


@pytest.fixture
def plant(bucket: ObjectStore, write_line: Callable[..., Path]) -> ObjectStore:
    """A bucket with six days of good plates and a last day of good, defective and unusable ones."""
    write_line(LINE)
    for key, data in week().items():
        bucket.put(key, data, "image/png")
    for number in range(20):  # these good ones are not mostly above the median of 19, which would withhold the night
        bucket.put(key_of(LAST_DAY, f"g{number:04}"), plate(7000 + number), "image/png")
        bucket.put(key_of(LAST_DAY, f"d{number:04}"), plate(2000 + number, defect=True), "image/png")
    bucket.put(key_of(LAST_DAY, "cut"), plate(3000)[:900], "image/png")
    bucket.put(key_of(LAST_DAY, "page"), b"<html>502</html>", "image/png")
    bucket.put(f"images/{LINE}/{LAST_DAY}/README", b"x", "text/plain")
    return bucket


@pytest.fixture
def trained(plant: ObjectStore, copy_trained_line: Callable[[], None]) -> ObjectStore:
    """The plant after its week was ingested and its first model trained."""
    copy_trained_line()
    return plant
