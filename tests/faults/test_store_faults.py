"""What the report store does when its database goes away, hangs, is locked or has no room: with real databases."""

import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from tasks.store import database, dialects
from tasks.store.database import ReportStoreError
from tasks.store.rows import ImageRecord, JudgedImage, ScoreRecord
from tasks.store.runs import new_run_id
from tasks.store.store import ReportStore
from tests.faults.postgres_cluster import Cluster, tell

DAY = date(2026, 3, 9)


@pytest.fixture
def url(cluster: Cluster) -> str:
    """A fresh database with the store's tables."""
    name = f"test_{uuid4().hex[:12]}"
    tell(f"{cluster.server}/postgres", f"CREATE DATABASE {name}")
    with ReportStore(f"{cluster.server}/{name}") as store:
        store.upgrade()
    return f"{cluster.server}/{name}"


@pytest.fixture
def store(url: str) -> Iterator[ReportStore]:
    """A store on PostgreSQL."""
    with ReportStore(url) as store:
        yield store


@pytest.fixture
def sqlite_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a fresh store on SQLite whose clients give up waiting for a lock after 0.2 seconds."""
    monkeypatch.setattr(dialects, "BUSY_TIMEOUT_S", 0.2)
    with ReportStore(f"sqlite:///{tmp_path}/inspection.db") as store:
        store.prepare()
    return tmp_path / "inspection.db"


def start(store: ReportStore) -> str:
    """A new run; its id."""
    detector = {"model_name": "ganomaly-cells", "model_version": 3, "calibration_id": "cal-1"}
    return store.runs.start(new_run_id(), "cells", DAY, DAY, **detector, snapshot_id="snap-1", code_version="0.1.0").id


def chunk(number: int, size: int = 20) -> list[JudgedImage]:
    """Some judged images, others for each number."""
    images = [
        ImageRecord(f"{number:04}/{n:03}.png", "e", f"p{number}-{n}", "top", DAY, datetime.now(UTC), 1, "ab" * 32, True)
        for n in range(size)
    ]
    return [JudgedImage(image, ScoreRecord("ok", 1.0, 0.5, 0.25)) for image in images]


def keys(judged: list[JudgedImage]) -> set[tuple[str, str]]:
    """(key, etag) of judged images."""
    return {(row.image.key, row.image.etag) for row in judged}


def verdicts(store: ReportStore) -> int:
    """How many verdicts are there; every image has one."""
    scores = store.scores.of_window("cells", DAY, DAY, 3, "cal-1")
    assert len(scores) == len(set(scores["key"])) == len(store.images.recorded("cells", DAY, DAY))
    return len(scores)


def in_a_moment(seconds: float, action: Callable[[], object]) -> threading.Timer:
    """Do something later, in another thread."""
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(
            "fast",
            marks=pytest.mark.fault(
                area="Report store",
                fault="PostgreSQL restarts in the middle of a night, twice",
                outcome="chunks wait and are tried again; every image has exactly one row and one verdict",
            ),
        ),
        pytest.param(
            "immediate",
            marks=pytest.mark.fault(
                area="Report store",
                fault="PostgreSQL crashes in the middle of a night and recovers, twice",
                outcome="chunks wait and are tried again; every image has exactly one row and one verdict",
            ),
        ),
    ],
)
def test_a_restart_in_the_middle(
    cluster: Cluster, store: ReportStore, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Broken if a restart of the database loses or doubles a chunk, or ends the run."""
    run = start(store)
    over = threading.Event()

    def restart_twice() -> None:
        for _ in range(2):
            time.sleep(0.5)
            cluster.stop(mode)
            cluster.start()
        over.set()

    restarts = in_a_moment(0, restart_twice)
    number = 0
    while number < 30 or not over.is_set():
        assert store.scores.commit(run, chunk(number), []) == keys(chunk(number))
        number += 1
    restarts.join()
    assert verdicts(store) == 20 * number
    assert any("trying again" in message for message in caplog.messages)
    assert "geheim" not in caplog.text


