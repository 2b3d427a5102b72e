"""The report store's database: one transaction for each step, tried again while the database is away; its schema.

The same code runs on SQLite and PostgreSQL. A step is tried again as a whole, so it must be harmless twice.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

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
from tasks.store.dialects import cut_after, engine_of, first_line, is_passing, trouble, without_foreign_keys
from tasks.store.tables import UtcDateTime

PATIENCE_S = 120.0
TRANSACTION_LIMIT_S = 180.0
_MAX_WAIT_S = 5.0
_VALUES_PER_QUERY = 1000
_ROWS_AT_ONCE = 5000
_OUR_LOCKS = 0x67616E6F  # PostgreSQL's advisory locks are one number space for all applications of a database
_STATE_WORDS = {
    "empty": "missing, the database is empty",
    "older": "older than this software needs",
    "newer": "newer than this software",
}

_T = TypeVar("_T")
_logger = logging.getLogger(__name__)


class SchemaError(OperatingError):
    """The database's tables are not the ones that this version of the software needs."""


class ReportStoreError(OperatingError):
    """The report store cannot be reached or written, and waiting did not help, or would not."""


class Database:
    """The database at `url`, ``sqlite:///path`` or ``postgresql+psycopg://...``. Safe to use from many threads.

    Nothing connects before the first call. Whatever reads or writes is tried again for `patience_s` seconds while the
    database is away, restarting or locked by somebody else, and then raises ReportStoreError, which says what to do.

    Raises:
        ReportStoreError: for another kind of database.
    """

    def __init__(self, url: str, patience_s: float = PATIENCE_S) -> None:
        try:
            self.url = sa.engine.make_url(url)
        except sa.exc.ArgumentError:  # its text may show a password
            raise ReportStoreError(
                "report store: INSPECTION_STORE_URL is no address of a database; it must begin with sqlite:/// or "
                "postgresql+psycopg://"
            ) from None
        self.patience_s = patience_s
        engine = engine_of(self.url)
        if engine is None:
            raise ReportStoreError(f"report store {self.shown}: must begin with sqlite:/// or postgresql+psycopg://")
        self.engine = engine

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def prepare(self) -> None:
        """Make the store ready: SQLite is created and upgraded, PostgreSQL only looked at.

        Raises:
            SchemaError: the tables are missing, older (PostgreSQL) or newer than this software needs; says what to do.
        """
        self.create_folder()
        if self.is_sqlite and self._schema_state() in ("empty", "older"):
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
                f"report store {self.shown}: there is no such file; name the one that the pipeline writes in "
                "INSPECTION_STORE_URL, or its folder in INSPECTION_WORK_DIR"
            )
        state = self._schema_state()
        if state == "current":
            return
        way_out = "install the newer version" if state == "newer" else "run `inspection db upgrade`"
        raise SchemaError(f"report store {self.shown}: its tables are {_STATE_WORDS[state]}; {way_out}")

    def upgrade(self) -> None:
        """Create the tables, or bring them to this software's version. Two processes at once wait for each other.

        Raises:
            SchemaError: the tables are newer than this software.
        """
        self.create_folder()
        self._tried(self._upgrade)

    def _upgrade(self) -> None:
        with self.engine.connect() as connection, without_foreign_keys(connection), self._begun(connection, "write"):
            if not self.is_sqlite:
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_OUR_LOCKS)))
            if self._state_of(connection) == "newer":
                words = _STATE_WORDS["newer"]
                raise SchemaError(f"report store {self.shown}: its tables are {words}; nothing was changed")
            config = migrations()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            assert not (self.is_sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").all())

    @property
    def is_sqlite(self) -> bool:
        """Whether it is SQLite and not PostgreSQL."""
        return self.engine.dialect.name == "sqlite"

    @property
    def dialect(self) -> Any:
        """The dialect's own module, whose INSERT knows conflicts."""
        return sqlite if self.is_sqlite else postgresql

    @property
    def shown(self) -> str:
        """The address for people, without a password."""
        return self.url.render_as_string(hide_password=True)

    def clock(self, later_s: float = 0.0) -> sa.ColumnElement[datetime]:
        """The database's time; processes on several machines need not agree about theirs."""
        later = timedelta(seconds=later_s)
        if self.is_sqlite:
            return sa.literal(datetime.now(UTC) + later, UtcDateTime)
        return sa.func.clock_timestamp() + sa.literal(later, sa.Interval)

    def rows(self, query: sa.Select[Any]) -> Sequence[Any]:
        """All rows of a query."""
        return self.read(lambda connection: connection.execute(query).all())

    def read(self, step: Callable[[sa.Connection], _T]) -> _T:
        """What a step gives that only reads, in one transaction."""
        return self._tried(lambda: self._once(step, "read"))

    def write(self, step: Callable[[sa.Connection], _T]) -> _T:
        """What a step gives that writes, in one transaction."""
        return self._tried(lambda: self._once(step, "write"))

    def _once(self, step: Callable[[sa.Connection], _T], kind: Literal["read", "write"]) -> _T:
        with (
            self.engine.connect() as connection,
            nullcontext() if self.is_sqlite else cut_after(TRANSACTION_LIMIT_S, connection),
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
            retry=retry_if_exception(is_passing),
            wait=wait_random_exponential(multiplier=0.1, max=_MAX_WAIT_S),
            # a transaction that hung has used up all patience by itself, and deserves another connection
            stop=stop_all(stop_after_delay(self.patience_s), stop_after_attempt(2)),
            before_sleep=self._say_that_we_wait,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except sa.exc.DBAPIError as error:
            found = trouble(error, time.monotonic() - started)
            if found is None:
                raise
            raise ReportStoreError(f"report store {self.shown}: {found}") from error

    def _say_that_we_wait(self, state: RetryCallState) -> None:
        assert state.outcome is not None
        if state.attempt_number & (state.attempt_number - 1):  # the 1st, 2nd, 4th, 8th ... time is often enough
            return
        _logger.warning("report store %s: trying again: %s", self.shown, first_line(state.outcome.exception()))

    def insert_new(self, table: sa.Table) -> Any:
        """INSERT that leaves rows alone that are there already.

        Without RETURNING, with which SQLAlchemy writes one long statement for many rows: the drivers' own executemany
        takes half the time on PostgreSQL.
        """
        return self.dialect.insert(table).on_conflict_do_nothing()

    def frame(self, query: sa.Select[Any], dtypes: dict[str, str]) -> pd.DataFrame:
        """The rows as a table of plain objects, so that a missing text stays None; `dtypes` where given."""
        names = query.selected_columns.keys()

        def read(connection: sa.Connection) -> list[list["pd.Series[Any]"]]:
            columns = [[_series(name, [], dtypes)] for name in names]
            for rows in connection.execute(query).partitions(_ROWS_AT_ONCE):
                for name, column, values in zip(names, columns, zip(*rows, strict=True), strict=True):
                    column.append(_series(name, _shared(values), dtypes))
            return columns

        # in pieces and column by column: a night's rows twice in memory, or each number as an object, would show
        columns = self.read(read)
        return pd.DataFrame({name: pd.concat(columns.pop(0), ignore_index=True) for name in names})

    @property
    def _file(self) -> Path | None:
        """SQLite's file; None for one in memory and for PostgreSQL."""
        return Path(self.url.database) if self.is_sqlite and self.url.database not in (None, "", ":memory:") else None

    def create_folder(self) -> None:
        """Create the folder of SQLite's file."""
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)

    def _schema_state(self) -> Literal["empty", "older", "newer", "current"]:
        return self.read(self._state_of)

    @staticmethod
    def _state_of(connection: sa.Connection) -> Literal["empty", "older", "newer", "current"]:
        script = ScriptDirectory.from_config(migrations())
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


def migrations() -> Config:
    """Alembic's configuration for the migrations in `infra/migrations` beside this package."""
    folder = Path(__file__).resolve().parents[2] / "infra" / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    return config


def columns(table: sa.Table, row: type) -> list[sa.Column[Any]]:
    """The columns of a table that a row of this dataclass holds."""
    return [table.c[field.name] for field in fields(row)]


def batches(values: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Pieces of a sequence that one query can take."""
    for first in range(0, len(values), _VALUES_PER_QUERY):
        yield values[first : first + _VALUES_PER_QUERY]


def rows_among(
    connection: sa.Connection, query: sa.Select[Any], column: sa.ColumnElement[Any], values: Iterable[Any]
) -> list[Any]:
    """The query's rows whose `column` is one of `values`, in no particular order."""
    return [
        row for some in batches(sorted(set(values))) for row in connection.execute(query.where(column.in_(some))).all()
    ]
