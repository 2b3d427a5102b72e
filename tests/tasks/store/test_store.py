"""The report store, on SQLite always and on PostgreSQL where it is installed."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from ganomaly.images.regions import Region
from tasks.night.accounting import AccountingError, RunCounts
from tasks.store.database import ReportStoreError, SchemaError
from tasks.store.rows import (
    DriftRecord,
    FailureRecord,
    ImageRecord,
    JudgedImage,
    Release,
    ScoreRecord,
    ScoringRun,
    ShadowRecord,
)
from tasks.store.runs import new_run_id
from tasks.store.store import ReportStore
from tasks.store.tables import metadata
from tests.later_release import become_a_later_release

DAY = date(2026, 3, 9)
NOON = datetime(2026, 3, 9, 12, 0, 0, 123456, tzinfo=UTC)
DETECTOR = (3, "cal-1")
TABLES = metadata.tables.items()


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
    run_id = new_run_id()
    store.leases.take(f"work of {run_id}", run_id)
    return store.runs.start(
        run_id,
        line,
        DAY,
        DAY,
        model_name=f"ganomaly-{line}",
        model_version=model_version,
        calibration_id="cal-1",
        snapshot_id="snap-1",
        code_version="0.1.0",
    )


def score_of(raw: float | None) -> ScoreRecord:
    """Over 2 is flagged, None is unusable."""
    if raw is None:
        return ScoreRecord("unusable", reason="blurred")
    return ScoreRecord("flagged" if raw > 2 else "ok", raw, raw / (1 + raw), 0.25)


def judge(store: ReportStore, keys_and_scores: dict[str, float | None], **of_run: Any) -> ScoringRun:
    """Record and score images in a new run, see `score_of`."""
    run = start(store, **of_run)
    rows = [JudgedImage(image(key), score_of(raw)) for key, raw in keys_and_scores.items()]
    assert len(store.scores.commit(run.id, rows, [])) == len(rows)
    return run


def record(store: ReportStore, rows: list[ImageRecord]) -> None:
    """Ingest images of line cells."""
    store.images.commit("cells", rows)


def test_migrations_build_the_tables_of_the_code(store: ReportStore) -> None:
    """A fresh production database would lack a column or an index that the code expects."""
    engine = sa.create_engine(store.url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        inspector = sa.inspect(connection)
        for table in metadata.tables.values():
            named = sorted(str(check["name"]) for check in inspector.get_check_constraints(table.name))
            assert named == sorted(str(c.name) for c in table.constraints if isinstance(c, sa.CheckConstraint))
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
        assert store.decisions.last_promotion("cells") is None


def test_who_only_looks_makes_and_upgrades_nothing(tmp_path: Path) -> None:
    """An audit would show an empty record where the address is wrong, or change the copy that an auditor was given."""
    url = f"sqlite:///{tmp_path}/inspection.db"
    with ReportStore(url) as store:
        with pytest.raises(SchemaError, match=r"inspection\.db: there is no such file; name the one"):
            store.check()
        assert list(tmp_path.iterdir()) == []
        store.upgrade()
        store.check()


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
    code = "import sys; from tasks.store.store import ReportStore; ReportStore(sys.argv[1]).prepare()"
    command = [sys.executable, "-W", "error", "-c", code, f"sqlite:///{tmp_path}/inspection.db"]
    root = Path(__file__).parents[3]
    started = [subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE) for _ in range(4)]
    assert [(process.communicate()[1], process.returncode) for process in started] == [(b"", 0)] * 4


@pytest.mark.parametrize("url", ["mysql://root:geheim@host/db", "postgresql://u:geheim@host/db"])
def test_another_database_is_refused_without_its_password(url: str) -> None:
    """The log would show a password, or the driver's own error would name a package nobody asked for."""
    with pytest.raises(ReportStoreError, match=r"must begin with sqlite:/// or postgresql\+psycopg://") as caught:
        ReportStore(url)
    assert "geheim" not in str(caught.value)


def test_an_image_is_recorded_once(store: ReportStore) -> None:
    """A repeated run would count an image twice or lose which row its score belongs to."""
    rows = [image(f"p{number}/top.png") for number in range(1200)]
    record(store, rows[:700])
    first = store.images.known("cells", DAY, DAY)
    record(store, [*rows, rows[0]])
    again = store.images.known("cells", DAY, DAY)
    assert len(again) == len(set(again.values())) == 1200
    assert {key: again[key] for key in first} == first
    assert store.images.known("caps", DAY, DAY) == {}
    record(store, [image("p1/top.png", etag="new")])
    assert again.items() < store.images.known("cells", DAY, DAY).items()


