"""One piece of work, one owner: leases on the real report store, of either kind."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from tasks.store.store import ReportStore
from tasks.store.tables import lease_table

WORK = "plates score 2026-03-08"


@pytest.fixture
def reports(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> ReportStore:
    """A fresh store."""
    postgres = kind == "postgresql"
    url = str(request.getfixturevalue("postgres_url")) if postgres else f"sqlite:///{tmp_path}/inspection.db"
    store = ReportStore(url)
    store.upgrade()
    return store


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_lease_holds_until_it_is_dropped_or_its_time_is_over(reports: ReportStore) -> None:
    """Two runs would judge the same window, or the window of a killed run would never be judged."""
    leases = reports.leases
    assert leases.take(WORK, "a")
    assert leases.take(WORK, "a")  # renewed
    assert not leases.take(WORK, "b")
    assert leases.take("plates ingest 2026-03-08", "b")  # other work
    leases.drop(WORK, "b")  # what is a's stays a's
    assert not leases.take(WORK, "b")
    leases.drop(WORK, "a")
    assert leases.take(WORK, "b", seconds=-1)
    assert leases.take(WORK, "a")  # b's time was over
    assert not leases.take(WORK, "b")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_of_many_that_ask_at_once_one_gets_it(reports: ReportStore) -> None:
    """Two runs that find a killed run's window would both go on with it."""
    reports.leases.take(WORK, "dead", seconds=-1)
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda owner: reports.leases.take(WORK, str(owner)), range(8)))
    assert sum(taken) == 1
    with reports.database.engine.begin() as connection:
        assert connection.scalars(sa.select(lease_table.c.owner)).all() == [str(taken.index(True))]


@pytest.mark.parametrize("kind", ["sqlite"])
def test_the_second_waits_for_the_first(reports: ReportStore) -> None:
    """A second run at once would work beside the first, or fail."""
    order: list[str] = []

    def work(owner: str) -> None:
        with reports.leases.held(WORK, owner):
            order.append(f"{owner} begins")
            time.sleep(0.2)
            order.append(f"{owner} ends")

    threads = [threading.Thread(target=work, args=(owner,)) for owner in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted([order[:2], order[2:]]) == [["a begins", "a ends"], ["b begins", "b ends"]]


@pytest.mark.parametrize("kind", ["sqlite"])
def test_the_heartbeat_outlives_the_lease_and_leaves_nothing_behind(reports: ReportStore) -> None:
    """A night that takes longer than the lease would lose its window to another run."""
    with reports.leases.held(WORK, "a", 1.0):
        time.sleep(1.6)
        assert not reports.leases.take(WORK, "b")
    assert reports.leases.take(WORK, "b")
    reports.leases.drop(WORK, "b")
    with reports.database.engine.begin() as connection:
        assert connection.scalars(sa.select(lease_table.c.owner)).all() == []


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_lease_is_of_one_process(reports: ReportStore) -> None:
    """Two workers would judge the same window."""
    code = (
        "import sys; from tasks.store.store import ReportStore; _, url, owner = sys.argv; "
        f"print(ReportStore(url).leases.take({WORK!r}, owner))"
    )
    url = reports.url.render_as_string(hide_password=False)
    root = Path(__file__).parents[3]
    started = [
        subprocess.Popen([sys.executable, "-c", code, url, owner], cwd=root, stdout=subprocess.PIPE, text=True)
        for owner in "ab"
    ]
    assert sorted(process.communicate()[0].strip() for process in started) == ["False", "True"]
