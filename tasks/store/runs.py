"""The scoring runs, their accounting, and the images that they could not judge."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Literal
from uuid import uuid4

import pandas as pd
import sqlalchemy as sa

from tasks.night.accounting import RunCounts
from tasks.store.database import Database, columns, rows_among
from tasks.store.leases import is_alive
from tasks.store.rows import FailureRecord, ScoringRun, StoredFailure
from tasks.store.tables import drift_table, failure_table, image_table, run_table, score_table

_FOUND_DEAD = "found without a sign of life: its process was killed, or was cut off from the report store"


class Runs:
    """Tables `scoring_run` and `failure`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(
        self,
        run_id: str,
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
    ) -> ScoringRun:
        """Record the start of a run, whose id, see `new_run_id`, holds the lease on its work."""
        run = ScoringRun(
            id=run_id,
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
            started_at=datetime.now(UTC),
            finished_at=None,
            report_key=None,
            **asdict(RunCounts()),
        )
        insert = self._database.insert_new(run_table).values(**asdict(run))
        self._database.write(lambda connection: connection.execute(insert))
        return run

    def finish(
        self,
        run_id: str,
        counts: RunCounts,
        state: Literal["completed", "failed", "interrupted"],
        message: str = "",
        report_key: str | None = None,
    ) -> ScoringRun:
        """Record how a run ended.

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
            return run_of(connection, run_id)

        return self._database.write(step)

    def end_dead(self, line: str) -> list[ScoringRun]:
        """End the line's runs that are running without a live lease as interrupted; gives them, oldest first."""
        now, table = datetime.now(UTC), run_table.c
        dead = (table.line == line, table.state == "running", ~is_alive(self._database, table.id))
        outcome = {"state": "interrupted", "message": _FOUND_DEAD, "finished_at": now}
        ended = sa.select(run_table).where(table.line == line, table.message == _FOUND_DEAD, table.finished_at == now)

        def step(connection: sa.Connection) -> list[ScoringRun]:
            connection.execute(sa.update(run_table).where(*dead).values(**outcome))
            rows = connection.execute(ended.order_by(table.started_at, table.id))
            return [ScoringRun(**row._asdict()) for row in rows]

        return self._database.write(step)

    def newest(self, line: str, start: date, end: date, *, compared: bool = False) -> ScoringRun | None:
        """The newest run for exactly this window, in any state, with any model.

        Args:
            line: its name.
            start: first production date.
            end: last production date, included.
            compared: only a run that was compared with what is usual.
        """
        table = run_table.c
        query = (
            sa.select(run_table)
            .where(table.line == line, table.window_start == start, table.window_end == end)
            .order_by(table.started_at.desc(), table.id.desc())
            .limit(1)
        )
        if compared:
            query = query.where(sa.exists().where(drift_table.c.run_id == table.id))
        return next((ScoringRun(**row._asdict()) for row in self._database.rows(query)), None)

    def of_line(self, line: str, limit: int, day: date | None = None) -> list[ScoringRun]:
        """The line's newest runs, or the newest whose window holds `day`; newest first."""
        table = run_table.c
        query = sa.select(run_table).where(table.line == line)
        if day is not None:
            query = query.where(table.window_start <= day, table.window_end >= day)
        newest = query.order_by(table.started_at.desc(), table.id.desc()).limit(limit)
        return [ScoringRun(**row._asdict()) for row in self._database.rows(newest)]

    def get(self, run_id: str) -> ScoringRun:
        """One run. LookupError if there is none with this id."""
        return self._database.read(lambda connection: run_of(connection, run_id))

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
        return next((ScoringRun(**row._asdict()) for row in self._database.rows(query)), None)

    def save_failures(self, run_id: str, rows: Sequence[FailureRecord]) -> None:
        """Record images that this run could not judge; each (key, etag) once."""
        self._database.write(lambda connection: insert_failures(self._database, connection, run_id, rows))

    def failures(self, run_id: str) -> pd.DataFrame:
        """Columns key, etag, reason, detail; ordered by key.

        Without those that the run judged after all: its shard was done again by another worker.
        """
        table, image = failure_table.c, image_table.c
        judged = sa.select(score_table.c.id).join(image_table, image.id == score_table.c.image_id)
        judged = judged.where(image.key == table.key, image.etag == table.etag, score_table.c.run_id == run_id)
        query = sa.select(table.key, table.etag, table.reason, table.detail)
        query = query.where(table.run_id == run_id, ~judged.exists())
        return self._database.frame(query.order_by(table.key, table.etag), {})

    def named(self, line: str, objects: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the objects (key, etag) that some run of the line named as a failure."""
        table = failure_table.c
        query = sa.select(table.key, table.etag).join(run_table, run_table.c.id == table.run_id)
        query, keys = query.where(run_table.c.line == line), {key for key, _ in objects}
        rows = self._database.read(lambda connection: rows_among(connection, query, table.key, keys))
        return {(row.key, row.etag) for row in rows} & set(objects)

    def failures_of_keys(self, line: str, keys: Sequence[str]) -> list[StoredFailure]:
        """All failures of these keys in runs of the line, oldest run first."""
        query = (
            sa.select(*columns(failure_table, FailureRecord), failure_table.c.run_id, run_table.c.started_at)
            .join(run_table, run_table.c.id == failure_table.c.run_id)
            .where(run_table.c.line == line)
        )
        rows = self._database.read(lambda connection: rows_among(connection, query, failure_table.c.key, keys))
        found = [StoredFailure(**row._asdict()) for row in rows]
        return sorted(found, key=lambda failure: (failure.started_at, failure.run_id, failure.key, failure.etag))


def new_run_id() -> str:
    """An id that no other run has. It begins with the time, so that report folders sort."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid4().hex[:8]}"


def run_of(connection: sa.Connection, run_id: str) -> ScoringRun:
    """One run, as part of a transaction. LookupError if there is none with this id."""
    row = connection.execute(sa.select(run_table).where(run_table.c.id == run_id)).one_or_none()
    if row is None:
        raise LookupError(f"the report store has no run {run_id!r}")
    return ScoringRun(**row._asdict())


def insert_failures(database: Database, connection: sa.Connection, run_id: str, rows: Sequence[FailureRecord]) -> None:
    """Insert failures that the run has not named yet, as part of a transaction."""
    values = [{**asdict(row), "run_id": run_id} for row in rows]
    if values:
        connection.execute(database.insert_new(failure_table), values)