def test_windows_include_both_ends(store: ReportStore) -> None:
    """The last day of a week would never be trained on or scored."""
    days = [DAY + timedelta(days=n) for n in range(-1, 4)]
    record(store, [image(f"{day}.png", production_date=day) for day in days])
    found = store.images.recorded("cells", DAY, DAY + timedelta(days=2))
    assert list(found["production_date"]) == days[1:4]
    assert len(store.images.known("cells", DAY, DAY)) == 1


def test_images_come_back_as_they_were_recorded(store: ReportStore) -> None:
    """Training could not tell which image it learns from, or which one could not be judged and why."""
    broken = image("c/top.png", usable=False, reason="unreadable", width_px=None, height_px=None, contrast=None)
    record(store, [broken, image("a/top.png")])
    ids = store.images.known("cells", DAY, DAY)
    first, second = store.images.recorded("cells", DAY, DAY).to_dict("records")
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
    assert store.images.recorded("nobody", DAY, DAY).empty


def test_times_come_back_aware_and_in_utc(store: ReportStore) -> None:
    """A night shift's images would move by the hours between the plant and Greenwich."""
    berlin = timezone(timedelta(hours=1))
    record(store, [image("a.png", captured_at=NOON.astimezone(berlin))])
    (captured_at,) = store.images.recorded("cells", DAY, DAY)["captured_at"]
    assert captured_at == NOON
    assert captured_at.utcoffset() == timedelta(0)
    run = store.runs.get(start(store).id)
    assert run.started_at.utcoffset() == timedelta(0)
    with pytest.raises(sa.exc.StatementError, match="has no time zone"):
        record(store, [image("b.png", captured_at=NOON.replace(tzinfo=None))])


def test_odd_text_is_data_and_nothing_else(store: ReportStore) -> None:
    """A key from a camera could change the query that it is part of."""
    keys = ["'; DROP TABLE image; --", 'a"b', "%s %(x)s :name ?", "日本 é", "back\\slash", "line\nbreak"]
    judge(store, dict.fromkeys(keys, 1.0))
    assert {key for key, _ in store.scores.judged("cells", DAY, DAY, *DETECTOR)} == set(keys)
    assert store.scores.judged("cells' OR '1'='1", DAY, DAY, *DETECTOR) == {}


def test_scores_are_worst_first_with_plain_values(store: ReportStore) -> None:
    """The engineer would look at good parts first, or find "nan" where there is no heat map."""
    run = judge(store, {"a/1": 1.5, "b/1": 9.0, "c/1": None, "d/1": 2.5})
    frame = store.scores.of_window("cells", DAY, DAY, *DETECTOR)
    assert list(frame["key"]) == ["b/1", "d/1", "a/1", "c/1"]
    assert list(frame["verdict"]) == ["flagged", "flagged", "ok", "unusable"]
    worst, unusable = frame.iloc[0], frame.iloc[-1]
    assert (worst.raw_score, worst.normalised_score, worst.p_value, worst.reason) == (9.0, 0.9, 0.25, None)
    assert (unusable.reason, unusable.heat_map_key) == ("blurred", None)
    assert frame["raw_score"].isna().tolist() == [False, False, False, True]
    assert (worst.model_version, worst.calibration_id, worst.run_id) == (3, "cal-1", run.id)
    assert (worst.part, worst.production_date, worst.captured_at) == ("b", DAY, NOON)


