"""Secrets stay where they belong, models are no programs, SQL is bound, servers listen on this machine only."""

import ast
import base64
import json
import os
import pickletools
import re
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote
from uuid import uuid4

import cv2
import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from mlflow.cli import server as mlflow_server_command
from prefect.settings.models.server.api import ServerAPISettings

from infra.local_s3 import LocalS3
from tasks.store.store import ReportStore

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("ganomaly", "tasks", "flows", "deployments", "infra")
LINE = "plates"
WEEK = [date(2026, 3, day) for day in range(2, 8)]
LAST_DAY = date(2026, 3, 8)
LINE_FILE = """name = "plates"
[recipe]
size_px = 32
[network]
features = 16
latent_size = 32
[training]
epochs = 1
batch_size = 16
[quality]
min_sharpness = 0.0
[calibration]
false_reject_rate = 0.05
calibrate_fraction = 0.3
"""

# --- a night with secrets -------------------------------------------------------------------------------------------

# One process runs all steps; their environment comes through a pipe, so that no file and no command line holds it.
# After training, every program inside the registered model is made to betray that it was run.
RUN_STEPS = """
import functools, json, os, pathlib, sys, traceback
import tasks.steps
tasks.steps.NETWORK_STEP["retries"] = 0  # waiting shows nothing here
import mlflow.store.db.utils
mlflow.store.db.utils.MAX_RETRY_COUNT = 1
import tasks.systems
tasks.systems.ReportStore = functools.partial(tasks.systems.ReportStore, patience_s=0)
tasks.systems.ObjectStore = functools.partial(tasks.systems.ObjectStore, attempts=1)
from deployments.commands.inspection import app
before = dict(os.environ)
for step in json.load(sys.stdin):
    os.environ.clear()
    os.environ.update(before | step["environment"])
    print("--- step", step["name"], flush=True)
    try:
        code = app(step["arguments"], standalone_mode=False)
    except Exception as error:
        traceback.print_exc()
        code = repr(error)
    print("exit:", code, flush=True)
    if step["name"] == "train":
        print(repr(tasks.systems.open_systems("plates")), flush=True)
        for program in pathlib.Path("models").rglob("*.py"):
            program.write_text("open('" + os.getcwd() + "/betrayed', 'w')\\n" + program.read_text())
"""


@dataclass(frozen=True)
class Night:
    """What a night with secrets left behind.

    Attributes:
        folder: everything that was written; models lie in `models`.
        output: what each step printed, standard output and error together.
        expected: what each step must have said.
        secrets: each secret by name.
        database: the report store, as the workers' role sees it.
    """

    folder: Path
    output: dict[str, str]
    expected: dict[str, str]
    secrets: dict[str, str]
    database: sa.URL


@dataclass(frozen=True)
class Step:
    """One call of `inspection` and what it must print."""

    name: str
    arguments: list[str]
    says: str
    environment: dict[str, str]


class Secrets(dict[str, str]):
    """Makes a secret for each name: found nowhere by chance, with characters that real ones have and URLs escape."""

    def __missing__(self, name: str) -> str:
        self[name] = f"{name.replace(' ', '-')}+{uuid4().hex}/{uuid4().hex[:8]}"
        return self[name]

    def in_url(self, name: str) -> str:
        """The secret as a part of a URL."""
        return quote(self[name], safe="")


class ExpiredSession(BaseHTTPRequestHandler):
    """An S3 server that answers as Amazon does when a session has ended: it repeats the token and what was signed."""

    def do_GET(self) -> None:
        """Refuse."""
        token = self.headers["x-amz-security-token"]
        body = (
            "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message>"
            f"<Token-0>{token}</Token-0><CanonicalRequest>x-amz-security-token:{token}</CanonicalRequest></Error>"
        ).encode()
        self.send_response(400)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def plate(seed: int, *, defect: bool = False) -> bytes:
    """PNG of a striped plate of 64 x 64 px; the defective ones have a dark blot."""
    rng = np.random.default_rng(seed)
    image = 128 + 60 * np.sin(2 * np.pi * np.arange(64) / 8)[None, :] + rng.normal(0, 8, (64, 64))
    if defect:
        cv2.circle(image, (32, 32), 9, 10.0, -1)
    return cv2.imencode(".png", np.clip(image, 0, 255).astype(np.uint8))[1].tobytes()


