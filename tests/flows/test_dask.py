"""Shards on Dask workers: real schedulers and workers, some of which are killed or cut off in the middle of a night."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import make_url

from flows.ingest_images import ingest_images
from flows.nightly import nightly
from flows.score_batch import score_batch
from tasks.bucket.bucket import ObjectStore
from tasks.store.store import ReportStore
from tasks.systems import Systems, open_systems
from tasks.workers import dask_workers
from tasks.workers.dask_workers import WorkersLostError
from tasks.workers.shards import WorkerSettingsError
from tests.conftest import write_line_file
from tests.faults.fault_proxy import FaultProxy
from tests.flows.plates import LAST_DAY, LINE
from tests.prefect_server import stop_group

pytestmark = pytest.mark.usefixtures("prefect_server")

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"chunk_size": 4, "shard_size": 8}
"""Six shards, so that workers have something to share."""
SLOW = [{"fault": "stall", "method": "GET", "listing": False, "nth": [1]}]
"""Every image is asked for twice and takes three seconds: there is time to kill somebody."""


def line_on(dask: int | str) -> None:
    """Let the line's shards run on Dask."""
    write_line_file(LINE, scoring={**SMALL, "dask": dask})


def scores_of(systems: Systems, version: int) -> pd.DataFrame:
    """What a version said of the last day, by key, without what names the run."""
    champion = systems.registry.version(LINE, version)
    found = systems.store.scores.of_window(LINE, LAST_DAY, LAST_DAY, version, champion.calibration_id)
    left_out = ["run_id", "model_version", "heat_map_key"]
    return found.drop(columns=left_out).sort_values("key").reset_index(drop=True)


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(*arguments: str, log: Path, prefix: tuple[str, ...] = (), **environment: str) -> Iterator[subprocess.Popen]:
    """A command of `dask` that runs in the background, in a group of its own."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "dask", *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        stop_group(process)


@contextmanager
def scheduler(folder: Path, host: str = "127.0.0.1") -> Iterator[tuple[str, subprocess.Popen]]:
    """A scheduler, with its address."""
    port = free_port()
    options = ("--host", host, "--port", str(port), "--no-dashboard", "--no-show")
    with started("scheduler", *options, log=folder / "scheduler.log") as process:
        wait_until(lambda: answers(host, port), 60)
        yield f"tcp://{host}:{port}", process


def worker(address: str, log: Path, prefix: tuple[str, ...] = (), host: str = "127.0.0.1", **environment: str):
    """A worker of one thread, without anybody who would start it again."""
    options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", host)
    return started("worker", address, *options, log=log, prefix=prefix, **environment)


def answers(host: str, port: int) -> bool:
    """Whether somebody listens."""
    try:
        with socket.create_connection((host, port), 1):
            return True
    except OSError:
        return False


def wait_until(is_true: Callable[[], Any], seconds: float) -> None:
    """Wait for something that comes."""
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)


def in_background(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Run something beside the test; what it gives or raises comes into the list."""
    ended: list[Any] = []

    def run() -> None:
        try:
            ended.append(work())
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, ended


def judged(systems: Systems) -> int:
    """Images of the last day that have a verdict."""
    champion = systems.registry.champion(LINE)
    return len(systems.store.scores.judged(LINE, LAST_DAY, LAST_DAY, champion.version, champion.calibration_id))


def test_processes_give_the_rows_of_one(trained: ObjectStore) -> None:
    """A night on several processes would judge, count or report otherwise than one in its own."""
    write_line_file(LINE, scoring=SMALL)
    systems = open_systems(LINE)
    alone = nightly(LINE, LAST_DAY, device="cpu")
    client, champion = systems.registry.client, systems.registry.champion(LINE)
    tags = client.get_model_version(champion.name, "1").tags
    files = client.get_model_version_download_uri(champion.name, "1")
    client.create_model_version(champion.name, files, champion.mlflow_run_id, tags=tags)
    line_on(2)
    spread = score_batch(LINE, LAST_DAY, LAST_DAY, model_version=2, device="cpu")
    assert spread.counts == alone.counts
    pd.testing.assert_frame_equal(scores_of(systems, 1), scores_of(systems, 2))
    first, second = (trained.get(night.report_key).decode().count("data:image/jpeg") for night in (alone, spread))
    assert first == second > 0
    again = score_batch(LINE, LAST_DAY, LAST_DAY, model_version=2, device="cpu")
    assert (again.run_id, again.counts.scored) == (spread.run_id, 0)


