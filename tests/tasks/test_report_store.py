"""The report store, on SQLite always and on PostgreSQL where it is installed."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tasks.accounting import AccountingError, RunCounts
from tasks.report_store import (
    FailureRecord,
    ImageRecord,
    ReportStore,
    SchemaError,
    ScoreRecord,
    ScoringRun,
    metadata,
    score_table,
)

DAY = date(2026, 3, 9)
NOON = datetime(2026, 3, 9, 12, 0, 0, 123456, tzinfo=UTC)
DETECTOR = (3, "cal-1")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a fresh database of either kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/new folder/100%/inspection.db"


@pytest.fixture
def store(url: str) -> Iterator[ReportStore]:
    """A fresh store of either kind, ready to use."""
    with ReportStore(url) as store:
        store.upgrade()
        store.prepare()
        yield store


def image(key: str, **changes: Any) -> ImageRecord:
    """A usable image of DAY."""
    values = {
        "key": key,
        "etag": f"etag of {key}",
        "part": key.partition("/")[0],
        "view": "top",
        "production_date": DAY,
        "captured_at": NOON,
        "size_bytes": 5_000_000_000,
        "sha256": "ab" * 32,
        "usable": True,
        "width_px": 300,
        "height_px": 200,
        "brightness": 0.5,
        "contrast": 0.2,
        "sharpness": 12.5,
    }
    return ImageRecord(**{**values, **changes})


def start(store: ReportStore, line: str = "cells", model_version: int = 3) -> ScoringRun:
    """A new run over DAY."""
    return store.start_run(
        line,
        DAY,
        DAY,
        model_name=f"ganomaly-{line}",
        model_version=model_version,
        calibration_id="cal-1",
        snapshot_id="snap-1",
        code_version="0.1.0",
    )


def judge(store: ReportStore, keys_and_scores: dict[str, float | None], **of_run: Any) -> ScoringRun:
    """Record and score images: over 2 is flagged, None is unusable."""
    run = start(store, **of_run)
    ids = store.record_images(run.line, [image(key) for key in keys_and_scores])
    rows = [
        ScoreRecord(image_id, "unusable", reason="blurred")
        if (raw := keys_and_scores[key]) is None
        else ScoreRecord(image_id, "flagged" if raw > 2 else "ok", raw, raw / (1 + raw), 0.25)
        for (key, _), image_id in ids.items()
    ]
    assert store.save_scores(run.id, rows) == len(rows)
    return run


def test_migrations_build_the_tables_of_the_code(store: ReportStore) -> None:
    """A fresh production database would lack a column or an index that the code expects."""
    engine = sa.create_engine(store.url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        inspector = sa.inspect(connection)
        for table in metadata.tables.values():
            named = {check["name"] for check in inspector.get_check_constraints(table.name)}
            assert named == {c.name for c in table.constraints if isinstance(c, sa.CheckConstraint)}
    engine.dispose()


def test_a_new_sqlite_store_is_made_ready_and_a_postgresql_one_only_looked_at(url: str) -> None:
    """The demo would need a manual step, or a nightly worker would change a production database's tables."""
    with ReportStore(url) as store:
        if url.startswith("postgresql"):
            with pytest.raises(SchemaError, match=r"tables are missing.*run `inspection db upgrade`"):
                store.prepare()
            store.upgrade()
        store.prepare()
        store.upgrade()
        store.prepare()
        assert store.last_promotion("cells") is None


def test_tables_of_a_newer_version_are_left_alone(store: ReportStore) -> None:
    """An old worker would write into tables that it does not understand."""
    engine = sa.create_engine(store.url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(SchemaError, match=r"newer than this software; install the newer version"):
        store.prepare()
    with pytest.raises(SchemaError, match=r"newer than this software; nothing was changed"):
        store.upgrade()


def test_a_failed_migration_leaves_no_half_of_it(tmp_path: Path) -> None:
    """A crash during the first start would leave a database that never starts again."""
    path = tmp_path / "inspection.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE score (in_the_way)")
    connection.close()
    with ReportStore(f"sqlite:///{path}") as store, pytest.raises(sa.exc.OperationalError, match="already exists"):
        store.prepare()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("score",)]
    connection.close()


