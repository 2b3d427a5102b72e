"""The report store: every image, run, score, failure and promotion. The only module that imports SQLAlchemy.

The same code runs on SQLite and PostgreSQL. Everything is written with "insert unless it is there": repeating any
step gives the rows of an undisturbed run. Times are stored in UTC and are aware in Python. An image is (line, key,
etag), so an object that was replaced in the bucket is two images; whoever reads by window and wants only what lies in
the bucket now compares with the listing. Windows are production dates, first and last day included.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from uuid import uuid4

import pandas as pd
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql, sqlite

from tasks.accounting import RunCounts
from tasks.errors import OperatingError

BUSY_TIMEOUT_S = 30
CONNECT_TIMEOUT_S = 10
_KEYS_PER_QUERY = 500  # SQLite allows about 1000 parameters in old versions

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

RunState = Literal["running", "completed", "failed"]


class SchemaError(OperatingError):
    """The database's tables are not the ones that this version of the software needs."""


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An aware time, in UTC on both sides. SQLite stores no zone, so it is put back when reading."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        """To UTC; ValueError for a time without a zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        """From the database, always aware."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# --- tables; infra/migrations builds the same, and a test compares the two ------------------------------------------

_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # only INTEGER counts up by itself in SQLite
metadata = sa.MetaData()

image_table = sa.Table(
    "image",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("line", sa.String, nullable=False),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("etag", sa.String, nullable=False),
    sa.Column("part", sa.String, nullable=False),
    sa.Column("view", sa.String, nullable=False),
    sa.Column("production_date", sa.Date, nullable=False),
    sa.Column("captured_at", UtcDateTime, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String, nullable=False),
    sa.Column("width_px", sa.Integer),
    sa.Column("height_px", sa.Integer),
    sa.Column("brightness", sa.Double),
    sa.Column("contrast", sa.Double),
    sa.Column("sharpness", sa.Double),
    sa.Column("usable", sa.Boolean, nullable=False),
    sa.Column("reason", sa.String),
    sa.Column("recorded_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("line", "key", "etag", name="uq_image_line_key_etag"),
    sa.Index("ix_image_line_part", "line", "part"),
    sa.Index("ix_image_line_production_date", "line", "production_date"),
)

run_table = sa.Table(
    "scoring_run",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("line", sa.String, nullable=False),
    sa.Column("window_start", sa.Date, nullable=False),
    sa.Column("window_end", sa.Date, nullable=False),
    sa.Column("model_name", sa.String, nullable=False),
    sa.Column("model_version", sa.Integer, nullable=False),
    sa.Column("calibration_id", sa.String, nullable=False),
    sa.Column("snapshot_id", sa.String, nullable=False),
    sa.Column("code_version", sa.String, nullable=False),
    sa.Column("flow_run_id", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("message", sa.String, nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("finished_at", UtcDateTime),
    sa.Column("listed", sa.Integer, nullable=False),
    sa.Column("scored", sa.Integer, nullable=False),
    sa.Column("already_scored", sa.Integer, nullable=False),
    sa.Column("unusable", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("flagged", sa.Integer, nullable=False),
    sa.Column("report_key", sa.String),
    sa.CheckConstraint("state IN ('running', 'completed', 'failed')", name="ck_scoring_run_state"),
    sa.CheckConstraint(
        "state <> 'completed' OR listed = scored + already_scored + unusable + failed", name="ck_scoring_run_adds_up"
    ),
    sa.Index("ix_scoring_run_line_window", "line", "window_start", "window_end"),
)

score_table = sa.Table(
    "score",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("image_id", _Id, sa.ForeignKey("image.id", name="fk_score_image"), nullable=False),
    sa.Column("model_version", sa.Integer, nullable=False),
    sa.Column("calibration_id", sa.String, nullable=False),
    sa.Column("run_id", sa.String, sa.ForeignKey("scoring_run.id", name="fk_score_run"), nullable=False),
    sa.Column("raw_score", sa.Double),
    sa.Column("normalised_score", sa.Double),
    sa.Column("p_value", sa.Double),
    sa.Column("verdict", sa.String, nullable=False),
    sa.Column("reason", sa.String),
    sa.Column("heat_map_key", sa.String),
    sa.Column("scored_at", UtcDateTime, nullable=False),
    # also the index for "the scores of this image", and for a day's scores by way of the day's images
    sa.UniqueConstraint("image_id", "model_version", "calibration_id", name="uq_score_image_model_calibration"),
    sa.CheckConstraint("verdict IN ('ok', 'flagged', 'unusable')", name="ck_score_verdict"),
    sa.CheckConstraint("(verdict = 'unusable') = (raw_score IS NULL)", name="ck_score_unusable_has_no_score"),
    sa.Index("ix_score_run_id", "run_id"),
)

failure_table = sa.Table(
    "failure",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("run_id", sa.String, sa.ForeignKey("scoring_run.id", name="fk_failure_run"), nullable=False),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("etag", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("detail", sa.String, nullable=False),
    sa.UniqueConstraint("run_id", "key", "etag", name="uq_failure_run_key_etag"),
)

promotion_table = sa.Table(
    "promotion",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("line", sa.String, nullable=False),
    sa.Column("model_name", sa.String, nullable=False),
    sa.Column("alias", sa.String, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("previous_version", sa.Integer),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("why", sa.String, nullable=False),
    sa.Column("promoted_at", UtcDateTime, nullable=False),
    sa.Index("ix_promotion_line", "line"),
)


# --- rows -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageRecord:
    """One image as it was ingested. Figures are None where the image could not be decoded; `reason` when unusable."""

    key: str
    etag: str
    part: str
    view: str
    production_date: date
    captured_at: datetime
    size_bytes: int
    sha256: str
    usable: bool
    reason: str | None = None
    width_px: int | None = None
    height_px: int | None = None
    brightness: float | None = None
    contrast: float | None = None
    sharpness: float | None = None


@dataclass(frozen=True)
class ScoreRecord:
    """What a detector says about one image; no scores when the verdict is ``unusable``."""

    image_id: int
    verdict: Literal["ok", "flagged", "unusable"]
    raw_score: float | None = None
    normalised_score: float | None = None
    p_value: float | None = None
    reason: str | None = None
    heat_map_key: str | None = None


@dataclass(frozen=True)
class FailureRecord:
    """An image that could not be judged in this run: vanished, changed, or not to be fetched."""

    key: str
    etag: str
    reason: str
    detail: str


@dataclass(frozen=True)
class ScoringRun:
    """One row of table `scoring_run`."""

    id: str
    line: str
    window_start: date
    window_end: date
    model_name: str
    model_version: int
    calibration_id: str
    snapshot_id: str
    code_version: str
    flow_run_id: str
    state: RunState
    message: str
    started_at: datetime
    finished_at: datetime | None
    listed: int
    scored: int
    already_scored: int
    unusable: int
    failed: int
    flagged: int
    report_key: str | None


@dataclass(frozen=True)
class Promotion:
    """One row of table `promotion`: who moved an alias to which version, and why."""

    line: str
    model_name: str
    alias: str
    version: int
    previous_version: int | None
    who: str
    why: str
    promoted_at: datetime


# --- the store ------------------------------------------------------------------------------------------------------


class ReportStore:
    """The report store at `url`, ``sqlite:///path`` or ``postgresql+psycopg://...``. Safe to use from many threads.

    Nothing connects before the first call. Call `prepare()` once before anything else.

    Raises:
        ValueError: for another kind of database.
    """

    def __init__(self, url: str) -> None:
        self.url = sa.engine.make_url(url)
        if self.url.drivername in ("sqlite", "sqlite+pysqlite"):
            self._engine = _sqlite_engine(self.url)
        elif self.url.drivername == "postgresql+psycopg":
            options = {"connect_timeout": CONNECT_TIMEOUT_S}
            self._engine = sa.create_engine(self.url, pool_pre_ping=True, connect_args=options)
        else:
            shown = self.url.render_as_string(hide_password=True)
            raise ValueError(f"report store {shown}: must begin with sqlite:/// or postgresql+psycopg://")

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
            sqlalchemy.exc.OperationalError: the database cannot be reached.
        """
        if self._is_sqlite and self._schema_state() in ("empty", "older"):
            self.upgrade()
        state = self._schema_state()
        if state == "current":
            return
        shown = self.url.render_as_string(hide_password=True)
        way_out = "install the newer version" if state == "newer" else "run `inspection db upgrade`"
        raise SchemaError(f"report store {shown}: its tables are {_STATE_WORDS[state]}; {way_out}")

    def upgrade(self) -> None:
        """Create the tables, or bring them to this software's version. Two processes at once wait for each other.

        Raises:
            SchemaError: the tables are newer than this software.
        """
        self._create_folder()
        with self._writing() as connection:
            if not self._is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x67616E6F)))
            if self._state_of(connection) == "newer":
                shown = self.url.render_as_string(hide_password=True)
                raise SchemaError(f"report store {shown}: its tables are {_STATE_WORDS['newer']}; nothing was changed")
            config = _migrations()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def record_images(self, line: str, rows: Sequence[ImageRecord]) -> dict[tuple[str, str], int]:
        """Insert images unless they are known; gives the id of each (key, etag), old or new."""
        if not rows:
            return {}
        now = datetime.now(UTC)
        values = [{**asdict(row), "line": line, "recorded_at": now} for row in rows]
        statement = self._insert_new(image_table).returning(image_table.c.key, image_table.c.etag, image_table.c.id)
        with self._writing() as connection:
            ids = {(row.key, row.etag): row.id for row in connection.execute(statement, values)}
            known = [row.key for row in rows if (row.key, row.etag) not in ids]
            ids |= self._ids_of_keys(connection, line, known)
        return {(row.key, row.etag): ids[row.key, row.etag] for row in rows}

    @staticmethod
    def _ids_of_keys(connection: sa.Connection, line: str, keys: list[str]) -> dict[tuple[str, str], int]:
        table = image_table.c
        query = sa.select(table.key, table.etag, table.id).where(table.line == line)
        ids = {}
        for first in range(0, len(keys), _KEYS_PER_QUERY):
            some = query.where(table.key.in_(keys[first : first + _KEYS_PER_QUERY]))
            ids |= {(row.key, row.etag): row.id for row in connection.execute(some)}
        return ids

    def known_images(self, line: str, start: date, end: date) -> dict[tuple[str, str], int]:
        """(key, etag) -> id of every image of the window that was ever recorded."""
        table = image_table.c
        query = sa.select(table.key, table.etag, table.id).where(*_window(line, start, end))
        with self._engine.begin() as connection:
            return {(row.key, row.etag): row.id for row in connection.execute(query)}

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
    ) -> ScoringRun:
        """Record the start of a run. Its id begins with the time, so that report folders sort."""
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
        with self._writing() as connection:
            connection.execute(sa.insert(run_table).values(**asdict(run)))
        return run

    def finish_run(
        self,
        run_id: str,
        counts: RunCounts,
        state: Literal["completed", "failed"],
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
        with self._writing() as connection:
            connection.execute(update)
            return self._run(connection, run_id)

    def run(self, run_id: str) -> ScoringRun:
        """One run. LookupError if there is none with this id."""
        with self._engine.begin() as connection:
            return self._run(connection, run_id)

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
        with self._engine.begin() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else ScoringRun(**row._asdict())

    def judged(
        self, line: str, start: date, end: date, model_version: int, calibration_id: str
    ) -> dict[tuple[str, str], str]:
        """(key, etag) -> verdict of every image of the window that this detector has judged, in any run."""
        query = (
            sa.select(image_table.c.key, image_table.c.etag, score_table.c.verdict)
            .join(score_table, score_table.c.image_id == image_table.c.id)
            .where(*_window(line, start, end), *_judged_by(model_version, calibration_id))
        )
        with self._engine.begin() as connection:
            return {(row.key, row.etag): row.verdict for row in connection.execute(query)}

    def save_scores(self, run_id: str, rows: Sequence[ScoreRecord]) -> int:
        """Insert scores unless that detector has judged the image already; all or none. Gives the number inserted.

        Model version and calibration are the run's own.

        Raises:
            LookupError: there is no such run.
            sqlalchemy.exc.IntegrityError: a score without an image, or an unusable image with a score.
        """
        if not rows:
            return 0
        statement = self._insert_new(score_table).returning(score_table.c.id)
        with self._writing() as connection:
            run = self._run(connection, run_id)
            detector = {"model_version": run.model_version, "calibration_id": run.calibration_id}
            common = {**detector, "run_id": run_id, "scored_at": datetime.now(UTC)}
            return len(connection.execute(statement, [{**asdict(row), **common} for row in rows]).all())

    def save_failures(self, run_id: str, rows: Sequence[FailureRecord]) -> None:
        """Record images that this run could not judge; each (key, etag) once."""
        if not rows:
            return
        with self._writing() as connection:
            values = [{**asdict(row), "run_id": run_id} for row in rows]
            connection.execute(self._insert_new(failure_table), values)

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
        with self._writing() as connection:
            connection.execute(sa.insert(promotion_table).values(**asdict(promotion)))
        return promotion

    def last_promotion(self, line: str) -> Promotion | None:
        """The line's newest promotion."""
        columns = [column for column in promotion_table.c if column.name != "id"]
        query = sa.select(*columns).where(promotion_table.c.line == line).order_by(promotion_table.c.id.desc()).limit(1)
        with self._engine.begin() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else Promotion(**row._asdict())

    @property
    def _is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """A transaction that takes SQLite's write lock at its start: a later one could fail instead of waiting."""
        with self._engine.connect().execution_options(sqlite_begin="BEGIN IMMEDIATE") as connection, connection.begin():
            yield connection

    def _insert_new(self, table: sa.Table) -> Any:
        """INSERT that leaves rows alone that are there already."""
        dialect = sqlite if self._is_sqlite else postgresql
        return dialect.insert(table).on_conflict_do_nothing()

    def _frame(self, query: sa.Select[Any], dtypes: dict[str, str]) -> pd.DataFrame:
        """The rows as a table of plain objects, so that a missing text stays None; `dtypes` where given."""
        with self._engine.begin() as connection:
            result = connection.execute(query)
            frame = pd.DataFrame([tuple(row) for row in result], columns=list(result.keys()), dtype=object)
        if "captured_at" in frame:
            frame["captured_at"] = pd.to_datetime(frame["captured_at"], utc=True).dt.as_unit("us")
        return frame.astype(dtypes)

    def _create_folder(self) -> None:
        if self._is_sqlite and self.url.database not in (None, "", ":memory:"):
            Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)

    def _schema_state(self) -> Literal["empty", "older", "newer", "current"]:
        self._create_folder()
        with self._engine.begin() as connection:
            return self._state_of(connection)

    @staticmethod
    def _state_of(connection: sa.Connection) -> Literal["empty", "older", "newer", "current"]:
        script = ScriptDirectory.from_config(_migrations())
        revision = MigrationContext.configure(connection).get_current_revision()
        if revision is None:
            return "empty"
        if revision == script.get_current_head():
            return "current"
        return "older" if revision in {known.revision for known in script.walk_revisions()} else "newer"


def _window(line: str, start: date, end: date) -> tuple[sa.ColumnElement[bool], ...]:
    return image_table.c.line == line, image_table.c.production_date.between(start, end)


def _judged_by(model_version: int, calibration_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return score_table.c.model_version == model_version, score_table.c.calibration_id == calibration_id


def _migrations() -> Config:
    """Alembic's configuration for the migrations in `infra/migrations` beside this package."""
    folder = Path(__file__).resolve().parent.parent / "infra" / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    return config


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