def free_port() -> int:
    """A port at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """`host:port` of an MLflow server that keeps everything under a folder."""
    port = free_port()
    where = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "models")]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *where]
    with (folder / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "mlflow.log").read_text()
                assert time.monotonic() < deadline, "MLflow does not start"
                time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait()


@contextmanager
def expired_sessions() -> Iterator[str]:
    """The address of `ExpiredSession`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), ExpiredSession) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def steps_of(secrets: Secrets, ours: dict[str, str], database: sa.URL, expired: str) -> list[Step]:
    """A night that succeeds, and then everything that goes wrong while a secret is at hand."""
    nowhere = f"127.0.0.1:{free_port()}"
    night = ["nightly", LINE, "--date", str(LAST_DAY), "--device", "cpu"]
    postgres = f"postgresql+psycopg://inspection:{secrets.in_url('refused database password')}@"
    here = f"{database.host}:{database.port}"
    owner = database.set(username="inspection", password=secrets["owner's password"])
    upgrade = {"INSPECTION_STORE_URL": owner.render_as_string(hide_password=False)}
    steps = [
        Step("upgrade", ["db", "upgrade"], "up to date", upgrade),
        Step("ingest", ["ingest", LINE, "--from", str(WEEK[0]), "--to", str(WEEK[-1])], "72 recorded", {}),
        Step("train", ["train", LINE, "--device", "cpu"], "models:/ganomaly-plates/1", {}),
        Step("nightly", night, "8 listed = 8 scored", {}),
        Step("trace", ["trace", "p0079"], "p0079", {}),
    ]
    wrong = {
        "wrong S3 secret": ("AWS_SECRET_ACCESS_KEY", secrets["wrong S3 secret"], "refuses the credentials"),
        "expired session": ("INSPECTION_S3_ENDPOINT_URL", expired, "expired"),
        "S3 address with a password": (
            "INSPECTION_S3_ENDPOINT_URL",
            f"http://user:{secrets.in_url('S3 address password')}@{nowhere}",
            "S3_ENDPOINT_URL",
        ),
        "no database": ("INSPECTION_STORE_URL", f"{postgres}{nowhere}/plant", "report store"),
        "no such role": ("INSPECTION_STORE_URL", f"{postgres}{here}/plant".replace("inspection", "nobody"), "refused"),
        "cut database address": (
            "INSPECTION_STORE_URL",
            f"postgresql+psycopg://inspection:{secrets['cut password']}",
            "INSPECTION_STORE_URL",
        ),
        "another kind of database": (
            "INSPECTION_STORE_URL",
            f"mysql://plant:{secrets.in_url('mysql password')}@{nowhere}/plant",
            "must begin with",
        ),
        "password behind the database": (
            "INSPECTION_STORE_URL",
            f"postgresql+psycopg://{nowhere}/plant?password={secrets.in_url('password in query')}",
            "INSPECTION_STORE_URL",
        ),
        "no MLflow": (
            "INSPECTION_MLFLOW_TRACKING_URI",
            f"http://user:{secrets.in_url('refused MLflow password')}@{nowhere}",
            f"MLflow at http://{nowhere}: cannot",
        ),
        "MLflow's database": (
            "INSPECTION_MLFLOW_TRACKING_URI",
            f"postgresql+psycopg://user:{secrets.in_url('MLflow database password')}@{nowhere}/mlflow",
            "MLflow at postgresql",
        ),
        "slash in the MLflow password": (
            "INSPECTION_MLFLOW_TRACKING_URI",
            f"http://user:{secrets['unescaped MLflow password']}@{nowhere}",
            "INSPECTION_MLFLOW_TRACKING_URI",
        ),
        "slash in the S3 address": (
            "INSPECTION_S3_ENDPOINT_URL",
            f"http://user:{secrets['unescaped S3 password']}@{nowhere}",
            "INSPECTION_S3_ENDPOINT_URL",
        ),
        "artifacts at an address with a password": (
            "INSPECTION_MLFLOW_ARTIFACT_ROOT",
            f"sftp://user:{secrets.in_url('sftp password')}@{nowhere}/models",
            "INSPECTION_MLFLOW_ARTIFACT_ROOT",
        ),
        "misspelt variable": ("INSPECTION_STORE_ULR", f"{postgres}{here}/plant", "there is no such setting"),
        "impossible value": ("INSPECTION_LEASE_S", core(secrets["typed in the wrong place"]), "lease_s"),
    }
    steps += [Step(name, night, says, {variable: value}) for name, (variable, value, says) in wrong.items()]
    return [Step(step.name, step.arguments, step.says, ours | step.environment) for step in steps]