def test_processes_that_start_together_make_one_database(tmp_path: Path) -> None:
    """The first night's flows, started at the same minute, would fail on each other's half-made tables."""
    code = "import sys; from tasks.report_store import ReportStore; ReportStore(sys.argv[1]).prepare()"
    command = [sys.executable, "-W", "error", "-c", code, f"sqlite:///{tmp_path}/inspection.db"]
    root = Path(__file__).parents[2]
    started = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE) for _ in range(4)]
    assert [(process.communicate()[1], process.returncode) for process in started] == [(b"", 0)] * 4


@pytest.mark.parametrize("url", ["mysql://root:geheim@host/db", "postgresql://u:geheim@host/db"])
def test_another_database_is_refused_without_its_password(url: str) -> None:
    """The log would show a password, or the driver's own error would name a package nobody asked for."""
    with pytest.raises(ValueError, match=r"must begin with sqlite:/// or postgresql\+psycopg://") as caught:
        ReportStore(url)
    assert "geheim" not in str(caught.value)


def test_an_image_is_recorded_once(store: ReportStore) -> None:
    """A repeated run would count an image twice or lose which row its score belongs to."""
    rows = [image(f"p{number}/top.png") for number in range(1200)]
    first = store.record_images("cells", rows[:700])
    again = store.record_images("cells", [*rows, rows[0]])
    assert len(again) == len(set(again.values())) == 1200
    assert {key: again[key] for key in first} == first
    assert store.known_images("cells", DAY, DAY) == again
    assert store.known_images("caps", DAY, DAY) == store.record_images("cells", []) == {}
    replaced = store.record_images("cells", [image("p1/top.png", etag="new")])
    assert not set(replaced.values()) & set(again.values())


def test_windows_include_both_ends(store: ReportStore) -> None:
    """The last day of a week would never be trained on or scored."""
    days = [DAY + timedelta(days=n) for n in range(-1, 4)]
    store.record_images("cells", [image(f"{day}.png", production_date=day) for day in days])
    found = store.recorded_images("cells", DAY, DAY + timedelta(days=2))
    assert list(found["production_date"]) == days[1:4]
    assert len(store.known_images("cells", DAY, DAY)) == 1


def test_images_come_back_as_they_were_recorded(store: ReportStore) -> None:
    """Training could not tell which image it learns from, or which one could not be judged and why."""
    broken = image("c/top.png", usable=False, reason="unreadable", width_px=None, height_px=None, contrast=None)
    ids = store.record_images("cells", [broken, image("a/top.png")])
    first, second = store.recorded_images("cells", DAY, DAY).to_dict("records")
    assert first == {
        "id": ids["a/top.png", "etag of a/top.png"],
        "key": "a/top.png",
        "etag": "etag of a/top.png",
        "part": "a",
        "view": "top",
        "production_date": DAY,
        "captured_at": NOON,
        "size_bytes": 5_000_000_000,
        "sha256": "ab" * 32,
        "usable": True,
        "reason": None,
    }
    assert (second["key"], second["usable"], second["reason"]) == ("c/top.png", False, "unreadable")
    assert store.recorded_images("nobody", DAY, DAY).empty


def test_times_come_back_aware_and_in_utc(store: ReportStore) -> None:
    """A night shift's images would move by the hours between the plant and Greenwich."""
    berlin = timezone(timedelta(hours=1))
    store.record_images("cells", [image("a.png", captured_at=NOON.astimezone(berlin))])
    (captured_at,) = store.recorded_images("cells", DAY, DAY)["captured_at"]
    assert captured_at == NOON
    assert captured_at.utcoffset() == timedelta(0)
    run = store.run(start(store).id)
    assert run.started_at.utcoffset() == timedelta(0)
    with pytest.raises(sa.exc.StatementError, match="has no time zone"):
        store.record_images("cells", [image("b.png", captured_at=NOON.replace(tzinfo=None))])


def test_odd_text_is_data_and_nothing_else(store: ReportStore) -> None:
    """A key from a camera could change the query that it is part of."""
    keys = ["'; DROP TABLE image; --", 'a"b', "%s %(x)s :name ?", "日本 é", "back\\slash", "line\nbreak"]
    judge(store, dict.fromkeys(keys, 1.0))
    assert {key for key, _ in store.judged("cells", DAY, DAY, *DETECTOR)} == set(keys)
    assert store.judged("cells' OR '1'='1", DAY, DAY, *DETECTOR) == {}