@pytest.mark.fault(
    area="Report store",
    fault="PostgreSQL refuses connections for some seconds, at the start and between two chunks",
    outcome="the step waits, for up to two minutes, and goes on as if nothing had been",
)
def test_a_database_that_is_away_for_some_seconds(cluster: Cluster, url: str) -> None:
    """Broken if a database that is started after the night's flow, or is upgraded meanwhile, ends the night."""
    with ReportStore(url) as store:
        with cluster.away(2):
            store.prepare()
        run = start(store)
        with cluster.away(2, "immediate"):
            assert store.scores.commit(run, chunk(1), []) == keys(chunk(1))
        assert verdicts(store) == 20


@pytest.mark.fault(
    area="Report store",
    fault="PostgreSQL stays away",
    outcome="after two minutes the run ends with an error that names the database, not its password, and what to do",
)
def test_a_database_that_stays_away(cluster: Cluster, url: str) -> None:
    """Broken if a run waits for ever, or says something that an operator cannot use, or shows a password."""
    with ReportStore(url, patience_s=1) as store, cluster.down(), pytest.raises(ReportStoreError) as caught:
        store.runs.end_dead("cells")
    shown = f"report store postgresql\\+psycopg://inspection:\\*\\*\\*@127.0.0.1:{cluster.port}/test_"
    assert caught.match(rf"{shown}\w+: away for \d+ s \(.*refused.*\); see that .* then run the same command again")
    assert "geheim" not in str(caught.value)


@pytest.mark.fault(
    area="Report store",
    fault="the database or its user does not exist, or the password is wrong or missing",
    outcome="refused at once with the server's reason: waiting would not help",
)
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("inspection@127.0.0.1:{port}/nothing", 'database "nothing" does not exist'),
        ("nobody@127.0.0.1:{port}/postgres", 'role "nobody" does not exist'),
        ("careful:geheim@127.0.0.1:{port}/postgres", 'password authentication failed for user "careful"'),
        ("careful@127.0.0.1:{port}/postgres", "no password supplied"),
    ],
)
def test_a_database_that_will_not_have_us(cluster: Cluster, address: str, reason: str) -> None:
    """Broken if a typing mistake costs two minutes before anybody is told."""
    with (
        ReportStore(f"postgresql+psycopg://{address.format(port=cluster.port)}") as store,
        pytest.raises(ReportStoreError, match=rf"refused \(.*{reason}") as caught,
    ):
        store.prepare()
    assert "geheim" not in str(caught.value)