@pytest.fixture(scope="module")
def night(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """Ingest, training and a night, and many ways to fail, with a secret wherever one can be."""
    folder, secrets = tmp_path_factory.mktemp("night"), Secrets()
    for name in ("home", "tmp", "lines"):
        (folder / name).mkdir()
    (folder / "lines" / f"{LINE}.toml").write_text(LINE_FILE, encoding="utf-8")
    server = LocalS3(folder / "buckets")
    server.secret_key = secrets["S3 secret"]
    for number in range(80):
        day = WEEK[number % 6] if number < 72 else LAST_DAY
        path = folder / "buckets" / "plant" / "images" / LINE / str(day) / f"p{number:04}" / "top.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(plate(number, defect=number >= 76))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("INSPECTION_", "AWS_", "PREFECT_", "MLFLOW_"))}
    public = kept | {
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_LOGGING_LEVEL": "DEBUG",  # what an operator turns on when a night fails
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    }
    database = _new_database(postgres_server).set(password=secrets["database password"])
    with server, expired_sessions() as expired, mlflow_server(folder, public) as mlflow:
        ours = {
            **server.environment(),
            "AWS_SESSION_TOKEN": secrets["session token"],
            "INSPECTION_BUCKET": "plant",
            "INSPECTION_WORK_DIR": str(folder / "work"),
            "INSPECTION_LINES_DIR": str(folder / "lines"),
            "INSPECTION_STORE_URL": database.render_as_string(hide_password=False),
            "INSPECTION_MLFLOW_TRACKING_URI": f"http://user:{secrets.in_url('MLflow password')}@{mlflow}",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        }
        steps = steps_of(secrets, ours, database, expired)
        done = subprocess.run(
            [sys.executable, "-c", RUN_STEPS],
            input=json.dumps([vars(step) for step in steps]),
            env=public,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    printed = re.split(r"^--- step (.*)\n", done.stdout, flags=re.MULTILINE)
    output = {"before": printed[0], **dict(zip(printed[1::2], printed[2::2], strict=True))}
    assert done.returncode == 0, done.stdout
    return Night(folder, output, {step.name: step.says for step in steps}, secrets, database)


def _new_database(server: str) -> sa.URL:
    """A report store with tables, for the role that infra/postgresql_worker.sql is about."""
    name = f"test_{uuid4().hex[:12]}"
    owner = sa.make_url(server).set(database=name)
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
        found = connection.exec_driver_sql("SELECT 1 FROM pg_roles WHERE rolname = 'inspection_worker'").all()
        if not found:  # a server has it already where this module's tests do not run in one go
            connection.exec_driver_sql("CREATE ROLE inspection_worker LOGIN")
    engine.dispose()
    with ReportStore(owner.render_as_string(hide_password=False)) as store:
        store.upgrade()
    engine = sa.create_engine(owner)
    with engine.begin() as connection:
        connection.exec_driver_sql((ROOT / "infra" / "postgresql_worker.sql").read_text(encoding="utf-8"))
    engine.dispose()
    return owner.set(username="inspection_worker")


def everything_written(night: Night) -> Iterator[tuple[str, bytes]]:
    """All that a night left behind, as (place, content): files, rows of databases, tables, output."""
    for name, text in night.output.items():
        yield f"output of {name}", text.encode()
    for path in sorted(night.folder.rglob("*")):
        if not path.is_file():
            continue
        place, data = str(path.relative_to(night.folder)), path.read_bytes()
        yield place, data
        if data.startswith(b"SQLite format 3"):  # a long text lies in pieces in the file
            with closing(sqlite3.connect(path)) as database:
                yield from ((f"{place}, rows", line.encode()) for line in database.iterdump())
        if path.suffix == ".parquet":
            yield f"{place}, rows", pd.read_parquet(path).to_csv().encode()
    engine = sa.create_engine(night.database)
    tables = sa.MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        for name, table in tables.tables.items():
            yield f"report store, {name}", repr(connection.execute(sa.select(table)).all()).encode()
    engine.dispose()


def forms(secret: str) -> list[bytes]:
    """A secret as it could stand somewhere: as it is, escaped for a URL, a half of it, in base64 at any offset."""
    raw = secret.encode()
    shifted = [base64.b64encode(b"\0" * offset + raw) for offset in range(3)]
    in_base64 = [text[4 if offset else 0 : -4] for offset, text in enumerate(shifted)]
    return [raw, quote(secret, safe="").encode(), core(secret).encode(), *in_base64]


def core(secret: str) -> str:
    """The part of a secret that no escaping changes, short enough to be printed in full."""
    return re.findall("[0-9a-f]{32}", secret)[0]


@pytest.mark.fault(
    area="Security",
    fault="a whole night, and S3, PostgreSQL and MLflow refusing, expired, away or wrongly addressed, with secrets in "
    "every variable that can hold one",
    outcome="no secret in logs, output, errors, Prefect's and MLflow's databases, models, reports, report store",
)
def test_no_secret_is_written_anywhere(night: Night) -> None:
    """Broken if a password, key or token reaches a log, a database, a report, a model or an error message."""
    content = list(everything_written(night))
    found = [
        (place, name, form[:12])
        for name, secret in night.secrets.items()
        for form in forms(secret)
        for place, data in content
        if form in data
    ]
    assert not found, "\n".join(f"{place}: {name} ({form!r}...)" for place, name, form in sorted(set(found)))


def test_the_night_and_its_failures_went_as_they_should(night: Night) -> None:
    """Broken if a step succeeds or fails for another reason than meant, or does not say what to look at."""
    assert {name: text for name, text in night.output.items() if night.expected.get(name, "") not in text} == {}


def test_the_search_sees_what_is_there(night: Night) -> None:
    """Broken if the test above looks in the wrong places: what is no secret must be found where it is expected."""
    expected = {
        "output of no database": b"error: report store",
        "prefect/prefect.db, rows": b"Encountered exception during execution",
        "mlflow.db, rows": b"network.latent_size",
        "report store, image": b"p0079",
        "report store, scoring_run": b"ganomaly-plates",
        "scores.parquet, rows": b"p0079",
        "report.html": b"p0079",
        "MLmodel": b"python_function",
        "requirements.txt": b"safetensors",
    }
    content = list(everything_written(night))
    for place, text in expected.items():
        assert any(where.endswith(place) and text in data for where, data in content), place
    secret = Secrets()["any"]
    basic = b"Authorization: Basic " + base64.b64encode(f"user:{secret}".encode())
    for hidden in (basic, quote(secret).encode(), repr(secret).encode(), f"{secret[:45]}...".encode()):
        assert any(form in hidden for form in forms(secret)), hidden


ADDED_TO = ("image", "score", "failure", "drift", "release", "review", "promotion")


@pytest.mark.fault(
    area="Security",
    fault="somebody has a worker's database password",
    outcome="with the grants of infra/postgresql_worker.sql a night runs, and no verdict can be changed or deleted",
)
@pytest.mark.parametrize(
    "statement",
    [
        *(f"DELETE FROM {table}" for table in (*ADDED_TO, "scoring_run")),
        *(f"UPDATE {table} SET id = id" for table in ADDED_TO),
        "DROP TABLE score",
        "TRUNCATE score",
        "CREATE TABLE mine (id integer)",
        "CREATE ROLE mine",
    ],
)
def test_a_worker_cannot_change_what_was_recorded(night: Night, statement: str) -> None:
    """Broken if a worker's role can change a quality record, or if a night needs more than that role may do."""
    assert night.database.username == "inspection_worker"  # the night above ran with it
    for name, denied in ((night.database.username, True), ("inspection", False)):
        engine = sa.create_engine(night.database.set(username=name))
        with engine.connect() as connection:
            if denied:
                with pytest.raises(sa.exc.ProgrammingError, match=r"permission denied|must be owner"):
                    connection.exec_driver_sql(statement)
            elif not statement.startswith("DELETE"):  # rows that others refer to
                connection.exec_driver_sql(statement)
            connection.rollback()
        engine.dispose()


# --- models are no programs -----------------------------------------------------------------------------------------


def is_pickle(data: bytes) -> bool:
    """Whether the bytes begin with a whole pickle of any protocol that does something."""
    try:
        return sum(1 for _ in pickletools.genops(data)) > 2
    except ValueError:
        return False


@pytest.mark.fault(
    area="Security",
    fault="somebody looks for a pickle in a registered model",
    outcome="there is none in any of its files",
)
def test_a_registered_model_holds_no_pickle(night: Night) -> None:
    """Broken if MLflow or a new part of the model writes a pickle: loading one runs whatever it says."""
    files = [path for path in (night.folder / "models").rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"MLmodel", "detector.json", "weights.safetensors", "pyfunc_model.py", "python_env.yaml"} <= names
    kinds = {"", ".cpp", ".csv", ".json", ".md", ".png", ".py", ".safetensors", ".txt", ".typed", ".yaml"}
    for path in files:
        assert path.suffix in kinds, path
        data = path.read_bytes()
        assert not is_pickle(data), path
        assert not data.startswith((b"PK", b"\x1f\x8b")), f"{path} is an archive, which may hold one"
    described = next(path for path in files if path.name == "MLmodel").read_text()
    assert "model_code_path:" in described
    assert "python_model:" not in described  # where MLflow names the pickle that it makes of an object


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_are_recognised(protocol: int) -> None:
    """Broken if the test above would not see a pickle."""
    dumped = subprocess.run(
        [sys.executable, "-c", f"import pickle, sys; sys.stdout.buffer.write(pickle.dumps({{'a': [1]}}, {protocol}))"],
        capture_output=True,
        check=True,
    ).stdout
    assert is_pickle(dumped)


@pytest.mark.fault(
    area="Security",
    fault="the program files inside a registered model are replaced",
    outcome="the night does not run them: it reads the detector's three checked files with its own code",
)
def test_scoring_runs_no_code_of_the_model(night: Night) -> None:
    """Broken if whoever may write to MLflow's artifacts can run programs on the machines that score."""
    programs = list((night.folder / "models").rglob("*.py"))
    assert len(programs) > 5
    assert all(path.read_text().startswith("open(") for path in programs)
    assert "8 scored" in night.output["nightly"]
    assert not (night.folder / "betrayed").exists()


# --- rules of the code ----------------------------------------------------------------------------------------------

FORBIDDEN_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp"),
    *("torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "yaml.load", "yaml.unsafe_load"),
    *("pd.read_pickle", "np.fromstring"),
}
TENSORS_ONLY = {("weights_only", "True")}
"""`torch.load` with it reads tensors and refuses the rest; tests/ganomaly/features/test_backbone.py tries."""
FORBIDDEN_ARGUMENTS = {"shell", "allow_pickle"}
SQL_CALLS = {"text", "execute", "executemany", "exec_driver_sql", "executescript", "scalar", "scalars"}
SQL_START = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|CREATE|DROP|ALTER|SET|PRAGMA|WITH|GRANT)\b")


def dangers(code: str) -> list[str]:
    """What in a module could run what it should only read."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module] if (node.module or "").split(".")[0] in FORBIDDEN_MODULES else []
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            safe = {(one.arg, ast.unparse(one.value)) for one in node.keywords} & TENSORS_ONLY
            found += [name] if name in FORBIDDEN_CALLS and not safe else []
            found += [
                ast.unparse(keyword.value)
                for keyword in node.keywords
                if keyword.arg in FORBIDDEN_ARGUMENTS and ast.unparse(keyword.value) != "False"
            ]
    return found


def built_sql(code: str) -> list[str]:
    """Statements that are put together from strings instead of binding their values."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if _is_built(node) and SQL_START.match(_first_text(node)):
            found.append(ast.unparse(node))
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).rsplit(".", 1)[-1] in SQL_CALLS:
            found += [ast.unparse(node) for part in ast.walk(node.args[0]) if _is_built(part)]
    return found


