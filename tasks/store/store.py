"""The report store: every image, run, score, failure, review and promotion, and who works on what at the moment.

The same code runs on SQLite and PostgreSQL. Everything is written with "insert unless it is there", each method in one
transaction: repeating any step gives the rows of an undisturbed run, and so a method that fails because the database is
away is simply tried again as a whole. An image is (line, key, etag), so an object that was replaced in the bucket is
two images; whoever reads by window and wants only what lies in the bucket now compares with the listing. Windows are
production dates, first and last day included. Tables and rows stand in `tasks.store.tables`.

Two runs of a line never work on the same image: each claims what it is about to do (`claim_images`). A claim holds as
long as its owner's lease, which the owner renews; the claims of an owner that died are free when its lease runs out.
"""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, fields
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from uuid import uuid4

import pandas as pd
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql, sqlite
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    wait_random_exponential,
)

from tasks.errors import OperatingError
from tasks.night.accounting import RunCounts
from tasks.store.tables import (
    FailureRecord,
    Finding,
    ImageRecord,
    JudgedImage,
    Promotion,
    Review,
    RunState,
    ScoreRecord,
    ScoringRun,
    StoredFailure,
    StoredImage,
    StoredScore,
    UtcDateTime,
    claim_table,
    failure_table,
    image_table,
    lease_table,
    metadata,
    promotion_table,
    review_table,
    run_table,
    score_table,
)

__all__ = [
    "LEASE_S",
    "FailureRecord",
    "Finding",
    "ImageRecord",
    "JudgedImage",
    "Promotion",
    "ReportStore",
    "ReportStoreError",
    "Review",
    "RunState",
    "SchemaError",
    "ScoreRecord",
    "ScoringRun",
    "StoredFailure",
    "StoredImage",
    "StoredScore",
    "metadata",
]

LEASE_S = 60.0
PATIENCE_S = 120.0
BUSY_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 120
LOCK_TIMEOUT_S = 30
TRANSACTION_LIMIT_S = 180.0
_MAX_WAIT_S = 5.0
_VALUES_PER_QUERY = 1000
_ROWS_AT_ONCE = 5000
_OUR_LOCKS = 0x67616E6F  # PostgreSQL's advisory locks are one number space for all applications of a database

_FOUND_DEAD = "found without a sign of life: its process was killed, or was cut off from the report store"
_PASSING_STATES = frozenset(
    (
        *("57P01", "57P02", "57P03", "53300"),  # shutting down, crashed, starting up, too many connections
        *("40001", "40P01", "55P03", "57014", "25P03"),  # serialisation, deadlock, lock and statement timeouts
    )
)
_SQLITE_BUSY, _SQLITE_LOCKED, _SQLITE_FULL = 5, 6, 13
_SQLITE_FILE_TROUBLE = {
    8: "it may not be written; give this user the right to write it and its folder",
    10: "its disk fails or is full; mend that or make room there",
    11: "it is damaged; put a backup in its place",
    _SQLITE_FULL: "its disk is full; make room there",
    14: "it cannot be opened; see that its folder can be written",
    26: "it is no SQLite database; name another file in INSPECTION_STORE_URL, or put a backup in its place",
}

_STATE_WORDS = {
    "empty": "missing, the database is empty",
    "older": "older than this software needs",
    "newer": "newer than this software",
}
_USABLE_COLUMNS = (
    *("id", "key", "etag", "part", "view", "production_date", "captured_at"),
    *("size_bytes", "sha256", "width_px", "height_px"),
)
_SCORE_COLUMNS = (
    *("raw_score", "normalised_score", "p_value", "verdict", "reason", "heat_map_key"),
    *("model_version", "calibration_id", "run_id"),
)
_IMAGE_COLUMNS = ("key", "etag", "part", "view", "production_date", "captured_at")
_STORED_SCORES = sa.select(
    *(
        (image_table if field.name in ("key", "etag", "line") else score_table).c[field.name]
        for field in fields(StoredScore)
    )
).join_from(score_table, image_table, image_table.c.id == score_table.c.image_id)

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


class SchemaError(OperatingError):
    """The database's tables are not the ones that this version of the software needs."""


class ReportStoreError(OperatingError):
    """The report store cannot be reached or written, and waiting did not help, or would not."""