@pytest.mark.fault(
    area="Report store",
    fault="the connection is cut in the middle of a transaction",
    outcome="the whole chunk is tried again on a new connection; no row of it is there twice or alone",
)
def test_a_connection_cut_in_the_middle_of_a_chunk(store: ReportStore, url: str) -> None:
    """Broken if half a chunk is committed, or the run ends because of one connection."""
    run = start(store)
    pids: list[int] = []

    def cut(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO score") and not pids:
            pids.append(connection.connection.dbapi_connection.info.backend_pid)
            tell(url, f"SELECT pg_terminate_backend({pids[0]}, 5000)")

    sa.event.listen(store.database.engine, "before_cursor_execute", cut)
    assert store.scores.commit(run, chunk(1), []) == keys(chunk(1))
    assert len(pids) == 1
    assert verdicts(store) == 20


@pytest.mark.fault(
    area="Report store",
    fault="PostgreSQL takes a statement and never answers",
    outcome="the connection is cut after three minutes and the chunk is tried again on a new one",
)
def test_a_server_that_hangs(store: ReportStore, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken if a hung server hangs the night with it."""
    monkeypatch.setattr(database, "TRANSACTION_LIMIT_S", 1.0)
    run = start(store)
    ours = "application_name = 'inspection' AND datname = current_database()"
    (pid,) = tell(url, f"SELECT pid FROM pg_stat_activity WHERE {ours}")
    os.kill(pid, signal.SIGSTOP)
    try:
        assert store.scores.commit(run, chunk(1), []) == keys(chunk(1))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert verdicts(store) == 20


@pytest.mark.fault(
    area="Report store",
    fault="somebody else's transaction holds a row that a chunk needs for longer than the lock timeout",
    outcome="the chunk is tried again until the row is free",
)
def test_a_row_that_somebody_else_holds(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Broken if a forgotten session of an administrator ends the night."""
    monkeypatch.setattr(dialects, "LOCK_TIMEOUT_S", 1)
    engine = sa.create_engine(url)
    with ReportStore(url) as store, engine.connect() as other:
        run = start(store)
        other.exec_driver_sql("LOCK TABLE score IN SHARE MODE")
        freed = in_a_moment(2, other.rollback)
        assert store.scores.commit(run, chunk(1), []) == keys(chunk(1))
        freed.join()
        assert verdicts(store) == 20
    engine.dispose()
    assert any("lock timeout" in message for message in caplog.messages)


# --- SQLite ---------------------------------------------------------------------------------------------------------


@pytest.mark.fault(
    area="Report store",
    fault="another program holds SQLite's write lock for longer than the busy timeout, and then gives it up",
    outcome="the chunk is tried again and committed once",
)
def test_a_locked_sqlite_file_that_is_freed(sqlite_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Broken if a backup or a person with a database browser ends the night."""
    with ReportStore(f"sqlite:///{sqlite_path}") as store, locked(sqlite_path) as free:
        freed = in_a_moment(1, free)
        run = start(store)
        freed.join()
        assert store.scores.commit(run, chunk(1), []) == keys(chunk(1))
        assert verdicts(store) == 20
    assert any("trying again: database is locked" in message for message in caplog.messages)


@pytest.mark.fault(
    area="Report store",
    fault="another program never gives up SQLite's write lock",
    outcome="after two minutes the run ends with an error that names the file and what to do; reading goes on",
)
def test_a_locked_sqlite_file_that_stays_locked(sqlite_path: Path) -> None:
    """Broken if a run waits for ever, or does not say for what."""
    with ReportStore(f"sqlite:///{sqlite_path}", patience_s=1) as store:
        run = start(store)
        with locked(sqlite_path):
            with pytest.raises(ReportStoreError, match=rf"{sqlite_path}: away for \d+ s \(database is locked\)"):
                store.scores.commit(run, chunk(1), [])
            assert store.runs.get(run).state == "running"
        assert store.scores.commit(run, chunk(1), []) == keys(chunk(1))


@contextmanager
def locked(path: Path) -> Iterator[Callable[[], None]]:
    """Another program's write lock; gives what gives it up earlier."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield lambda: other.execute("ROLLBACK") and None


@pytest.fixture(params=["quota", "file system"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[ReportStore, Callable[[], object]]]:
    """A store whose disk has room for some chunks, and what makes more room."""
    if request.param == "quota":
        with ReportStore(f"sqlite:///{tmp_path}/inspection.db") as store:
            pages = [80]

            def limit(connection: Any, *_: Any) -> None:
                connection.execute(f"PRAGMA max_page_count = {pages[0]}")

            sa.event.listen(store.database.engine, "connect", limit)
            store.prepare()
            yield store, lambda: (pages.append(pages.pop() * 100), store.close())
        return
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "inspection-test", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a file system")
    try:
        (folder / "something else").write_bytes(bytes(400_000))
        with ReportStore(f"sqlite:///{folder}/inspection.db") as store:
            store.prepare()
            yield store, (folder / "something else").unlink
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.fault(
    area="Disk",
    fault="no room left for the SQLite file of the report store",
    outcome="an error at once that names the file; no half chunk; the same chunk is committed when there is room",
)
def test_no_room_for_the_sqlite_file(small_disk: tuple[ReportStore, Callable[[], object]]) -> None:
    """Broken if a full disk leaves half a chunk or a damaged file, or costs two minutes of waiting."""
    store, make_room = small_disk
    run = start(store)
    done: list[int] = []

    def fill_up() -> None:
        while True:
            store.scores.commit(run, chunk(len(done)), [])
            done.append(20)

    with pytest.raises(ReportStoreError, match=r"inspection\.db: .*full.* then run the same command again"):
        fill_up()
    assert verdicts(store) == sum(done) > 0
    make_room()
    assert store.scores.commit(run, chunk(len(done)), []) == keys(chunk(len(done)))
    assert verdicts(store) == sum(done) + 20
    with store.database.engine.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
