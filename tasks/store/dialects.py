"""Differences of SQLite and PostgreSQL: how they are reached, which of their errors pass, and the way out of others."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import sqlalchemy as sa

BUSY_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 120
LOCK_TIMEOUT_S = 30

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


def trouble(error: sa.exc.DBAPIError, tried_s: float) -> str | None:
    """Words for the operator about an error of the database; None for a mistake of this software."""
    cause = first_line(error)
    again = "then run the same command again: what was done stays, and nothing is done twice"
    if is_passing(error):
        return f"away for {tried_s:.0f} s ({cause}); see that the database runs and can be reached, {again}"
    if _sqlite_code(error) != -1:
        known = _SQLITE_FILE_TROUBLE.get(_sqlite_code(error))
        return known and f"{cause}: {known}, {again}"
    if _sqlstate(error) == "53100":
        return f"the server's disk is full ({cause}); make room there, {again}"
    return f"refused ({cause})" if _is_refusal(error) else None


def is_passing(error: BaseException) -> bool:
    """True if the same transaction may succeed later: connection lost or refused, server restarting, locked."""
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    if _sqlite_code(error) in (_SQLITE_BUSY, _SQLITE_LOCKED) or error.connection_invalidated:
        return True
    state = _sqlstate(error)
    if state is None:
        return _failed_to_connect(error) and not _is_refusal(error)
    return state in _PASSING_STATES or state.startswith("08")  # 08: connection exceptions


def _failed_to_connect(error: sa.exc.DBAPIError) -> bool:
    """True if PostgreSQL's driver could not connect, for which it gives no SQLSTATE."""
    return isinstance(error, sa.exc.OperationalError) and hasattr(error.orig, "pgconn") and _sqlstate(error) is None


def _is_refusal(error: sa.exc.DBAPIError) -> bool:
    """True if the server is there and will not have us: password, user or database are wrong."""
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


def first_line(error: BaseException | None) -> str:
    """The driver's own words, without the statement and its values."""
    return str(getattr(error, "orig", error)).strip().partition("\n")[0]


def engine_of(url: sa.URL) -> sa.Engine | None:
    """An engine that connects when it is first used; None for another kind of database."""
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        return _sqlite_engine(url)
    return _postgresql_engine(url) if url.drivername == "postgresql+psycopg" else None


@contextmanager
def cut_after(seconds: float, connection: sa.Connection) -> Iterator[None]:
    """Cut the connection if what is done with it takes longer: a server that hangs keeps no time limit of its own."""
    driver: Any = connection.connection.dbapi_connection
    with socket.socket(fileno=os.dup(driver.fileno())) as line:

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
def without_foreign_keys(connection: sa.Connection) -> Iterator[None]:
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
    settings = {
        "statement_timeout": f"{STATEMENT_TIMEOUT_S}s",
        "lock_timeout": f"{LOCK_TIMEOUT_S}s",
        # the server gives up the locks of a client that vanished without a word: between statements ...
        "idle_in_transaction_session_timeout": f"{LOCK_TIMEOUT_S}s",
        # ... and amid many that were sent at once, where only the connection tells; by itself it asks after two hours
        "tcp_keepalives_idle": "30s",
        "tcp_keepalives_interval": "10s",
        "tcp_keepalives_count": "3",
    }
    options = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
        "application_name": "inspection",
        **url.query,
        "options": " ".join(
            [*(f"-c {name}={value}" for name, value in settings.items()), str(url.query.get("options", ""))]
        ),
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