def _is_built(node: ast.AST) -> bool:
    if isinstance(node, ast.JoinedStr):
        return any(isinstance(part, ast.FormattedValue) for part in ast.walk(node))
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Mod | ast.Add) and bool(_first_text(node))
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format"


def _first_text(node: ast.AST) -> str:
    """The text that an expression begins with, as far as it stands there."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    inner = {ast.JoinedStr: "values", ast.BinOp: "left", ast.Call: "func", ast.Attribute: "value"}.get(type(node))
    part = getattr(node, inner) if inner else None
    first = part[0] if isinstance(part, list) and part else part
    return _first_text(first) if isinstance(first, ast.AST) else ""


def modules(*packages: str) -> list[Path]:
    """The source files of these packages."""
    return sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))


@pytest.mark.fault(
    area="Security",
    fault="a change of the code reads pickles, evaluates texts or starts a shell",
    outcome="this test names module and place",
)
def test_no_module_runs_what_it_reads() -> None:
    """Broken if a module unpickles, evaluates, or lets a shell read an argument."""
    found = {path.name: what for path in modules(*PACKAGES) if (what := dangers(path.read_text(encoding="utf-8")))}
    assert not found


@pytest.mark.fault(
    area="Security",
    fault="a change of the code puts a value into the text of an SQL statement",
    outcome="this test names module and statement",
)
def test_sql_is_bound() -> None:
    """Broken if a statement is put together from strings: a key from the bucket could then change what it does."""
    found = {path.name: what for path in modules("tasks", "infra") if (what := built_sql(path.read_text("utf-8")))}
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "torch.load(path)",
        "subprocess.run(command, shell=True)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_dangers_are_seen(code: str) -> None:
    """Broken if the rule above overlooks what it is there for."""
    assert dangers(code)
    assert not dangers("model.eval(); re.compile('x'); np.load(path, allow_pickle=False)")


@pytest.mark.parametrize(
    "code",
    [
        "connection.execute(sa.text(f'SELECT * FROM image WHERE key = {key}'))",
        "connection.exec_driver_sql('DROP TABLE %s' % name)",
        "op.execute('DROP TABLE ' + name)",
        "connection.execute('SELECT {}'.format(key))",
        "query = f'SELECT {key}'",
        "query = 'DELETE FROM ' + table",
    ],
)
def test_built_sql_is_seen(code: str) -> None:
    """Broken if the rule above overlooks what it is there for."""
    assert built_sql(code)
    assert not built_sql("connection.exec_driver_sql('PRAGMA foreign_keys = ON'); raise ValueError(f'no {name}')")


def test_every_exception_from_a_security_rule_says_why() -> None:
    """Broken if ruff's security rules are switched off somewhere without a reason."""
    silenced = re.compile(r"#\s*noqa:[ A-Z0-9,]*\bS\d{3}\b(?P<reason>.*)")
    lines = [(path, line) for path in modules(*PACKAGES) for line in path.read_text("utf-8").splitlines()]
    found = [(path, match) for path, line in lines if (match := silenced.search(line))]
    assert found
    for path, match in found:
        assert re.match(r"[ -]+\w.{10,}", match["reason"]), f"{path}: {match[0]}"