@pytest.mark.usefixtures("plant")
def test_an_ingest_on_processes_records_what_one_does(store: ReportStore) -> None:
    """Images would be recorded twice or not at all."""
    line_on(2)
    counts = ingest_images(LINE, LAST_DAY, LAST_DAY)
    assert (counts.listed, counts.recorded, counts.unusable) == (43, 40, 3)
    assert len(store.images.known(LINE, LAST_DAY, LAST_DAY)) == 42


@pytest.mark.fault(
    area="Process",
    fault="a Dask worker is killed in the middle of a night",
    outcome="another one does its images; nothing is lost",
)
def test_a_killed_worker_loses_nothing(trained: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its images would have no verdict, or two."""
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(trained.endpoint_url, SLOW))
        monkeypatch.setenv("INSPECTION_S3_ENDPOINT_URL", proxy.url)
        address, _ = stack.enter_context(scheduler(tmp_path))
        first, _ = (stack.enter_context(worker(address, tmp_path / f"worker{number}.log")) for number in (1, 2))
        line_on(address)
        systems = open_systems(LINE)
        thread, ended = in_background(lambda: score_batch(LINE, LAST_DAY, LAST_DAY, device="cpu"))
        wait_until(lambda: judged(systems) > 0, 120)
        os.killpg(first.pid, signal.SIGKILL)
        thread.join(240)
    (night,) = ended
    counts = night.counts
    assert (counts.scored, counts.already_scored, counts.unusable, counts.failed) == (40, 0, 3, 0)
    assert judged(systems) == 42
    report = trained.get(night.report_key).decode()
    assert "The numbers do not add up" not in report


@pytest.mark.fault(
    area="Process",
    fault="the Dask scheduler is lost in the middle of a night",
    outcome="the run fails clearly; the next one finishes it",
)
def test_a_lost_scheduler_fails_the_run_and_the_next_finishes_it(
    trained: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: ReportStore
) -> None:
    """The flow would wait forever, or the window never be finished."""
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(trained.endpoint_url, SLOW))
        monkeypatch.setenv("INSPECTION_S3_ENDPOINT_URL", proxy.url)
        address, process = stack.enter_context(scheduler(tmp_path))
        stack.enter_context(worker(address, tmp_path / "worker.log"))
        line_on(address)
        systems = open_systems(LINE)
        thread, ended = in_background(lambda: score_batch(LINE, LAST_DAY, LAST_DAY, device="cpu"))
        wait_until(lambda: judged(systems) > 0, 120)
        os.killpg(process.pid, signal.SIGKILL)
        thread.join(240)
        proxy.set_faults([])
        (error,) = ended
        assert isinstance(error, WorkersLostError), error
        assert f"the Dask scheduler at {address} does not answer any more" in str(error)
    assert store.runs.newest(LINE, LAST_DAY, LAST_DAY).state == "failed"
    monkeypatch.setenv("INSPECTION_S3_ENDPOINT_URL", trained.endpoint_url)
    write_line_file(LINE, scoring=SMALL)
    night = score_batch(LINE, LAST_DAY, LAST_DAY, device="cpu")
    assert night.counts.already_scored > 0
    assert night.counts.scored + night.counts.already_scored == 40


@pytest.mark.usefixtures("trained")
def test_a_scheduler_that_is_not_there_is_named() -> None:
    """The night would hang, or end with a traceback of Dask."""
    address = f"tcp://127.0.0.1:{free_port()}"
    line_on(address)
    with pytest.raises(WorkersLostError, match=f"the Dask scheduler at {address} does not answer"):
        score_batch(LINE, LAST_DAY, LAST_DAY, device="cpu")


@pytest.mark.usefixtures("trained")
def test_a_scheduler_without_workers_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The night would wait for a worker that nobody started."""
    monkeypatch.setattr(dask_workers, "FIRST_WORKER_S", 3)
    with scheduler(tmp_path) as (address, _):
        line_on(address)
        with pytest.raises(WorkersLostError, match="has no worker within 3 s"):
            score_batch(LINE, LAST_DAY, LAST_DAY, device="cpu")


@pytest.mark.usefixtures("trained")
def test_a_worker_of_another_plant_is_refused(tmp_path: Path) -> None:
    """It would judge images of another bucket, or write where nobody looks."""
    with scheduler(tmp_path) as (address, _):
        line_on(address)
        with (
            worker(address, tmp_path / "worker.log", INSPECTION_BUCKET="another"),
            pytest.raises(WorkerSettingsError, match="this worker reads the bucket 'another', the flow"),
        ):
            score_batch(LINE, LAST_DAY, LAST_DAY, device="cpu")
        store = f"sqlite:///{tmp_path}/elsewhere.db"
        with (
            worker(address, tmp_path / "other.log", INSPECTION_STORE_URL=store),
            pytest.raises(WorkerSettingsError, match="has no run"),
        ):
            score_batch(LINE, LAST_DAY, LAST_DAY, device="cpu")


# --- several hosts --------------------------------------------------------------------------------------------------

HOSTS = ("inspection-a", "inspection-b")


def ip(*arguments: str) -> None:
    """`ip`, which sets up networks."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[tuple[str, ...]]:
    """Two hosts with addresses of their own, 10.201.1.2 and 10.201.2.2, that see this one as 10.201.1.1 and .2.1."""
    try:
        for number, name in enumerate(HOSTS, start=1):
            ip("netns", "add", name)
            ip("link", "add", f"insp{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("address", "add", f"10.201.{number}.1/24", "dev", f"insp{number}")
            ip("link", "set", f"insp{number}", "up")
            inside = ("netns", "exec", name, "ip")
            ip(*inside, "address", "add", f"10.201.{number}.2/24", "dev", "eth0")
            ip(*inside, "link", "set", "eth0", "up")
            ip(*inside, "link", "set", "lo", "up")
            ip(*inside, "route", "add", "default", "via", f"10.201.{number}.1")
    except (OSError, subprocess.CalledProcessError) as error:
        remove_hosts()
        pytest.skip(f"network namespaces take root and iproute2: {error}")
    yield HOSTS
    remove_hosts()


def remove_hosts() -> None:
    """Take the hosts away, with what connects them."""
    for name in HOSTS:
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@contextmanager
def relayed(address: str, to: int) -> Iterator[int]:
    """A port of an address behind which a server stands that listens on 127.0.0.1 alone."""

    def copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                ends = (listening.accept()[0], socket.create_connection(("127.0.0.1", to)))
                # the server behind would hear from its own machine that a host is gone; here only the relay can tell it
                ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
                    ends[0].setsockopt(socket.IPPROTO_TCP, option, 5)
                for pair in (ends, ends[::-1]):
                    threading.Thread(target=copy, args=pair, daemon=True).start()

    listening = socket.create_server((address, 0))
    threading.Thread(target=serve, daemon=True).start()
    try:
        yield int(listening.getsockname()[1])
    finally:
        listening.close()


@pytest.mark.fault(
    area="Process", fault="a host of Dask workers is cut off in mid-night", outcome="other hosts do its images"
)
def test_a_host_that_is_cut_off_loses_nothing(
    trained: ObjectStore, hosts: tuple[str, ...], postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cable that is pulled would end the night, or leave images without a verdict or with two."""
    here, api = "10.201.1.1", urlsplit(PREFECT_API_URL.value())
    monkeypatch.setenv("INSPECTION_STORE_URL", postgres_url)
    ReportStore(postgres_url).upgrade()
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP", "15s")
    with ExitStack() as stack:
        enter = stack.enter_context
        proxy = enter(FaultProxy(trained.endpoint_url, SLOW))
        monkeypatch.setenv("INSPECTION_S3_ENDPOINT_URL", proxy.url)
        s3_port, prefect_port, store_port = (
            enter(relayed(here, port)) for port in (urlsplit(proxy.url).port, api.port, make_url(postgres_url).port)
        )
        store_url = make_url(postgres_url).set(host=here, port=store_port).render_as_string(hide_password=False)
        theirs = {"INSPECTION_S3_ENDPOINT_URL": f"http://{here}:{s3_port}", "INSPECTION_STORE_URL": store_url}
        address, _ = enter(scheduler(tmp_path, here))
        for number, name in enumerate(hosts, start=1):
            prefix, log = ("ip", "netns", "exec", name), tmp_path / f"{name}.log"
            enter(worker(address, log, prefix, f"10.201.{number}.2", **theirs))
        line_on(address)

        def night() -> Any:
            with temporary_settings({PREFECT_API_URL: f"http://{here}:{prefect_port}{api.path}"}):
                return score_batch(LINE, LAST_DAY, LAST_DAY, device="cpu")

        thread, ended = in_background(night)
        logs = [tmp_path / f"{name}.log" for name in hosts]
        wait_until(lambda: all("of 8 images" in log.read_text() for log in logs) or ended, 120)
        ip("link", "set", "insp2", "down")
        thread.join(240)
        (found,) = ended
        counts = found.counts
        assert (counts.scored, counts.already_scored, counts.unusable, counts.failed) == (40, 0, 3, 0)
        assert judged(open_systems(LINE)) == 42
        assert "Finished in state Completed()" in logs[0].read_text()