class ReportStore:
    """The report store at `url`, ``sqlite:///path`` or ``postgresql+psycopg://...``. Safe to use from many threads.

    Nothing connects before the first call. Call `prepare()` once before anything else. Every method is one transaction
    and is tried again for `patience_s` seconds while the database is away, restarting or locked by somebody else.

    Every method raises:
        ReportStoreError: the database was away for longer than that, or its disk is full; says which and what to do.

    Raises:
        ReportStoreError: for another kind of database.
    """

    def __init__(self, url: str, patience_s: float = PATIENCE_S) -> None:
        self.url = sa.engine.make_url(url)
        self.patience_s = patience_s
        if self.url.drivername in ("sqlite", "sqlite+pysqlite"):
            self._engine = _sqlite_engine(self.url)
        elif self.url.drivername == "postgresql+psycopg":
            self._engine = _postgresql_engine(self.url)
        else:
            raise ReportStoreError(f"report store {self._shown}: must begin with sqlite:/// or postgresql+psycopg://")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def prepare(self) -> None:
        """Make the store ready: SQLite is created and upgraded, PostgreSQL only looked at.

        Raises:
            SchemaError: the tables are missing, older (PostgreSQL) or newer than this software needs; says what to do.
        """
        self._create_folder()
        if self._is_sqlite and self._schema_state() in ("empty", "older"):
            self.upgrade()
        self.check()

    def check(self) -> None:
        """See that the store is there and its tables are this software's, and change nothing.

        Raises:
            SchemaError: there is no such SQLite file, or its tables are missing, older or newer than this software
                needs; says what to do.
        """
        if self._file is not None and not self._file.exists():
            raise SchemaError(
                f"report store {self._shown}: there is no such file; name the one that the pipeline writes in "
                "INSPECTION_STORE_URL, or its folder in INSPECTION_WORK_DIR"
            )
        state = self._schema_state()
        if state == "current":
            return
        way_out = "install the newer version" if state == "newer" else "run `inspection db upgrade`"
        raise SchemaError(f"report store {self._shown}: its tables are {_STATE_WORDS[state]}; {way_out}")

    def upgrade(self) -> None:
        """Create the tables, or bring them to this software's version. Two processes at once wait for each other.

        Raises:
            SchemaError: the tables are newer than this software.
        """
        self._create_folder()
        self._tried(self._upgrade)

    def _upgrade(self) -> None:
        with self._engine.connect() as connection, _without_foreign_keys(connection), self._begun(connection, "write"):
            if not self._is_sqlite:
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_OUR_LOCKS)))
            if self._state_of(connection) == "newer":
                words = _STATE_WORDS["newer"]
                raise SchemaError(f"report store {self._shown}: its tables are {words}; nothing was changed")
            config = _migrations()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            assert not (self._is_sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").all())

    # --- who works on what ------------------------------------------------------------------------------------------

    def hold_lease(self, owner: str, seconds: float = LEASE_S) -> None:
        """Say that `owner` is alive for the next `seconds` seconds."""
        self._write(lambda connection: self._hold_lease(connection, owner, seconds))

    def drop_lease(self, owner: str) -> None:
        """Say that `owner` is done: its lease and all its claims are gone."""
        self._write(lambda connection: self._drop_lease(connection, owner))

    def claim_images(self, owner: str, line: str, work: str, images: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Reserve images, each (key, etag), for `owner`, who needs a lease; gives those that are now its own.

        Those are the ones that nobody held, that `owner` held already, and those of an owner whose lease has run out.
        What `work` names is claimed apart from any other work on the same images.
        """
        return self._write(lambda connection: self._claim(connection, owner, line, work, images))

    def release_images(self, owner: str, line: str, work: str, images: Sequence[tuple[str, str]]) -> None:
        """Give up claims; those that are not `owner`'s are left alone."""
        self._write(lambda connection: self._release(connection, owner, line, work, images))

    def _hold_lease(self, connection: sa.Connection, owner: str, seconds: float) -> None:
        insert = self._dialect.insert(lease_table).values(owner=owner, expires_at=self._clock(seconds))
        renewed = {"expires_at": insert.excluded.expires_at}
        connection.execute(insert.on_conflict_do_update(index_elements=["owner"], set_=renewed))

    def _drop_lease(self, connection: sa.Connection, owner: str) -> None:
        self._delete_claims(connection, claim_table.c.owner == owner)
        connection.execute(sa.delete(lease_table).where(lease_table.c.owner == owner))

    def _claim(
        self, connection: sa.Connection, owner: str, line: str, work: str, images: Sequence[tuple[str, str]]
    ) -> set[tuple[str, str]]:
        if not images:
            return set()
        self._lock_claims(connection, line, work)
        table, insert = claim_table.c, self._dialect.insert(claim_table)
        free = sa.or_(table.owner == insert.excluded.owner, ~self._is_alive(table.owner))
        statement = insert.on_conflict_do_update(
            index_elements=["line", "work", "key", "etag"], set_={"owner": insert.excluded.owner}, where=free
        ).returning(table.key, table.etag)
        values = [
            {"line": line, "work": work, "key": key, "etag": etag, "owner": owner} for key, etag in sorted(set(images))
        ]
        return {(row.key, row.etag) for row in connection.execute(statement, values)}

    def _release(
        self, connection: sa.Connection, owner: str, line: str, work: str, images: Sequence[tuple[str, str]]
    ) -> None:
        table = claim_table.c
        self._lock_claims(connection, line, work)
        for some in _batches(sorted(set(images))):
            mine = (table.owner == owner, table.line == line, table.work == work)
            connection.execute(sa.delete(claim_table).where(*mine, sa.tuple_(table.key, table.etag).in_(some)))

    def _delete_claims(self, connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
        table = claim_table.c
        works = sa.select(table.line, table.work).where(which).distinct().order_by(table.line, table.work)
        for line, work in connection.execute(works).all():
            self._lock_claims(connection, line, work)
        connection.execute(sa.delete(claim_table).where(which))

    def _lock_claims(self, connection: sa.Connection, line: str, work: str) -> None:
        """Let nobody else change claims on this work before this transaction ends.

        On PostgreSQL a statement sees leases as they were when it began: without this, a claim that waits for another
        one's rows would take them from an owner whose lease it does not see. SQLite has one writer at a time anyway.
        """
        if not self._is_sqlite:
            number = sa.func.hashtext(f"{line}\n{work}")
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.cast(_OUR_LOCKS, sa.Integer), number)))

    def _is_alive(self, owner: sa.Column[str]) -> sa.ColumnElement[bool]:
        # written out: within ON CONFLICT, SQLAlchemy does not see the table that `owner` is a column of
        lease = lease_table.c
        return owner.in_(sa.select(lease.owner).where(lease.expires_at > self._clock()))

    def _clock(self, later_s: float = 0.0) -> sa.ColumnElement[datetime]:
        """The database's time; processes on several machines need not agree about theirs."""
        later = timedelta(seconds=later_s)
        if self._is_sqlite:
            return sa.literal(datetime.now(UTC) + later, UtcDateTime)
        return sa.func.clock_timestamp() + sa.literal(later, sa.Interval)

    # --- images and scores, chunk by chunk --------------------------------------------------------------------------

    def known_among(self, line: str, images: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the given images, each (key, etag), that are recorded."""
        return set(self._read(lambda connection: _ids_of(connection, line, images)))

    def judged_among(
        self, line: str, images: Sequence[tuple[str, str]], model_version: int, calibration_id: str
    ) -> dict[tuple[str, str], str]:
        """(key, etag) -> verdict of those of the given images that this detector has judged, in any run."""
        table, wanted = image_table.c, set(images)
        query = (
            sa.select(table.key, table.etag, score_table.c.verdict)
            .join(score_table, score_table.c.image_id == table.id)
            .where(table.line == line, *_judged_by(model_version, calibration_id))
        )
        rows = self._read(lambda connection: _rows_among(connection, query, table.key, {key for key, _ in images}))
        return {(row.key, row.etag): row.verdict for row in rows if (row.key, row.etag) in wanted}

    def commit_images(self, owner: str, line: str, rows: Sequence[ImageRecord]) -> set[tuple[str, str]]:
        """Insert images unless they are known and release `owner`'s claims for ``"ingest"`` on them; all or none.

        Gives (key, etag) of those that this call inserted.
        """
        now = datetime.now(UTC)

        def step(connection: sa.Connection) -> set[tuple[str, str]]:
            images = [(row.key, row.etag) for row in rows]
            self._insert_images(connection, line, rows, now)
            new = image_table.c.recorded_at == now
            inserted = set(_ids_of(connection, line, images, new))
            self._release(connection, owner, line, "ingest", images)
            return inserted

        return self._write(step) if rows else set()

    def commit_scores(
        self, run_id: str, work: str, judged: Sequence[JudgedImage], failures: Sequence[FailureRecord]
    ) -> set[tuple[str, str]]:
        """Record one chunk of a run and release the run's claims for `work` on its images; all or none.

        Images are inserted unless they are known, verdicts unless the run's detector has judged the image before, in
        any run, and failures unless this run has named them. Gives (key, etag) of the verdicts that this call inserted.

        Raises:
            LookupError: there is no such run.
            sqlalchemy.exc.IntegrityError: an unusable image with a score, or a verdict without one.
        """
        now = datetime.now(UTC)
        if not judged and not failures:
            return set()
        return self._write(lambda connection: self._commit_scores(connection, run_id, work, judged, failures, now))

    def _commit_scores(
        self,
        connection: sa.Connection,
        run_id: str,
        work: str,
        judged: Sequence[JudgedImage],
        failures: Sequence[FailureRecord],
        now: datetime,
    ) -> set[tuple[str, str]]:
        run = self._run(connection, run_id)
        images = [row.image for row in judged]
        self._insert_images(connection, run.line, images, now)
        ids = _ids_of(connection, run.line, [(image.key, image.etag) for image in images])
        scores = {ids[row.image.key, row.image.etag]: row.score for row in judged}
        inserted = self._insert_scores(connection, run, scores, now)
        self._insert_failures(connection, run_id, failures)
        done = [*ids, *((failure.key, failure.etag) for failure in failures)]
        self._release(connection, run_id, run.line, work, done)
        return {image for image, image_id in ids.items() if image_id in inserted}

    def _insert_images(self, connection: sa.Connection, line: str, rows: Sequence[ImageRecord], now: datetime) -> None:
        # in the same order in every transaction, so that two that insert the same images do not block each other
        ordered = sorted({(row.key, row.etag): row for row in rows}.items())
        values = [{**asdict(row), "line": line, "recorded_at": now} for _, row in ordered]
        if values:
            connection.execute(self._insert_new(image_table), values)

    def _insert_scores(
        self, connection: sa.Connection, run: ScoringRun, scores: dict[int, ScoreRecord], now: datetime
    ) -> set[int]:
        """Gives the ids of images whose scores were inserted by the call that started at `now`, at whichever try."""
        if not scores:
            return set()
        detector = {"model_version": run.model_version, "calibration_id": run.calibration_id}
        common = {**detector, "run_id": run.id, "scored_at": now}
        values = [{**asdict(score), **common, "image_id": image_id} for image_id, score in sorted(scores.items())]
        table = score_table.c
        connection.execute(self._insert_new(score_table), values)
        query = sa.select(table.image_id).where(*_judged_by(run.model_version, run.calibration_id))
        mine = query.where(table.run_id == run.id, table.scored_at == now)
        return {row.image_id for row in _rows_among(connection, mine, table.image_id, scores)}

    def _insert_failures(self, connection: sa.Connection, run_id: str, rows: Sequence[FailureRecord]) -> None:
        values = [{**asdict(row), "run_id": run_id} for row in rows]
        if values:
            connection.execute(self._insert_new(failure_table), values)

    def known_images(self, line: str, start: date, end: date) -> dict[tuple[str, str], int]:
        """(key, etag) -> id of every image of the window that was ever recorded."""
        table = image_table.c
        query = sa.select(table.key, table.etag, table.id).where(*_window(line, start, end))
        return {(row.key, row.etag): row.id for row in self._rows(query)}

    def recorded_images(self, line: str, start: date, end: date) -> pd.DataFrame:
        """The window's images, fit to judge or not when they were recorded; ordered by key and ETag.

        Columns: id, key, etag, part, view, production_date, captured_at, size_bytes, sha256, usable, reason.
        """
        names = [
            "id",
            "key",
            "etag",
            "part",
            "view",
            "production_date",
            "captured_at",
            "size_bytes",
            "sha256",
            "usable",
            "reason",
        ]
        query = (
            sa.select(*(image_table.c[name] for name in names))
            .where(*_window(line, start, end))
            .order_by(image_table.c.key, image_table.c.etag)
        )
        return self._frame(query, {"id": "int64", "size_bytes": "int64", "usable": "bool"})

    def start_run(
        self,
        line: str,
        window_start: date,
        window_end: date,
        *,
        model_name: str,
        model_version: int,
        calibration_id: str,
        snapshot_id: str,
        code_version: str,
        flow_run_id: str = "",
        lease_s: float = LEASE_S,
    ) -> ScoringRun:
        """Record the start of a run, which holds a lease in its own name from then on.

        Its id begins with the time, so that report folders sort.
        """
        now = datetime.now(UTC)
        run = ScoringRun(
            id=f"{now:%Y%m%dT%H%M%SZ}-{uuid4().hex[:8]}",
            line=line,
            window_start=window_start,
            window_end=window_end,
            model_name=model_name,
            model_version=model_version,
            calibration_id=calibration_id,
            snapshot_id=snapshot_id,
            code_version=code_version,
            flow_run_id=flow_run_id,
            state="running",
            message="",
            started_at=now,
            finished_at=None,
            report_key=None,
            **asdict(RunCounts()),
        )

        def step(connection: sa.Connection) -> None:
            connection.execute(self._insert_new(run_table).values(**asdict(run)))
            self._hold_lease(connection, run.id, lease_s)

        self._write(step)
        return run

    def finish_run(
        self,
        run_id: str,
        counts: RunCounts,
        state: Literal["completed", "failed", "interrupted"],
        message: str = "",
        report_key: str | None = None,
    ) -> ScoringRun:
        """Record how a run ended, and drop its lease and claims.

        Raises:
            AccountingError: a completed run whose counts do not add up.
            LookupError: there is no such run.
        """
        if state == "completed":
            counts.reconcile()
        outcome = {"state": state, "message": message, "report_key": report_key, "finished_at": datetime.now(UTC)}
        update = sa.update(run_table).where(run_table.c.id == run_id).values(**asdict(counts), **outcome)

        def step(connection: sa.Connection) -> ScoringRun:
            connection.execute(update)
            self._drop_lease(connection, run_id)
            return self._run(connection, run_id)

        return self._write(step)

    def end_dead_runs(self, line: str) -> list[ScoringRun]:
        """End the line's runs that are running without a live lease as interrupted; gives them, oldest first.

        Their claims are dropped, like all of the line's claims whose owner is dead.
        """
        now = datetime.now(UTC)
        return self._write(lambda connection: self._end_dead_runs(connection, line, now))

    def _end_dead_runs(self, connection: sa.Connection, line: str, now: datetime) -> list[ScoringRun]:
        table = run_table.c
        dead = (table.line == line, table.state == "running", ~self._is_alive(table.id))
        outcome = {"state": "interrupted", "message": _FOUND_DEAD, "finished_at": now}
        connection.execute(sa.update(run_table).where(*dead).values(**outcome))
        self._delete_claims(connection, sa.and_(claim_table.c.line == line, ~self._is_alive(claim_table.c.owner)))
        connection.execute(sa.delete(lease_table).where(lease_table.c.expires_at <= self._clock()))
        ended = sa.select(run_table).where(table.line == line, table.message == _FOUND_DEAD, table.finished_at == now)
        return [ScoringRun(**row._asdict()) for row in connection.execute(ended.order_by(table.started_at, table.id))]

    def newest_run(self, line: str, start: date, end: date) -> ScoringRun | None:
        """The newest run for exactly this window, in any state, with any model."""
        table = run_table.c
        query = (
            sa.select(run_table)
            .where(table.line == line, table.window_start == start, table.window_end == end)
            .order_by(table.started_at.desc(), table.id.desc())
            .limit(1)
        )
        return next((ScoringRun(**row._asdict()) for row in self._rows(query)), None)

    def runs(self, line: str, limit: int, day: date | None = None) -> list[ScoringRun]:
        """The line's newest runs, or the newest whose window holds `day`; newest first."""
        table = run_table.c
        query = sa.select(run_table).where(table.line == line)
        if day is not None:
            query = query.where(table.window_start <= day, table.window_end >= day)
        newest = query.order_by(table.started_at.desc(), table.id.desc()).limit(limit)
        return [ScoringRun(**row._asdict()) for row in self._rows(newest)]

    def run(self, run_id: str) -> ScoringRun:
        """One run. LookupError if there is none with this id."""
        return self._read(lambda connection: self._run(connection, run_id))

    @staticmethod
    def _run(connection: sa.Connection, run_id: str) -> ScoringRun:
        row = connection.execute(sa.select(run_table).where(run_table.c.id == run_id)).one_or_none()
        if row is None:
            raise LookupError(f"the report store has no run {run_id!r}")
        return ScoringRun(**row._asdict())

    def latest_report(
        self, line: str, start: date, end: date, model_version: int, calibration_id: str
    ) -> ScoringRun | None:
        """The newest completed run with a report for exactly this window and detector."""
        table = run_table.c
        query = (
            sa.select(run_table)
            .where(table.line == line, table.window_start == start, table.window_end == end)
            .where(table.model_version == model_version, table.calibration_id == calibration_id)
            .where(table.state == "completed", table.report_key.is_not(None))
            .order_by(table.finished_at.desc(), table.id.desc())
            .limit(1)
        )
        return next((ScoringRun(**row._asdict()) for row in self._rows(query)), None)

    def scored_since(
        self,
        line: str,
        start: date,
        end: date,
        model_version: int,
        calibration_id: str,
        since: datetime,
        *,
        besides: str,
    ) -> bool:
        """Whether a run other than `besides` has recorded a verdict of this detector on the window since then."""
        query = (
            sa.select(score_table.c.id)
            .join(image_table, score_table.c.image_id == image_table.c.id)
            .where(*_window(line, start, end), *_judged_by(model_version, calibration_id))
            .where(score_table.c.scored_at >= since, score_table.c.run_id != besides)
            .limit(1)
        )
        return bool(self._rows(query))

    def judged(
        self, line: str, start: date, end: date, model_version: int, calibration_id: str
    ) -> dict[tuple[str, str], str]:
        """(key, etag) -> verdict of every image of the window that this detector has judged, in any run."""
        query = (
            sa.select(image_table.c.key, image_table.c.etag, score_table.c.verdict)
            .join(score_table, score_table.c.image_id == image_table.c.id)
            .where(*_window(line, start, end), *_judged_by(model_version, calibration_id))
        )
        return self._read(
            lambda connection: {(key, etag): sys.intern(verdict) for key, etag, verdict in connection.execute(query)}
        )

    def save_failures(self, run_id: str, rows: Sequence[FailureRecord]) -> None:
        """Record images that this run could not judge; each (key, etag) once."""
        self._write(lambda connection: self._insert_failures(connection, run_id, rows))

    def failures_of_run(self, run_id: str) -> pd.DataFrame:
        """Columns key, etag, reason, detail; ordered by key."""
        table = failure_table.c
        query = sa.select(table.key, table.etag, table.reason, table.detail).where(table.run_id == run_id)
        return self._frame(query.order_by(table.key, table.etag), {})

    def scores_of_window(
        self, line: str, start: date, end: date, model_version: int, calibration_id: str
    ) -> pd.DataFrame:
        """All verdicts of one detector on the window's images, worst first, unusable ones last.

        Columns: key, etag, part, view, production_date, captured_at, raw_score, normalised_score, p_value, verdict,
        reason, heat_map_key, model_version, calibration_id, run_id. Missing scores are NaN, missing texts None.
        """
        query = (
            sa.select(
                *(image_table.c[name] for name in _IMAGE_COLUMNS), *(score_table.c[name] for name in _SCORE_COLUMNS)
            )
            .join(score_table, score_table.c.image_id == image_table.c.id)
            .where(*_window(line, start, end), *_judged_by(model_version, calibration_id))
            .order_by(score_table.c.raw_score.desc().nulls_last(), image_table.c.key, image_table.c.etag)
        )
        floats = dict.fromkeys(("raw_score", "normalised_score", "p_value"), "float64")
        return self._frame(query, {**floats, "model_version": "int64"})

    def record_promotion(
        self,
        line: str,
        *,
        model_name: str,
        alias: str,
        version: int,
        previous_version: int | None,
        who: str,
        why: str,
    ) -> Promotion:
        """Record that an alias was moved."""
        promotion = Promotion(line, model_name, alias, version, previous_version, who, why, datetime.now(UTC))
        insert = self._insert_new(promotion_table).values(**asdict(promotion))
        self._write(lambda connection: connection.execute(insert))
        return promotion

    def last_promotion(self, line: str) -> Promotion | None:
        """The line's newest promotion."""
        return next(iter(reversed(self.promotions(line))), None)

    def promotions(self, line: str) -> list[Promotion]:
        """All promotions of the line, oldest first."""
        table = promotion_table.c
        query = sa.select(*_columns(promotion_table, Promotion)).where(table.line == line)
        return [Promotion(**row._asdict()) for row in self._rows(query.order_by(table.id))]

    # --- audit ------------------------------------------------------------------------------------------------------

    def record_review(self, line: str, image_id: int, finding: Finding, who: str, note: str = "") -> Review:
        """Record what a person found on the part that an image shows. Reviews are only ever added.

        Raises:
            LookupError: the line has no such image.
        """
        review = Review(image_id, finding, who, note, datetime.now(UTC))

        def step(connection: sa.Connection) -> None:
            known = sa.select(image_table.c.id).where(image_table.c.id == image_id, image_table.c.line == line)
            if connection.execute(known).one_or_none() is None:
                raise LookupError(f"the report store has no image {image_id} of line {line!r}")
            connection.execute(self._insert_new(review_table).values(**asdict(review)))

        self._write(step)
        return review

    def find_images(self, part_or_key: str, line: str | None = None) -> list[StoredImage]:
        """All records of a part or of a key, in every version of the object that was seen; oldest first."""
        table = image_table.c
        query = sa.select(image_table).where(sa.or_(table.part == part_or_key, table.key == part_or_key))
        if line is not None:
            query = query.where(table.line == line)
        return [StoredImage(**row._asdict()) for row in self._rows(query.order_by(table.recorded_at, table.id))]

    def verdicts_of(self, image_ids: Sequence[int]) -> list[StoredScore]:
        """All verdicts on these images, of every detector; oldest first."""
        rows = self._read(lambda connection: _rows_among(connection, _STORED_SCORES, score_table.c.image_id, image_ids))
        found = [StoredScore(**row._asdict()) for row in rows]
        return sorted(found, key=lambda score: (score.scored_at, score.image_id))

    def reviews_of(self, image_ids: Sequence[int]) -> list[Review]:
        """All reviews of these images, oldest first."""
        query = sa.select(*_columns(review_table, Review))
        rows = self._read(lambda connection: _rows_among(connection, query, review_table.c.image_id, image_ids))
        return sorted((Review(**row._asdict()) for row in rows), key=lambda review: review.reviewed_at)

    def failures_of_keys(self, line: str, keys: Sequence[str]) -> list[StoredFailure]:
        """All failures of these keys in runs of the line, oldest run first."""
        columns = _columns(failure_table, FailureRecord)
        query = (
            sa.select(*columns, failure_table.c.run_id, run_table.c.started_at)
            .join(run_table, run_table.c.id == failure_table.c.run_id)
            .where(run_table.c.line == line)
        )
        rows = self._read(lambda connection: _rows_among(connection, query, failure_table.c.key, keys))
        found = [StoredFailure(**row._asdict()) for row in rows]
        return sorted(found, key=lambda failure: (failure.started_at, failure.run_id, failure.key, failure.etag))

    def flagged_parts(self, line: str, day: date, limit: int = 100) -> pd.DataFrame:
        """The parts of a production date that are flagged, worst first: one row for each, that of its worst image.

        The verdicts are those of one detector, that of the newest completed run over the day, or of the newest run
        where none completed. Objects that were replaced later still count.

        Columns: part, flagged_images, image_id, key, etag, view, captured_at, raw_score, normalised_score, p_value,
        heat_map_key, model_version, calibration_id, run_id.
        """
        ranked = _flagged_images(line, day).subquery()
        query = (
            sa.select(*(column for column in ranked.c if column.name != "place"))
            .where(ranked.c.place == 1)
            .order_by(ranked.c.raw_score.desc(), ranked.c.part)
            .limit(limit)
        )
        floats = dict.fromkeys(("raw_score", "normalised_score", "p_value"), "float64")
        whole = dict.fromkeys(("flagged_images", "image_id", "model_version"), "int64")
        return self._frame(query, floats | whole)

    def sample_of_run(self, run_id: str, n: int, seed: int) -> list[StoredScore]:
        """Up to `n` random scores that this run wrote, unusable images left out; the same for the same seed."""
        table = score_table.c
        judged = (table.run_id == run_id, table.verdict != "unusable")
        images = sa.select(image_table.c.id).join(score_table, table.image_id == image_table.c.id).where(*judged)

        def step(connection: sa.Connection) -> list[Any]:
            ids = connection.scalars(images.order_by(image_table.c.key, image_table.c.etag)).all()
            chosen = Random(seed).sample(ids, min(n, len(ids)))  # noqa: S311 nothing is secret about it
            return _rows_among(connection, _STORED_SCORES.where(table.run_id == run_id), table.image_id, chosen)

        found = [StoredScore(**row._asdict()) for row in self._read(step)]
        return sorted(found, key=lambda score: (score.key, score.etag))

    # --- transactions -----------------------------------------------------------------------------------------------

    @property
    def _is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    @property
    def _dialect(self) -> Any:
        return sqlite if self._is_sqlite else postgresql

    @property
    def _shown(self) -> str:
        return self.url.render_as_string(hide_password=True)

    def _rows(self, query: sa.Select[Any]) -> Sequence[Any]:
        return self._read(lambda connection: connection.execute(query).all())

    def _read(self, step: Callable[[sa.Connection], _T]) -> _T:
        return self._tried(lambda: self._once(step, "read"))

    def _write(self, step: Callable[[sa.Connection], _T]) -> _T:
        return self._tried(lambda: self._once(step, "write"))

    def _once(self, step: Callable[[sa.Connection], _T], kind: Literal["read", "write"]) -> _T:
        with (
            self._engine.connect() as connection,
            nullcontext() if self._is_sqlite else _cut_after(TRANSACTION_LIMIT_S, connection),
            self._begun(connection, kind),
        ):
            return step(connection)

    @staticmethod
    @contextmanager
    def _begun(connection: sa.Connection, kind: Literal["read", "write"]) -> Iterator[None]:
        """A transaction. One that writes takes SQLite's lock at its start: later it could fail instead of waiting."""
        with connection.execution_options(sqlite_begin="BEGIN IMMEDIATE" if kind == "write" else "BEGIN").begin():
            yield

    def _tried(self, attempt: Callable[[], _T]) -> _T:
        """The outcome of `attempt`, which must be one whole transaction, tried until the database is there."""
        started = time.monotonic()
        retrying = Retrying(
            retry=retry_if_exception(_is_passing),
            wait=wait_random_exponential(multiplier=0.1, max=_MAX_WAIT_S),
            # a transaction that hung has used up all patience by itself, and deserves another connection
            stop=stop_all(stop_after_delay(self.patience_s), stop_after_attempt(2)),
            before_sleep=self._say_that_we_wait,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except sa.exc.DBAPIError as error:
            trouble = self._trouble(error, time.monotonic() - started)
            if trouble is None:
                raise
            raise ReportStoreError(f"report store {self._shown}: {trouble}") from error

    def _say_that_we_wait(self, state: RetryCallState) -> None:
        assert state.outcome is not None
        if state.attempt_number & (state.attempt_number - 1):  # the 1st, 2nd, 4th, 8th ... time is often enough
            return
        _logger.warning("report store %s: trying again: %s", self._shown, _first_line(state.outcome.exception()))

    def _trouble(self, error: sa.exc.DBAPIError, tried_s: float) -> str | None:
        """What the operator is to know about an error of the database that is no mistake of this software."""
        cause = _first_line(error)
        again = "then run the same command again: what was done stays, and nothing is done twice"
        if _is_passing(error):
            return f"away for {tried_s:.0f} s ({cause}); see that the database runs and can be reached, {again}"
        if self._is_sqlite:
            known = _SQLITE_FILE_TROUBLE.get(_sqlite_code(error))
            return known and f"{cause}: {known}, {again}"
        if _sqlstate(error) == "53100":
            return f"the server's disk is full ({cause}); make room there, {again}"
        return f"refused ({cause})" if _is_refusal(error) else None

    def _insert_new(self, table: sa.Table) -> Any:
        """INSERT that leaves rows alone that are there already.

        Without RETURNING, with which SQLAlchemy writes one long statement for many rows: the drivers' own executemany
        takes half the time on PostgreSQL.
        """
        return self._dialect.insert(table).on_conflict_do_nothing()

    def _frame(self, query: sa.Select[Any], dtypes: dict[str, str]) -> pd.DataFrame:
        """The rows as a table of plain objects, so that a missing text stays None; `dtypes` where given."""
        names = query.selected_columns.keys()

        def read(connection: sa.Connection) -> list[list["pd.Series[Any]"]]:
            columns = [[_series(name, [], dtypes)] for name in names]
            for rows in connection.execute(query).partitions(_ROWS_AT_ONCE):
                for name, column, values in zip(names, columns, zip(*rows, strict=True), strict=True):
                    column.append(_series(name, _shared(values), dtypes))
            return columns

        # in pieces and column by column: a night's rows twice in memory, or each number as an object, would show
        columns = self._read(read)
        return pd.DataFrame({name: pd.concat(columns.pop(0), ignore_index=True) for name in names})

    @property
    def _file(self) -> Path | None:
        """SQLite's file; None for one in memory and for PostgreSQL."""
        return Path(self.url.database) if self._is_sqlite and self.url.database not in (None, "", ":memory:") else None

    def _create_folder(self) -> None:
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)

    def _schema_state(self) -> Literal["empty", "older", "newer", "current"]:
        return self._read(self._state_of)

    @staticmethod
    def _state_of(connection: sa.Connection) -> Literal["empty", "older", "newer", "current"]:
        script = ScriptDirectory.from_config(_migrations())
        revision = MigrationContext.configure(connection).get_current_revision()
        if revision is None:
            return "empty"
        if revision == script.get_current_head():
            return "current"
        return "older" if revision in {known.revision for known in script.walk_revisions()} else "newer"


def _series(name: str, values: Sequence[Any], dtypes: dict[str, str]) -> "pd.Series[Any]":
    """A piece of a column of a table."""
    if name == "captured_at":
        return pd.to_datetime(pd.Series(values, dtype=object), utc=True).dt.as_unit("us")
    return pd.Series(values, dtype=object).astype(dtypes.get(name, "object"))


def _shared(values: Sequence[Any]) -> Sequence[Any]:
    """The same values, equal ones as one object, where there are few: a database gives each row texts of its own."""
    distinct = {value: value for value in values}
    return [distinct[value] for value in values] if 10 * len(distinct) < len(values) else values


# --- queries --------------------------------------------------------------------------------------------------------


def _window(line: str, start: date, end: date) -> tuple[sa.ColumnElement[bool], ...]:
    return image_table.c.line == line, image_table.c.production_date.between(start, end)


def _flagged_images(line: str, day: date) -> sa.Select[Any]:
    """A day's flagged images with their `place` among those of the same part, the worst first."""
    run, image, score = run_table.c, image_table.c, score_table.c
    newest = (
        sa.select(run.model_version, run.calibration_id)
        .where(run.line == line, run.window_start <= day, run.window_end >= day)
        .order_by((run.state == "completed").desc(), run.started_at.desc(), run.id.desc())
        .limit(1)
        .subquery()
    )
    of_part = {"partition_by": image.part}
    place = sa.func.row_number().over(order_by=(score.raw_score.desc(), image.key, image.etag), **of_part)
    return (
        sa.select(
            image.part,
            sa.func.count().over(**of_part).label("flagged_images"),
            score.image_id,
            *(image.key, image.etag, image.view, image.captured_at),
            *(score.raw_score, score.normalised_score, score.p_value, score.heat_map_key),
            *(score.model_version, score.calibration_id, score.run_id),
            place.label("place"),
        )
        .join(score_table, score.image_id == image.id)
        .join(newest, sa.and_(*_judged_by(newest.c.model_version, newest.c.calibration_id)))
        # written out: a database finds its index of flagged images only for this very text
        .where(*_window(line, day, day), score.verdict == sa.literal_column("'flagged'"))
    )


def _judged_by(model_version: Any, calibration_id: Any) -> tuple[sa.ColumnElement[bool], ...]:
    return score_table.c.model_version == model_version, score_table.c.calibration_id == calibration_id


def _migrations() -> Config:
    """Alembic's configuration for the migrations in `infra/migrations` beside this package."""
    folder = Path(__file__).resolve().parents[2] / "infra" / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    return config


def _columns(table: sa.Table, row: type) -> list[sa.Column[Any]]:
    """The columns of a table that a row of this dataclass holds."""
    return [table.c[field.name] for field in fields(row)]


def _batches(values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for first in range(0, len(values), _VALUES_PER_QUERY):
        yield values[first : first + _VALUES_PER_QUERY]


def _rows_among(
    connection: sa.Connection, query: sa.Select[Any], column: sa.ColumnElement[Any], values: Iterable[Any]
) -> list[Any]:
    """The query's rows whose `column` is one of `values`, in no particular order."""
    return [
        row for some in _batches(sorted(set(values))) for row in connection.execute(query.where(column.in_(some))).all()
    ]


def _ids_of(
    connection: sa.Connection, line: str, images: Sequence[tuple[str, str]], *where: sa.ColumnElement[bool]
) -> dict[tuple[str, str], int]:
    """(key, etag) -> id of those of the line's images that are recorded, and meet `where`."""
    table, wanted = image_table.c, set(images)
    query = sa.select(table.key, table.etag, table.id).where(table.line == line, *where)
    rows = _rows_among(connection, query, table.key, {key for key, _ in images})
    return {(row.key, row.etag): row.id for row in rows if (row.key, row.etag) in wanted}


# --- connections ----------------------------------------------------------------------------------------------------


def _is_passing(error: BaseException) -> bool:
    """Whether the same transaction may succeed later: connection lost or refused, server restarting, locked."""
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    if _sqlite_code(error) in (_SQLITE_BUSY, _SQLITE_LOCKED) or error.connection_invalidated:
        return True
    state = _sqlstate(error)
    if state is None:
        return _failed_to_connect(error) and not _is_refusal(error)
    return state in _PASSING_STATES or state.startswith("08")  # 08: connection exceptions


def _failed_to_connect(error: sa.exc.DBAPIError) -> bool:
    """Whether PostgreSQL's driver could not connect, for which it gives no SQLSTATE."""
    return isinstance(error, sa.exc.OperationalError) and hasattr(error.orig, "pgconn") and _sqlstate(error) is None


def _is_refusal(error: sa.exc.DBAPIError) -> bool:
    """Whether the server is there and will not have us: password, user or database are wrong."""
    if not _failed_to_connect(error):
        return False
    connection = getattr(error.orig, "pgconn", None)
    asked = connection is not None and (connection.needs_password or connection.used_password)
    return asked or any(words in str(error.orig) for words in ("does not exist", "no pg_hba.conf entry"))


def _sqlstate(error: sa.exc.DBAPIError) -> str | None:
    return getattr(error.orig, "sqlstate", None)


def _sqlite_code(error: sa.exc.DBAPIError) -> int:
    """SQLite's primary result code; -1 for an error of another database."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return -1 if code is None else code & 0xFF


def _first_line(error: BaseException | None) -> str:
    """What the driver says, without the statement and its values."""
    return str(getattr(error, "orig", error)).strip().partition("\n")[0]


@contextmanager
def _cut_after(seconds: float, connection: sa.Connection) -> Iterator[None]:
    """Cut the connection if what is done with it takes longer: a server that hangs keeps no time limit of its own."""
    with socket.socket(fileno=os.dup(connection.connection.dbapi_connection.fileno())) as line:

        def cut() -> None:
            with suppress(OSError):  # closed meanwhile
                line.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


@contextmanager
def _without_foreign_keys(connection: sa.Connection) -> Iterator[None]:
    """SQLite changes a table by building it anew, and would miss the old one's rows meanwhile."""
    if connection.dialect.name != "sqlite":
        yield
        return
    driver = connection.connection.dbapi_connection
    assert driver is not None
    driver.execute("PRAGMA foreign_keys = OFF")  # has no effect within a transaction
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys = ON")


def _postgresql_engine(url: sa.URL) -> sa.Engine:
    """An engine with a bound on every wait; what the URL says itself stays.

    No ping before each use: a connection that was lost is found by the transaction, which is then tried again.
    """
    limits = {
        "statement_timeout": STATEMENT_TIMEOUT_S,
        "lock_timeout": LOCK_TIMEOUT_S,
        # the server gives up the locks of a client that vanished without a word
        "idle_in_transaction_session_timeout": LOCK_TIMEOUT_S,
    }
    options = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
        "application_name": "inspection",
        **url.query,
        "options": " ".join([*(f"-c {name}={s}s" for name, s in limits.items()), str(url.query.get("options", ""))]),
    }
    return sa.create_engine(url, connect_args=options)


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    @sa.event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, so that a migration is one transaction
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))

    return engine