def test_scores_are_worst_first_with_plain_values(store: ReportStore) -> None:
    """The engineer would look at good parts first, or find "nan" where there is no heat map."""
    run = judge(store, {"a/1": 1.5, "b/1": 9.0, "c/1": None, "d/1": 2.5})
    frame = store.scores_of_window("cells", DAY, DAY, *DETECTOR)
    assert list(frame["key"]) == ["b/1", "d/1", "a/1", "c/1"]
    assert list(frame["verdict"]) == ["flagged", "flagged", "ok", "unusable"]
    worst, unusable = frame.iloc[0], frame.iloc[-1]
    assert (worst.raw_score, worst.normalised_score, worst.p_value, worst.reason) == (9.0, 0.9, 0.25, None)
    assert (unusable.reason, unusable.heat_map_key) == ("blurred", None)
    assert frame["raw_score"].isna().tolist() == [False, False, False, True]
    assert (worst.model_version, worst.calibration_id, worst.run_id) == (3, "cal-1", run.id)
    assert (worst.part, worst.production_date, worst.captured_at) == ("b", DAY, NOON)


def test_an_empty_window_has_the_columns_of_a_full_one(store: ReportStore) -> None:
    """The report of a day without production would fail."""
    empty = store.scores_of_window("cells", DAY, DAY, *DETECTOR)
    judge(store, {"a/1": 1.5})
    full = store.scores_of_window("cells", DAY, DAY, *DETECTOR)
    assert empty.empty
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()


def test_a_detector_judges_an_image_once(store: ReportStore) -> None:
    """A run that is killed and repeated would overwrite or double its verdicts."""
    first = judge(store, {"a/1": 1.0})
    (image_id,) = store.known_images("cells", DAY, DAY).values()
    second = start(store)
    assert store.save_scores(second.id, [ScoreRecord(image_id, "flagged", 5.0, 0.8, 0.01)]) == 0
    assert store.judged("cells", DAY, DAY, *DETECTOR) == {("a/1", "etag of a/1"): "ok"}
    assert list(store.scores_of_window("cells", DAY, DAY, *DETECTOR)["run_id"]) == [first.id]
    other = start(store, model_version=4)
    assert store.save_scores(other.id, [ScoreRecord(image_id, "flagged", 5.0, 0.8, 0.01)]) == 1
    assert store.judged("cells", DAY, DAY, 4, "cal-1") == {("a/1", "etag of a/1"): "flagged"}


@pytest.mark.parametrize(
    "wrong",
    [
        ScoreRecord(1, "good", 1.0, 0.5, 0.5),
        ScoreRecord(1, "ok"),
        ScoreRecord(1, "unusable", 1.0, 0.5, 0.5),
        ScoreRecord(99, "ok", 1.0, 0.5, 0.5),
    ],
)
def test_the_database_refuses_what_cannot_be(store: ReportStore, wrong: ScoreRecord) -> None:
    """A mistake in a flow would put a verdict without score, or a score without image, into the audit trail."""
    run = start(store)
    (image_id,) = store.record_images("cells", [image("a/1")]).values()
    assert image_id == 1
    with pytest.raises(sa.exc.IntegrityError):
        store.save_scores(run.id, [ScoreRecord(1, "ok", 1.0, 0.5, 0.5), wrong])
    assert store.judged("cells", DAY, DAY, *DETECTOR) == {}


def test_a_run_keeps_its_accounting(store: ReportStore) -> None:
    """Nobody could tell what a night did, or a run that lost images would count as completed."""
    run = start(store)
    assert (run.state, run.listed, run.finished_at) == ("running", 0, None)
    lost = RunCounts(listed=10, scored=7, unusable=1, failed=1)
    with pytest.raises(AccountingError):
        store.finish_run(run.id, lost, "completed")
    assert store.run(run.id) == run
    counts = RunCounts(listed=10, scored=6, already_scored=1, unusable=2, failed=1, flagged=3)
    done = store.finish_run(run.id, counts, "completed", report_key="reports/cells/x/report.html")
    assert store.run(run.id) == done
    assert (done.listed, done.flagged, done.state, done.started_at) == (10, 3, "completed", run.started_at)
    assert store.finish_run(start(store).id, lost, "failed", "lost one").message == "lost one"
    with pytest.raises(LookupError, match="no run 'nothing'"):
        store.finish_run("nothing", counts, "completed")
    with pytest.raises(LookupError, match="no run 'nothing'"):
        store.save_scores("nothing", [ScoreRecord(1, "ok", 1.0, 0.5, 0.5)])