def test_many_scores_come_piece_by_piece_and_share_equal_texts(
    store: ReportStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A night of 100,000 would lose or reorder rows, or hold its run's name 100,000 times."""
    judge(store, {f"{number:03}/1": float(number) for number in range(50)})
    whole = store.scores.of_window("cells", DAY, DAY, *DETECTOR)
    monkeypatch.setattr("tasks.store.database._ROWS_AT_ONCE", 20)
    pieces = store.scores.of_window("cells", DAY, DAY, *DETECTOR)
    pd.testing.assert_frame_equal(pieces, whole)
    assert list(whole["raw_score"]) == [float(number) for number in reversed(range(50))]
    assert len({id(run) for run in whole["run_id"]}) == 1


def test_an_empty_window_has_the_columns_of_a_full_one(store: ReportStore) -> None:
    """The report of a day without production would fail."""
    empty = store.scores.of_window("cells", DAY, DAY, *DETECTOR)
    judge(store, {"a/1": 1.5})
    full = store.scores.of_window("cells", DAY, DAY, *DETECTOR)
    assert empty.empty
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()


def test_a_detector_judges_an_image_once(store: ReportStore) -> None:
    """A run that is killed and repeated would overwrite or double its verdicts."""
    first = judge(store, {"a/1": 1.0})
    again = [JudgedImage(image("a/1"), ScoreRecord("flagged", 5.0, 0.8, 0.01))]
    assert store.scores.commit(start(store).id, again, []) == set()
    assert store.scores.judged("cells", DAY, DAY, *DETECTOR) == {("a/1", "etag of a/1"): "ok"}
    assert list(store.scores.of_window("cells", DAY, DAY, *DETECTOR)["run_id"]) == [first.id]
    other = start(store, model_version=4)
    assert store.scores.commit(other.id, again, []) == {("a/1", "etag of a/1")}
    assert store.scores.commit(other.id, again, []) == {("a/1", "etag of a/1")}  # its own, done again
    assert store.scores.judged("cells", DAY, DAY, 4, "cal-1") == {("a/1", "etag of a/1"): "flagged"}
    assert len(store.scores.of_window("cells", DAY, DAY, 4, "cal-1")) == 1


def test_what_a_run_judged_after_all_is_no_failure_of_it(store: ReportStore) -> None:
    """A report would call an image failed that another worker judged when its shard was done again."""
    run, other = start(store), start(store, model_version=4)
    failures = [FailureRecord(key, f"etag of {key}", "fetch_failed", "no answer") for key in ("a/1", "a/2")]
    for one in (run, other):
        store.scores.commit(one.id, [], failures)
    store.scores.commit(run.id, [JudgedImage(image("a/1"), score_of(1.0))], [])
    assert list(store.runs.failures(run.id)["key"]) == ["a/2"]
    assert list(store.runs.failures(other.id)["key"]) == ["a/1", "a/2"]


@pytest.mark.parametrize(
    "wrong", [ScoreRecord("good", 1.0, 0.5, 0.5), ScoreRecord("ok"), ScoreRecord("unusable", 1.0, 0.5, 0.5)]
)
def test_the_database_refuses_what_cannot_be(store: ReportStore, wrong: ScoreRecord) -> None:
    """A mistake in a flow would put a verdict without score into the audit trail, or half a chunk."""
    run = start(store)
    chunk = [JudgedImage(image("a/1"), score_of(1.0)), JudgedImage(image("a/2"), wrong)]
    with pytest.raises(sa.exc.IntegrityError):
        store.scores.commit(run.id, chunk, [FailureRecord("a/3", "e", "vanished", "gone")])
    assert store.scores.judged("cells", DAY, DAY, *DETECTOR) == store.images.known("cells", DAY, DAY) == {}
    assert store.runs.failures(run.id).empty


def test_a_run_keeps_its_accounting(store: ReportStore) -> None:
    """Nobody could tell what a night did, or a run that lost images would count as completed."""
    run = start(store)
    assert (run.state, run.listed, run.finished_at) == ("running", 0, None)
    lost = RunCounts(listed=10, scored=7, unusable=1, failed=1)
    with pytest.raises(AccountingError):
        store.runs.finish(run.id, lost, "completed")
    assert store.runs.get(run.id) == run
    counts = RunCounts(listed=10, scored=6, already_scored=1, unusable=2, failed=1, flagged=3)
    done = store.runs.finish(run.id, counts, "completed", report_key="reports/cells/x/report.html")
    assert store.runs.get(run.id) == done
    assert (done.listed, done.flagged, done.state, done.started_at) == (10, 3, "completed", run.started_at)
    assert store.runs.finish(start(store).id, lost, "failed", "lost one").message == "lost one"
    with pytest.raises(LookupError, match="no run 'nothing'"):
        store.runs.finish("nothing", counts, "completed")
    with pytest.raises(LookupError, match="no run 'nothing'"):
        store.scores.commit("nothing", [JudgedImage(image("a"), score_of(1.0))], [])


def test_the_latest_report_is_that_of_the_same_window_and_detector(store: ReportStore) -> None:
    """A repeated night would show another night's report, or none."""
    assert store.runs.latest_report("cells", DAY, DAY, *DETECTOR) is None
    for key in ("first", "second", None):
        store.runs.finish(start(store).id, RunCounts(), "completed", report_key=key)
    store.runs.finish(start(store).id, RunCounts(), "failed", report_key="broken")
    start(store)
    latest = store.runs.latest_report("cells", DAY, DAY, *DETECTOR)
    assert latest is not None
    assert latest.report_key == "second"
    assert store.runs.latest_report("caps", DAY, DAY, *DETECTOR) is None
    assert store.runs.latest_report("cells", DAY, DAY + timedelta(days=1), *DETECTOR) is None
    assert store.runs.latest_report("cells", DAY, DAY, 3, "cal-2") is None


def test_a_failure_is_named_once_per_run(store: ReportStore) -> None:
    """A repeated step would count a vanished image twice."""
    run = start(store)
    rows = [FailureRecord("b.png", "e", "vanished", "gone"), FailureRecord("a.png", "e", "changed", "other")]
    store.runs.save_failures(run.id, rows)
    store.runs.save_failures(run.id, rows[:1])
    store.runs.save_failures(run.id, [])
    found = store.runs.failures(run.id)
    assert found.to_dict("records") == [
        {"key": "a.png", "etag": "e", "reason": "changed", "detail": "other"},
        {"key": "b.png", "etag": "e", "reason": "vanished", "detail": "gone"},
    ]
    assert store.runs.failures(start(store).id).empty


def test_the_last_promotion_is_found(store: ReportStore) -> None:
    """Nobody could say who put a model into production, or roll it back."""
    moved = {"model_name": "ganomaly-cells", "alias": "champion", "who": "ada", "why": "better"}
    store.decisions.record_promotion("cells", version=1, previous_version=None, **moved)
    second = store.decisions.record_promotion("cells", version=2, previous_version=1, **moved)
    store.decisions.record_promotion("caps", version=9, previous_version=None, **moved)
    assert store.decisions.last_promotion("cells") == second
    assert store.decisions.last_promotion("screws") is None


def test_threads_write_at_the_same_time(store: ReportStore) -> None:
    """Shards that finish together would fail with "database is locked"."""

    def shard(number: int) -> None:
        judge(store, {f"{number}/{view}": 1.0 for view in range(20)})
        record(store, [image("shared/1")])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(shard, range(12)))
    assert len(store.scores.judged("cells", DAY, DAY, *DETECTOR)) == 240
    assert len(store.images.known("cells", DAY, DAY)) == 241


