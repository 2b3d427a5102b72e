"""Errors of the two databases: which of them pass, and what the operator is to do about the others."""

import sqlalchemy as sa

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
    """What the operator is to know about an error of the database that is no mistake of this software."""
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


def first_line(error: BaseException | None) -> str:
    """What the driver says, without the statement and its values."""
    return str(getattr(error, "orig", error)).strip().partition("\n")[0]