def test_the_latest_report_is_that_of_the_same_window_and_detector(store: ReportStore) -> None:
    """A repeated night would show another night's report, or none."""
    assert store.latest_report("cells", DAY, DAY, *DETECTOR) is None
    for key in ("first", "second", None):
        store.finish_run(start(store).id, RunCounts(), "completed", report_key=key)
    store.finish_run(start(store).id, RunCounts(), "failed", report_key="broken")
    start(store)
    latest = store.latest_report("cells", DAY, DAY, *DETECTOR)
    assert latest is not None
    assert latest.report_key == "second"
    assert store.latest_report("caps", DAY, DAY, *DETECTOR) is None
    assert store.latest_report("cells", DAY, DAY + timedelta(days=1), *DETECTOR) is None
    assert store.latest_report("cells", DAY, DAY, 3, "cal-2") is None


def test_a_failure_is_named_once_per_run(store: ReportStore) -> None:
    """A repeated step would count a vanished image twice."""
    run = start(store)
    rows = [FailureRecord("b.png", "e", "vanished", "gone"), FailureRecord("a.png", "e", "changed", "other")]
    store.save_failures(run.id, rows)
    store.save_failures(run.id, rows[:1])
    store.save_failures(run.id, [])
    found = store.failures_of_run(run.id)
    assert found.to_dict("records") == [
        {"key": "a.png", "etag": "e", "reason": "changed", "detail": "other"},
        {"key": "b.png", "etag": "e", "reason": "vanished", "detail": "gone"},
    ]
    assert store.failures_of_run(start(store).id).empty


def test_the_last_promotion_is_found(store: ReportStore) -> None:
    """Nobody could say who put a model into production, or roll it back."""
    moved = {"model_name": "ganomaly-cells", "alias": "champion", "who": "ada", "why": "better"}
    store.record_promotion("cells", version=1, previous_version=None, **moved)
    second = store.record_promotion("cells", version=2, previous_version=1, **moved)
    store.record_promotion("caps", version=9, previous_version=None, **moved)
    assert store.last_promotion("cells") == second
    assert store.last_promotion("screws") is None


def test_threads_write_at_the_same_time(store: ReportStore) -> None:
    """Shards that finish together would fail with "database is locked"."""

    def shard(number: int) -> None:
        judge(store, {f"{number}/{view}": 1.0 for view in range(20)})
        store.record_images("cells", [image("shared/1")])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(shard, range(12)))
    assert len(store.judged("cells", DAY, DAY, *DETECTOR)) == 240
    assert len(store.known_images("cells", DAY, DAY)) == 241


def test_a_day_s_verdicts_are_found_by_index(tmp_path: Path) -> None:
    """The report of one day would read all days of all lines."""
    with ReportStore(f"sqlite:///{tmp_path}/inspection.db") as store:
        store.prepare()
        plans: list[str] = []

        def explain(connection: Any, _cursor: Any, sql: str, values: Any, *_: Any) -> None:
            if sql.startswith("SELECT image"):
                rows = connection.connection.dbapi_connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)
                plans.extend(str(row[-1]) for row in rows)

        sa.event.listen(store._engine, "before_cursor_execute", explain)
        store.scores_of_window("cells", DAY, DAY, *DETECTOR)
        store.judged("cells", DAY, DAY, *DETECTOR)
        store.recorded_images("cells", DAY, DAY)
    assert any("ix_image_line_production_date" in step for step in plans)
    assert any("uq_score_image_model_calibration" in step or "autoindex_score" in step for step in plans)
    assert not [step for step in plans if step.startswith("SCAN")]
    assert score_table.c.verdict.type.length is None