def test_what_people_ask_for_is_found_by_index(tmp_path: Path) -> None:
    """The report of one day, or the history of one part, would read all days of all lines."""
    with ReportStore(f"sqlite:///{tmp_path}/inspection.db") as store:
        store.prepare()
        plans: list[str] = []

        def explain(connection: Any, _cursor: Any, sql: str, values: Any, *_: Any) -> None:
            if sql.startswith("SELECT"):
                rows = connection.connection.dbapi_connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)
                plans.extend(str(row[-1]) for row in rows)

        sa.event.listen(store.database.engine, "before_cursor_execute", explain)
        store.scores.of_window("cells", DAY, DAY, *DETECTOR)
        store.scores.judged("cells", DAY, DAY, *DETECTOR)
        store.images.recorded("cells", DAY, DAY)
        store.scores.flagged_parts("cells", DAY)
        store.images.find("a")
        store.scores.of_images([1])
    used = ("ix_image_line_production_date", "ix_image_part_line", "autoindex_score_1")
    assert [index for index in used if not any(index in step for step in plans)] == []
    assert [step for step in plans if step.startswith(("SCAN image", "SCAN score"))] == []


def test_postgresql_soon_notices_that_a_client_is_gone(postgres_url: str) -> None:
    """The locks of a worker whose cable was pulled would hold up all others, for two hours by default."""
    with ReportStore(postgres_url) as store, store.database.engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"SHOW {name}").scalar_one()
            for name in ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count")
        }
    assert found == {"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}


def test_postgresql_has_an_index_for_what_people_ask_for(postgres_url: str) -> None:
    """On PostgreSQL, "flagged parts of a day" or "history of a part" would read all of ten million scores."""
    with ReportStore(postgres_url) as store:
        store.upgrade()
        judge(store, {f"p{number}/top.png": 9.0 if number % 9 == 0 else 1.0 for number in range(500)})
        plans: list[str] = []

        def explain(connection: Any, _cursor: Any, sql: str, values: Any, *_: Any) -> None:
            driver = connection.connection.dbapi_connection
            driver.execute("SET LOCAL enable_seqscan = off")  # a table of 500 rows is faster read as a whole
            plans.append("\n".join(row[0] for row in driver.execute(f"EXPLAIN {sql}", values)))

        sa.event.listen(store.database.engine, "before_cursor_execute", explain)
        assert len(store.scores.flagged_parts("cells", DAY)) == 56
        images = store.images.find("p9")
        assert len(store.scores.of_images([image.id for image in images])) == 1
    flagged, found, history = plans
    assert "ix_image_line_production_date" in flagged
    assert "ix_score_flagged" in flagged
    assert "ix_image_part_line" in found
    assert "uq_image_key_line_etag" in found
    assert "uq_score_image_model_calibration" in history
    assert [plan for plan in plans if "Seq Scan" in plan] == []


def names(count: int) -> list[tuple[str, str]]:
    """(key, etag) of some images."""
    return [(f"p{number:03}/top.png", f"etag of p{number:03}/top.png") for number in range(count)]


# --- chunks ---------------------------------------------------------------------------------------------------------


def test_ingest_commits_a_chunk_once(store: ReportStore) -> None:
    """An image would be recorded twice, or counted as new by both of two runs."""
    rows = [image(key) for key, _ in names(3)]
    assert store.images.commit("cells", rows[:2]) == set(names(2))
    assert store.images.commit("cells", [*rows, rows[0]]) == {names(3)[2]}
    assert store.images.commit("cells", []) == set()
    assert set(store.images.known("cells", DAY, DAY)) == set(names(3))
    assert store.images.known("caps", DAY, DAY) == {}


def test_a_run_commits_a_chunk_once(store: ReportStore) -> None:
    """After a kill the next run would judge again what is judged."""
    run, other = start(store), start(store)
    judged = [JudgedImage(image(key), score_of(raw)) for (key, _), raw in zip(names(2), (1.0, None), strict=True)]
    failed = [FailureRecord(*names(3)[2], "vanished", "gone")]
    assert store.scores.commit(run.id, judged, failed) == set(names(2))
    assert store.scores.judged("cells", DAY, DAY, *DETECTOR) == {names(2)[0]: "ok", names(2)[1]: "unusable"}
    assert store.scores.judged("caps", DAY, DAY, *DETECTOR) == store.scores.judged("cells", DAY, DAY, 4, "cal-1") == {}
    assert store.scores.commit(other.id, judged, failed) == set()
    assert store.scores.commit(run.id, [], []) == set()
    assert list(store.runs.failures(run.id)["reason"]) == ["vanished"]
    assert len(store.scores.of_window("cells", DAY, DAY, *DETECTOR)) == 2


def test_a_chunk_is_a_handful_of_statements(store: ReportStore) -> None:
    """A night of 100,000 images would spend its time on the way to the database and back."""
    sent: list[str] = []
    sa.event.listen(store.database.engine, "before_cursor_execute", lambda *event: sent.append(event[2]))
    run = start(store)
    before = len(sent)
    judged = [JudgedImage(image(key), score_of(1.0)) for key, _ in names(250)]
    failed = [FailureRecord(*name, "vanished", "gone") for name in names(256)[250:]]
    assert len(store.scores.commit(run.id, judged, failed)) == 250
    assert before < 12
    assert len(sent) - before < 12


def test_runs_that_commit_the_same_images_do_not_block_each_other(
    store: ReportStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Ingest and scoring of the same day would throw each other out with "deadlock detected"."""
    keys = [key for key, _ in names(150)]

    def commit(number: int) -> int:
        mixed = Random(number).sample(keys, 100)
        if number % 3 == 0:
            return len(store.images.commit("cells", [image(key) for key in mixed]))
        run = start(store)
        store.scores.commit(run.id, [JudgedImage(image(key), score_of(1.0)) for key in mixed], [])
        return 0

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(commit, range(24)))
    assert caplog.messages == []
    assert len(store.images.known("cells", DAY, DAY)) == len(store.scores.judged("cells", DAY, DAY, *DETECTOR)) == 150


# --- runs -----------------------------------------------------------------------------------------------------------


def test_a_run_without_a_sign_of_life_is_ended(store: ReportStore) -> None:
    """A killed run would be shown as running for ever, or a living one would be ended under its feet."""
    store.runs.finish(start(store).id, RunCounts(), "failed", "bad")
    alive, dead, silent, done = start(store), start(store), start(store), start(store)
    store.leases.take(f"work of {dead.id}", dead.id, seconds=-1)
    store.leases.drop(f"work of {silent.id}", silent.id)
    store.runs.finish(done.id, RunCounts(), "interrupted", "SIGTERM")
    other = start(store, line="caps")
    store.leases.drop(f"work of {other.id}", other.id)
    ended = store.runs.end_dead("cells")
    assert {(run.id, run.state) for run in ended} == {(dead.id, "interrupted"), (silent.id, "interrupted")}
    assert "without a sign of life" in ended[0].message
    assert ended[0].finished_at is not None
    assert store.runs.get(ended[0].id) == ended[0]
    assert store.runs.get(alive.id).state == store.runs.get(other.id).state == "running"
    assert store.runs.get(done.id).message == "SIGTERM"
    assert store.runs.end_dead("cells") == []


def test_the_newest_run_of_a_window_is_found_in_any_state(store: ReportStore) -> None:
    """A night that was cut off could not go on with the model that it began with."""
    assert store.runs.newest("cells", DAY, DAY) is None
    store.runs.finish(start(store, model_version=4).id, RunCounts(), "completed")
    second = start(store)
    assert store.runs.newest("cells", DAY, DAY) == second
    assert store.runs.newest("cells", DAY, DAY + timedelta(days=1)) is None
    assert store.runs.newest("caps", DAY, DAY) is None


# --- audit ----------------------------------------------------------------------------------------------------------


def test_a_part_s_whole_history_is_found(store: ReportStore) -> None:
    """Nobody could say afterwards what was known about a part, who judged it, and with what."""
    first = judge(store, {"a/top": 9.0, "a/side": 1.0, "b/top": 1.0})
    again = start(store, model_version=4)
    replaced = JudgedImage(image("a/top", etag="new"), score_of(None))
    store.scores.commit(again.id, [replaced], [FailureRecord("a/side", "e", "vanished", "gone")])
    images = store.images.find("a")
    assert {(i.key, i.etag) for i in images} == {
        ("a/top", "etag of a/top"),
        ("a/side", "etag of a/side"),
        ("a/top", "new"),
    }
    assert images[-1].etag == "new"
    assert images[0].line == "cells"
    assert asdict(image(images[0].key)).items() <= asdict(images[0]).items()
    assert [i.etag for i in store.images.find("a/top")] == ["etag of a/top", "new"]
    assert store.images.find("a", "cells") == images
    assert store.images.find("a", "caps") == store.images.find("nothing") == []
    verdicts = store.scores.of_images([i.id for i in images])
    assert [score.run_id for score in verdicts] == [first.id, first.id, again.id]
    top = next(score for score in verdicts if score.key == "a/top" and score.run_id == first.id)
    assert (top.verdict, top.raw_score, top.line, top.model_version, top.etag) == (
        *("flagged", 9.0, "cells", 3),
        "etag of a/top",
    )
    assert top.scored_at.utcoffset() == timedelta(0)
    (failure,) = store.runs.failures_of_keys("cells", ["a/side", "a/top"])
    assert (failure.run_id, failure.started_at, failure.reason) == (again.id, again.started_at, "vanished")
    assert store.runs.failures_of_keys("caps", ["a/side"]) == store.runs.failures_of_keys("cells", []) == []
    assert store.scores.of_images([]) == []


def test_reviews_are_added_and_never_lost(store: ReportStore) -> None:
    """An engineer's finding would overwrite another's, or be about an image that nobody knows."""
    judge(store, {"a/top": 9.0})
    (found,) = store.images.find("a/top")
    first = store.decisions.record_review("cells", found.id, "defect", "ada", "scratch")
    second = store.decisions.record_review("cells", found.id, "good", "bob")
    assert store.decisions.reviews([found.id]) == [first, second]
    assert store.decisions.reviews([found.id + 1]) == []
    for line, image_id in (("caps", found.id), ("cells", 99)):
        with pytest.raises(LookupError, match=f"no image {image_id} of line '{line}'"):
            store.decisions.record_review(line, image_id, "good", "ada")
    with pytest.raises(sa.exc.IntegrityError):
        store.decisions.record_review("cells", found.id, "maybe", "ada")  # type: ignore[arg-type]


def test_flagged_parts_are_worst_first_one_row_each(store: ReportStore) -> None:
    """The engineer would walk to the wrong part first, or to the same part twice."""
    assert store.scores.flagged_parts("cells", DAY).empty
    empty = store.scores.flagged_parts("cells", DAY).dtypes.to_dict()
    run = judge(store, {"a/top": 3.0, "a/side": 9.0, "b/top": 5.0, "c/top": 1.0, "d/top": None, "e/top": 4.0})
    judge(store, {"z/top": 99.0}, line="caps")
    tomorrow = [JudgedImage(image("y/top", production_date=DAY + timedelta(days=1)), score_of(50.0))]
    store.scores.commit(run.id, tomorrow, [])
    found = store.scores.flagged_parts("cells", DAY)
    assert list(found["part"]) == ["a", "b", "e"]
    assert found.dtypes.to_dict() == empty
    worst = found.iloc[0]
    assert (worst.key, worst.flagged_images, worst.raw_score, worst.run_id) == ("a/side", 2, 9.0, run.id)
    assert list(store.scores.flagged_parts("cells", DAY, limit=2)["part"]) == ["a", "b"]


def test_flagged_parts_are_those_of_the_newest_completed_run_s_detector(store: ReportStore) -> None:
    """A model on trial that judged the same day later would take over the plant's list."""
    judge(store, {"a/top": 9.0}, model_version=2)
    assert list(store.scores.flagged_parts("cells", DAY)["model_version"]) == [2]
    store.runs.finish(judge(store, {"b/top": 9.0}).id, RunCounts(), "completed")
    judge(store, {"c/top": 9.0}, model_version=4)
    assert list(store.scores.flagged_parts("cells", DAY)["part"]) == ["b"]


def test_a_run_s_sample_is_the_same_for_the_same_seed(store: ReportStore) -> None:
    """Two people who verify the same run would compare different images, or ones that another run judged."""
    run = judge(store, {f"{n:03}/top": 9.0 if n % 2 else 1.0 for n in range(60)})
    store.scores.commit(run.id, [JudgedImage(image("unusable"), score_of(None))], [])
    judge(store, {"other/top": 9.0})
    judge(store, {"001/top": 1.0}, model_version=4)
    sample = store.scores.sample(run.id, 20, seed=1)
    assert store.scores.sample(run.id, 20, seed=1) == sample
    assert store.scores.sample(run.id, 20, seed=2) != sample
    assert len({score.key for score in sample}) == 20
    everything = store.scores.sample(run.id, 500, seed=1)
    assert len(everything) == 60
    assert {score.run_id for score in everything} == {run.id}
    assert store.scores.sample("nothing", 5, seed=1) == []


def test_the_history_of_a_figure_has_one_run_for_each_night(store: ReportStore) -> None:
    """A chart would show a night twice, a week as a night, or the nights in another order."""

    def night(day: date, value: float, last: date | None = None) -> None:
        run = store.runs.start(
            new_run_id(),
            *("cells", day, last or day),
            model_name="m",
            model_version=1,
            calibration_id="c",
            snapshot_id="s",
            code_version="v",
            flow_run_id="",
        )
        store.drift.record(run.id, [DriftRecord("brightness", 0.5, 0.5, value, 0.35, False)])

    days = [DAY + timedelta(days=n) for n in range(3)]
    for day, value in zip(days, (0.4, 0.5, 0.6), strict=True):
        night(day, value)
    night(days[0], 0.45)
    night(days[0], 0.9, last=days[2])
    assert store.drift.history("cells", 30)["above_usual"].tolist() == [0.45, 0.5, 0.6]
    assert store.drift.history("cells", 2)["day"].tolist() == days[1:]
    assert store.drift.history("caps", 30).empty


def test_promotions_are_listed_oldest_first(store: ReportStore) -> None:
    """An audit would not show which model was in charge when."""
    moved = {"model_name": "ganomaly-cells", "alias": "champion", "who": "ada", "why": "better"}
    rows = [store.decisions.record_promotion("cells", version=n, previous_version=n - 1, **moved) for n in (1, 2, 1)]
    assert store.decisions.promotions("cells") == rows
    assert store.decisions.promotions("caps") == []


# --- repetition -----------------------------------------------------------------------------------------------------


@pytest.fixture
def lose_the_next_answer(store: ReportStore, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after which the next commit is done, but the client is told that the connection broke."""
    commit = store.database.engine.dialect.do_commit
    armed: list[bool] = []

    def commit_and_break(connection: Any) -> None:
        commit(connection)
        if armed:
            armed.clear()
            if store.database.is_sqlite:
                error = sqlite3.OperationalError("the answer is lost")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error
            raise pytest.importorskip("psycopg").errors.AdminShutdown("the answer is lost")

    monkeypatch.setattr(store.database.engine.dialect, "do_commit", commit_and_break)
    return lambda: armed.append(True)


def test_a_lost_answer_changes_nothing(store: ReportStore, lose_the_next_answer: Callable[[], None]) -> None:
    """A database that restarts right after a commit would leave rows twice, or have a run count too little."""

    def lost(method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        lose_the_next_answer()
        return method(*arguments, **named)

    assert lost(store.leases.take, "work", "me")
    assert lost(store.images.commit, "cells", [image(key) for key, _ in names(2)]) == set(names(2))
    lose_the_next_answer()
    run = start(store)
    assert store.runs.newest("cells", DAY, DAY) == run
    judged = [JudgedImage(image(key), score_of(9.0)) for key, _ in names(3)]
    spot = Region(10, 20, 4, 3, 12.0, 21.5, 12, 5.0, 1.7)
    judged[1] = replace(judged[1], regions=(spot,))
    failed = [FailureRecord("x", "e", "vanished", "gone")]
    assert lost(store.scores.commit, run.id, judged, failed) == set(names(3))
    (region,) = store.scores.regions("cells", DAY, DAY, *DETECTOR).to_dict("records")
    assert region["key"] == judged[1].image.key
    assert Region(**{name: region[name] for name in asdict(spot)}) == spot
    said = {next(iter(names(1))): ShadowRecord("flagged", 0.7)}
    lost(store.shadow.commit, run.id, "cells", (4, "beside"), said)
    (beside,) = store.shadow.beside("cells", (4, "beside"), DETECTOR).to_dict("records")
    assert (beside["key"], beside["challenger"], beside["champion_verdict"]) == (next(iter(said))[0], 0.7, "flagged")
    (found,) = store.images.find("p000")
    review = lost(store.decisions.record_review, "cells", found.id, "good", "ada")
    assert store.decisions.reviews([found.id]) == [review]
    moved = {"model_name": "m", "alias": "champion", "version": 1, "previous_version": None, "who": "a", "why": "b"}
    promotion = lost(store.decisions.record_promotion, "cells", **moved)
    assert store.decisions.promotions("cells") == [promotion]
    figures = [DriftRecord("brightness", 0.4, 0.8, 0.01, 0.35, True)]
    lost(store.drift.record, run.id, figures)
    assert store.drift.of_run(run.id) == figures
    release = Release("cells", DAY, DAY, 3, "brightness", "ada", "a new lamp", NOON)
    lost(store.drift.release, release)
    assert store.drift.last_release("cells", DAY, DAY, 3) == release
    assert store.drift.last_release("cells", DAY, DAY, 4) is None
    store.leases.drop(f"work of {run.id}", run.id)
    assert [ended.id for ended in lost(store.runs.end_dead, "cells")] == [run.id]
    assert lost(store.runs.finish, run.id, RunCounts(), "completed").state == "completed"
    with store.database.engine.begin() as connection:
        counted = {name: connection.scalar(sa.select(sa.func.count()).select_from(table)) for name, table in TABLES}
    assert counted == {**dict.fromkeys(counted, 1), "image": 3, "score": 3}


# --- migrations -----------------------------------------------------------------------------------------------------


def test_a_store_in_use_is_upgraded_with_all_its_rows(
    store: ReportStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade would lose verdicts, or leave scores that point nowhere."""
    run = judge(store, {"a/top": 9.0})
    become_a_later_release(tmp_path, monkeypatch)
    with pytest.raises(SchemaError, match="older than this software needs; run `inspection db upgrade`"):
        store.check()
    if not store.database.is_sqlite:
        with pytest.raises(SchemaError, match="older than this software needs"):
            store.prepare()
        store.upgrade()
    store.prepare()
    (score,) = store.scores.of_window("cells", DAY, DAY, *DETECTOR).to_dict("records")
    assert (score["key"], score["raw_score"], score["run_id"]) == ("a/top", 9.0, run.id)
    assert "camera" in {column["name"] for column in sa.inspect(store.database.engine).get_columns("image")}
    for orphan in ("DELETE FROM image", "DELETE FROM scoring_run"):
        with pytest.raises(sa.exc.IntegrityError), store.database.engine.begin() as connection:
            connection.exec_driver_sql(orphan)