# --- servers --------------------------------------------------------------------------------------------------------


def listening(word: str) -> set[str]:
    """`address` of each socket on which a process listens whose command line holds a word; Linux only."""
    inodes = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (process / "cmdline").read_bytes():
                inodes |= {str(entry.readlink())[8:-1] for entry in (process / "fd").iterdir()}
        except OSError:
            continue  # it has ended meanwhile, or belongs to somebody else
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in inodes:
                found.add(columns[1].split(":")[0])
    return found


@pytest.mark.skipif(not Path("/proc/net/tcp").is_file(), reason="reads Linux's table of sockets")
@pytest.mark.fault(
    area="Security",
    fault="another machine looks for the local S3 server",
    outcome="it listens on 127.0.0.1 only, and wants its random keys even there",
)
def test_the_local_s3_server_listens_on_this_machine_only(tmp_path: Path) -> None:
    """Broken if the demo opens the plant's images to everybody in the network."""
    loopback = np.array([127, 0, 0, 1], np.uint8).view(np.uint32)[0]
    with LocalS3(tmp_path / "data"):
        assert listening(str(tmp_path / "data")) == {f"{loopback:08X}"}
    code = "import socket; server = socket.create_server(('', 0)); print('listens', flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path / "open")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()
        assert listening(str(tmp_path / "open")) == {"00000000"}  # an open one would be seen


def test_the_servers_of_the_readme_listen_on_this_machine_by_default() -> None:
    """Broken if `prefect server start` or `mlflow server`, called as the README says, is open to the network."""
    assert ServerAPISettings.model_fields["host"].default == "127.0.0.1"
    assert {option.name: option.default for option in mlflow_server_command.params}["host"] == "127.0.0.1"
    texts = [ROOT / "README.md", ROOT / "Makefile", *(ROOT / "docs").glob("*.md"), *modules(*PACKAGES)]
    assert not [path for path in texts if "0.0.0.0" in path.read_text(encoding="utf-8")]
