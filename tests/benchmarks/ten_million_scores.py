"""How long the two questions that people ask all the time take in a PostgreSQL report store of ten million scores.

    python tests/benchmarks/ten_million_scores.py --scores 10_000_000

*Flagged parts of a line on a day, worst first* and *the history of a part* are asked through `ReportStore`, each time
about another day or part. The rows are made up: four lines, 250 days, two images of each part, 5 % of them flagged,
every fifth day judged again by a second model version. Without `--url` a throw-away cluster is started and removed
afterwards; it needs about 0.8 GB of disk for each million of scores. The result is a Markdown table.
"""

import os
import platform
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Annotated, Any

import psycopg
import sqlalchemy as sa
import typer
from rich.console import Console
from rich.progress import track

from tasks.store.store import ReportStore

LINES = ("cells", "caps", "screws", "tiles")
DAYS = 250
FIRST_DAY = date(2026, 1, 1)
SECOND_JUDGEMENT_EVERY = 5
CHAMPION, CHALLENGER = 3, 4
POSTGRES_FOLDERS = ("usr/lib/postgresql/*/bin", "opt/homebrew/opt/postgresql*/bin", "usr/local/opt/postgresql*/bin")

NIGHT = "WITH night AS (SELECT CAST(:line AS text) AS line, CAST(:day AS date) AS day)"
FILL_IMAGES = f"""{NIGHT}
INSERT INTO image (line, key, etag, part, view, production_date, captured_at, size_bytes, sha256, width_px, height_px,
    brightness, contrast, sharpness, usable, recorded_at)
SELECT line, line || '/' || day || '/' || part || '/' || view || '.jpg', md5(part || view), part, view, day,
    day + n * interval '1 second', 400000, md5(part || view) || md5(view || part), 1600, 1200,
    0.5, 0.2, 12.5, true, day + interval '26 hours'
FROM night, generate_series(1, :parts) AS n, LATERAL (SELECT line || '-' || day || '-' || n AS part) AS p,
    unnest(ARRAY['side', 'top']) AS view
"""
FILL_RUN = f"""{NIGHT}
INSERT INTO scoring_run (id, line, window_start, window_end, model_name, model_version, calibration_id, snapshot_id,
    code_version, flow_run_id, state, message, started_at, finished_at, listed, scored, already_scored, unusable,
    failed, flagged)
SELECT :run, line, day, day, 'ganomaly', :version, 'cal-1', 'snap-1', '0.1.0', '', 'completed', '',
    day + :version * interval '8 hours', day + :version * interval '9 hours', 0, 0, 0, 0, 0, 0
FROM night
"""
FILL_SCORES = f"""{NIGHT}, judged AS (
    SELECT id, etag, day, 3 * random() AS raw FROM image JOIN night USING (line) WHERE production_date = day ORDER BY id
)
INSERT INTO score (image_id, model_version, calibration_id, run_id, raw_score, normalised_score, p_value, verdict,
    heat_map_key, scored_at)
SELECT id, :version, 'cal-1', :run, raw, raw / (1 + raw), 1 - raw / 3,
    CASE WHEN raw > 2.85 THEN 'flagged' ELSE 'ok' END, CASE WHEN raw > 2.85 THEN 'reports/' || etag || '.jpg' END,
    day + interval '27 hours'
FROM judged
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
say = Console(stderr=True)


@app.command(help=__doc__)
def main(
    scores: Annotated[str, typer.Option(help="How many scores to fill in, such as 10_000_000.")] = "10_000_000",
    url: Annotated[str, typer.Option(help="An empty database, postgresql+psycopg://...; default a new cluster.")] = "",
    questions: Annotated[int, typer.Option(help="How often each query is asked.")] = 200,
    seed: Annotated[int, typer.Option(help="Chooses the days and parts that are asked about.")] = 0,
) -> None:
    """Fill, ask, print."""
    with nullcontext(url) if url else throw_away_cluster() as at, ReportStore(at) as store:
        store.upgrade()
        parts = parts_a_day(int(scores))
        seconds = fill(store, parts)
        timings = {name: ask(query, questions, seed) for name, query in queries(store, parts).items()}
        plans = {name: plan_of(store, query) for name, query in queries(store, parts).items()}
        print_result(store, seconds, timings, plans)


def parts_a_day(scores: int) -> int:
    """Parts per line and day that make about so many scores."""
    nights = len(LINES) * (DAYS + DAYS // SECOND_JUDGEMENT_EVERY)
    return max(1, round(scores / nights / 2))


def fill(store: ReportStore, parts: int) -> float:
    """Write all nights in the order of time, as the pipeline would; gives the seconds."""
    engine = sa.create_engine(store.url)
    started = time.monotonic()
    for number in track(range(DAYS), "filling", console=say):
        for line in LINES:
            fill_night(engine, line, number, parts)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")  # what the server does by itself within minutes
    engine.dispose()
    return time.monotonic() - started


def fill_night(engine: sa.Engine, line: str, number: int, parts: int) -> None:
    """One line's images of one day and their scores."""
    day = FIRST_DAY + timedelta(days=number)
    versions = [CHAMPION] if number % SECOND_JUDGEMENT_EVERY else [CHALLENGER, CHAMPION]
    with engine.begin() as connection:
        values: dict[str, Any] = {"line": line, "day": day, "parts": parts}
        connection.execute(sa.text(FILL_IMAGES), values)
        for version in versions:
            night = values | {"version": version, "run": f"{day:%Y%m%d}-{line}-{version}"}
            connection.execute(sa.text(FILL_RUN), night)
            connection.execute(sa.text(FILL_SCORES), night)


