"""Real outside systems for the tests: one server of each kind per session, fresh contents per test; small lines."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from prefect.testing.utilities import prefect_test_harness

from ganomaly.judges import image_vectors
from infra.local_s3 import LocalS3
from tasks.bucket.bucket import ObjectStore
from tasks.process import set_up_process
from tasks.registry.registry import ModelRegistry
from tasks.store.store import ReportStore

SHIPPED_COPIES = image_vectors.N_COPIES
POSTGRES_FOLDERS = ("/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin")


SMALL_LINE: dict[str, dict[str, Any]] = {
    "images": {},
    "recipe": {"size_px": 32},
    "network": {"features": 16, "latent_size": 32},
    "training": {"epochs": 3, "batch_size": 16},
    "quality": {"min_sharpness": 0.0},
    "calibration": {"false_reject_rate": 0.05, "calibrate_fraction": 0.25},
    "scoring": {"chunk_size": 16, "shard_size": 32},
    "models": {},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--write-reliability`, see `faults/conftest.py`, and `--long`, see `faults/test_kills.py`."""
    parser.addoption("--write-reliability", action="store_true", help="write docs/reliability.md from the fault marks")
    parser.addoption("--long", action="store_true", help="let the database be away for a minute instead of seconds")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse what would write an incomplete page."""
    if config.getoption("--write-reliability") and config.getoption("numprocesses", None):
        raise pytest.UsageError("--write-reliability: each worker of -n sees its own tests only; leave -n out")


@pytest.fixture(scope="session", autouse=True)
def _process() -> None:
    """The settings that every process of the pipeline has."""
    set_up_process()


@pytest.fixture(scope="session", autouse=True)
def _few_copies() -> None:
    """A quarter of the copies with drawn defects: the tests' small maps need no more, and a fit takes a third."""
    image_vectors.N_COPIES = 128


@pytest.fixture
def as_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """All copies, for tests of the defaults themselves."""
    monkeypatch.setattr(image_vectors, "N_COPIES", SHIPPED_COPIES)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalS3]:
    """A running S3 server over an empty folder."""
    with LocalS3(tmp_path_factory.mktemp("s3") / "data") as server:
        yield server


def point_to(s3: LocalS3, folder: Path, bucket: str, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point `Settings()` and boto3 to the S3 server, and everything else below a folder."""
    shutil.copy(mlflow_database, folder / "mlflow.db")
    for name in [name for name in os.environ if name.startswith(("INSPECTION_", "AWS_"))]:
        monkeypatch.delenv(name)
    (folder / "lines").mkdir()
    ours = {
        **s3.environment(),
        "INSPECTION_BUCKET": bucket,
        "INSPECTION_WORK_DIR": str(folder),
        "INSPECTION_STORE_URL": f"sqlite:///{folder}/inspection.db",
        "INSPECTION_MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "INSPECTION_MLFLOW_ARTIFACT_ROOT": str(folder / "mlartifacts"),
        "INSPECTION_LINES_DIR": str(folder / "lines"),
    }
    for name, value in ours.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def environment(s3: LocalS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_mlflow_database: Path) -> str:
    """Point `Settings()` and boto3 to the S3 server, and everything else below `tmp_path`; gives the bucket's name.

    Line files are read from `tmp_path/lines`, which is empty; MLflow's tables are there. Child processes inherit all.
    """
    bucket = f"test-{uuid4().hex[:12]}"
    point_to(s3, tmp_path, bucket, empty_mlflow_database, monkeypatch)
    return bucket


@pytest.fixture
def bucket(environment: str, s3: LocalS3) -> Iterator[ObjectStore]:
    """A fresh, empty bucket, to which `Settings()` points."""
    with ObjectStore(environment, s3.endpoint_url) as objects:
        objects.create_bucket_if_missing()
        yield objects


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ReportStore]:
    """A fresh report store on SQLite; the one that `Settings()` names where `bucket` is used too."""
    with ReportStore(f"sqlite:///{tmp_path}/inspection.db") as store:
        store.prepare()
        yield store


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect API with a database of its own."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def empty_mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, created once: its own migrations take seconds for each new database."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    ModelRegistry(f"sqlite:///{path}").champion("none")
    return path


def write_line_file(line: str, **tables: dict[str, Any]) -> Path:
    """Write a line file of a small, fast detector; tables given by name replace single settings."""
    text = [f'name = "{line}"', 'timezone = "Europe/Berlin"']
    for name in dict.fromkeys([*SMALL_LINE, *tables]):
        text.append(f"[{name}]")
        settings = SMALL_LINE.get(name, {}) | tables.get(name, {})
        text += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]  # a JSON scalar or list is TOML's
    path = Path(os.environ["INSPECTION_LINES_DIR"]) / f"{line}.toml"
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def write_line(environment: str) -> Callable[..., Path]:
    """`write_line_file`, into the folder that `Settings()` names."""
    return write_line_file


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a throw-away PostgreSQL cluster; skips where the server is not installed."""
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL's initdb and postgres are not installed")
    # not below pytest's folder, which only the user who runs the tests may enter: the server refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="inspection-pg-"))
    user = _server_user(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    init = [programs / "initdb", "-D", folder / "data", "-U", "inspection", "-A", "trust", "-E", "UTF8", "--locale=C"]
    subprocess.run([*init, "--no-sync"], check=True, capture_output=True, cwd=folder, **user)
    control = [programs / "pg_ctl", "-D", folder / "data", "-w"]
    options = f"-h 127.0.0.1 -p {port} -k {folder} -F"
    subprocess.run([*control, "-l", folder / "log", "-o", options, "start"], check=True, cwd=folder, **user)
    try:
        yield f"postgresql+psycopg://inspection@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, cwd=folder, **user)
        shutil.rmtree(folder)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of a fresh, empty PostgreSQL database."""
    name = f"test_{uuid4().hex[:12]}"
    engine = sa.create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield sa.make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


def _postgres_programs() -> Path | None:
    on_path = shutil.which("initdb")
    folders = [Path(on_path).parent] if on_path else []
    for pattern in POSTGRES_FOLDERS:
        folders += sorted(Path("/").glob(pattern.removeprefix("/")), reverse=True)
    return next((folder for folder in folders if (folder / "pg_ctl").is_file()), None)


def _server_user(folder: Path) -> dict[str, object]:
    """As root, another user for the server, who then owns its folder."""
    if os.geteuid() != 0:
        return {}
    shutil.chown(folder, "nobody")
    return {"user": "nobody", "extra_groups": []}