def queries(store: ReportStore, parts: int) -> dict[str, Callable[[Random], int]]:
    """The questions; each is asked about something random and gives how many rows it found."""

    def flagged(random: Random) -> int:
        day = FIRST_DAY + timedelta(days=random.randrange(DAYS))
        return len(store.scores.flagged_parts(random.choice(LINES), day))

    def history(random: Random) -> int:
        day = FIRST_DAY + timedelta(days=random.randrange(DAYS))
        part = f"{random.choice(LINES)}-{day}-{random.randrange(parts) + 1}"
        return len(store.scores.of_images([image.id for image in store.images.find(part)]))

    return {"flagged parts of a line on a day": flagged, "history of a part": history}


def ask(query: Callable[[Random], int], times: int, seed: int) -> list[float]:
    """Milliseconds of each time."""
    random, found = Random(seed), []
    for _ in range(times):
        started = time.perf_counter()
        rows = query(random)
        found.append(1000 * (time.perf_counter() - started))
        assert rows, "nothing found: the benchmark asks for what it did not fill in"
    return found


def plan_of(store: ReportStore, query: Callable[[Random], int]) -> str:
    """What PostgreSQL does for a query: its steps with the indexes they use, outermost first."""
    sent: list[tuple[str, Any]] = []

    def remember(_c: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        sent.append((statement, values))

    sa.event.listen(store.database.engine, "before_cursor_execute", remember)
    query(Random(1))
    sa.event.remove(store.database.engine, "before_cursor_execute", remember)
    with store.database.engine.begin() as connection:
        plans = [connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sql}", values).scalar() for sql, values in sent]
    return "; ".join(" > ".join(steps(plan[0]["Plan"])) for plan in plans)


def steps(plan: dict[str, Any]) -> Iterator[str]:
    """The names of a plan's steps."""
    index = plan.get("Index Name") or plan.get("Relation Name")
    yield plan["Node Type"] + (f" ({index})" if index else "")
    for inner in plan.get("Plans", []):
        yield from steps(inner)


def print_result(store: ReportStore, seconds: float, timings: dict[str, list[float]], plans: dict[str, str]) -> None:
    """The table, and what it was measured on, to standard output."""
    with store.database.engine.begin() as connection:
        count = {name: connection.scalar(sa.text(f"SELECT count(*) FROM {name}")) for name in ("image", "score")}
        size = connection.scalar(sa.text("SELECT pg_database_size(current_database())"))
        memory = connection.scalar(sa.text("SHOW shared_buffers"))
        server = connection.scalar(sa.text("SHOW server_version"))
    typer.echo(
        f"{count['score']:,} scores of {count['image']:,} images, {size / 1e9:.1f} GB, filled in {seconds:.0f} s.\n"
        f"PostgreSQL {server}, shared_buffers {memory}; {os.cpu_count()} CPU cores, {platform.system()} "
        f"{platform.machine()}, Python {platform.python_version()}, SQLAlchemy {sa.__version__}, "
        f"psycopg {psycopg.__version__}.\n\n"
        "| query | asked | median | 5 % .. 95 % | slowest | plan |\n| --- | ---: | ---: | ---: | ---: | --- |"
    )
    for name, times in timings.items():
        cuts = statistics.quantiles(times, n=20)
        figures = f"{statistics.median(times):.1f} ms | {cuts[0]:.1f} .. {cuts[-1]:.1f} ms | {max(times):.1f} ms"
        typer.echo(f"| {name} | {len(times)} | {figures} | {plans[name]} |")


@contextmanager
def throw_away_cluster() -> Iterator[str]:
    """The URL of a new PostgreSQL cluster with its default settings, removed at the end."""
    programs = next((f for pattern in POSTGRES_FOLDERS for f in sorted(Path("/").glob(pattern), reverse=True)), None)
    if programs is None:
        raise typer.BadParameter("PostgreSQL's server is not installed: give the --url of an empty database")
    folder = Path(tempfile.mkdtemp(prefix="inspection-benchmark-"))
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "nobody")
        user = {"user": "nobody", "extra_groups": []}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(*command: Any) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, **user)

    control = (programs / "pg_ctl", "-D", folder / "data", "-w")
    try:
        call(programs / "initdb", "-D", folder / "data", "-U", "inspection", "-A", "trust", "-E", "UTF8", "--no-sync")
        call(*control, "-l", folder / "log", "-o", f"-h 127.0.0.1 -p {port} -k {folder}", "start")
        yield f"postgresql+psycopg://inspection@127.0.0.1:{port}/postgres"
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            call(*control, "-m", "immediate", "stop")
        shutil.rmtree(folder)


if __name__ == "__main__":
    app()
