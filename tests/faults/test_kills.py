"""A night of 3,000 images that is killed again and again, on SQLite and PostgreSQL, and what is left of it in the end.

With `--long` the database is away for a whole minute instead of some seconds.

Every scenario has a bucket and a report store of its own; images and model are the same, so that each can be compared
with one undisturbed night.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from prefect.settings import PREFECT_API_URL

from infra.local_s3 import LocalS3
from tasks.registry.registry import ModelRegistry
from tasks.store.rows import ScoringRun
from tasks.store.store import ReportStore
from tests.faults.fault_proxy import PASSING_FAULTS, FaultProxy
from tests.faults.night_process import Nights
from tests.faults.postgres_cluster import Cluster, tell
from tests.prefect_server import PrefectServer, running_prefect_server

LINE = "plates"
WEEK, NIGHT = date(2026, 3, 7), date(2026, 3, 8)
BUCKET = "plant"
IMAGES, UNUSABLE = 3000, 12
LEASE_S = 2.0
KILLS = 20
AWAY_S, LONG_AWAY_S = 8.0, 60.0
SHARED_LEASE_S = 4.0
SOON_S = 120.0

LINE_FILE = f"""
name = "{LINE}"
recipe = {{size_px = 32}}
network = {{features = 8, latent_size = 16}}
training = {{epochs = 2, batch_size = 16}}
quality = {{min_sharpness = 0.0}}
calibration = {{calibrate_fraction = 0.4, statistics_fraction = 0.2}}
scoring = {{chunk_size = 64, shard_size = 500, lookback_days = 0}}
"""


@dataclass(frozen=True)
class Plant:
    """A bucket, a report store, and the environment in which a flow finds them and the model."""

    folder: Path
    bucket: Path
    environment: dict[str, str]
    nights: Nights

    @property
    def journal(self) -> Path:
        """The keys that were committed, one line each time; a process killed just after a commit writes none."""
        return self.folder / "journal"

    def start(self, flow: str = "score_batch", **more: str) -> int:
        """Start the night, or its ingest, in a process of its own; gives its process id."""
        device = {"device": "cpu"} if flow == "score_batch" else {}
        environment = {**self.environment, **more}
        return self.nights.start(flow, self.journal, environment, line=LINE, window_start=str(NIGHT), **device)

    def finish(self, flow: str = "score_batch", **more: str) -> None:
        """Run the night to its end, which must be a good one."""
        status = self.nights.status(self.start(flow, **more), block=True)
        assert status == 0, self.log[-5000:]

    @property
    def log(self) -> str:
        """What all processes wrote."""
        path = self.folder / "journal.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def committed(self) -> int:
        """How many images were committed so far, as the journal knows."""
        return self.journal.read_bytes().count(b"\n") if self.journal.exists() else 0

    def wait_for_progress(self, pid: int, committed: float) -> None:
        """Wait until so many images were committed, or the process has come to its end."""
        wait_for(lambda: self.committed() >= committed or self.nights.status(pid) is not None, self)

    def runs(self) -> list[ScoringRun]:
        """All scoring runs, oldest first."""
        with ReportStore(self.environment["INSPECTION_STORE_URL"]) as store:
            return sorted(store.runs.of_line(LINE, limit=1000), key=lambda run: run.started_at)


@dataclass(frozen=True)
class Outcome:
    """What a night leaves behind, without what every run makes anew: ids, times, names of runs."""

    images: pd.DataFrame
    scores: pd.DataFrame
    report: pd.DataFrame
    overlays: set[str]
    counts: dict[str, int]
    leases: int


def outcome_of(plant: Plant) -> Outcome:
    """Read the report store, the published report and the bucket."""
    newest = plant.runs()[-1]
    with ReportStore(plant.environment["INSPECTION_STORE_URL"]) as store:
        images = store.images.recorded(LINE, NIGHT, NIGHT).drop(columns="id")
        judge = (newest.model_version, newest.calibration_id)
        scores = store.scores.of_window(LINE, NIGHT, NIGHT, *judge).drop(columns="run_id")
    assert newest.report_key is not None
    report = pd.read_parquet(plant.bucket / newest.report_key.replace("report.html", "scores.parquet"))
    folder = plant.bucket / "reports" / LINE / str(NIGHT) / "overlays"
    engine = sa.create_engine(plant.environment["INSPECTION_STORE_URL"])
    with engine.connect() as connection:
        leases = connection.execute(sa.text("SELECT count(*) FROM lease")).scalar_one()
    engine.dispose()
    return Outcome(
        images,
        scores,
        report.drop(columns="run_id"),
        {path.relative_to(plant.bucket).as_posix() for path in folder.iterdir()},
        {"listed": newest.listed, "judged": newest.scored + newest.already_scored, "unusable": newest.unusable},
        leases,
    )


def assert_same(found: Outcome, reference: Outcome) -> None:
    """Every row, by content: keys, ETags, hashes, scores to the last bit, verdicts, reasons, overlays."""
    pd.testing.assert_frame_equal(found.images, reference.images)
    order = ["raw_score", "key"]
    for name in ("scores", "report"):
        pd.testing.assert_frame_equal(
            getattr(found, name).sort_values(order).reset_index(drop=True),
            getattr(reference, name).sort_values(order).reset_index(drop=True),
        )
    assert found.overlays == reference.overlays
    assert found.counts == reference.counts
    assert found.leases == 0


def draw_plate(rng: np.random.Generator, *, defect: bool) -> bytes:
    """PNG of a striped plate of 48 x 48 px; the defective ones have a dark blot."""
    stripes = 128 + 60 * np.sin(2 * np.pi * np.arange(48) / 8 + rng.uniform(-0.2, 0.2))
    image = stripes[None, :] + rng.normal(0, 8, (48, 48))
    if defect:
        cv2.circle(image, (24, 24), 8, 10.0, -1)
    return cv2.imencode(".png", np.clip(image, 0, 255).astype(np.uint8))[1].tobytes()


def write_images(folder: Path) -> None:
    """120 good plates of the day before, and a night of 3,000 with 3 % defective and a dozen broken files."""
    rng = np.random.default_rng(0)
    for number in range(120 + IMAGES):
        day = WEEK if number < 120 else NIGHT
        path = folder / "images" / LINE / str(day) / f"p{number:05}" / "top.png"
        path.parent.mkdir(parents=True)
        data = draw_plate(rng, defect=number >= 120 and number % 33 == 0)
        broken = day == NIGHT and number % (IMAGES // UNUSABLE) == 1
        path.write_bytes(data[: len(data) // 2] if broken else data)


def warm_environment(prefect_api_url: str, **more: str) -> dict[str, str]:
    """What the warm process needs: one thread for torch, and a Prefect server."""
    ours = {
        name: value for name, value in os.environ.items() if not name.startswith(("INSPECTION_", "AWS_", "PREFECT_"))
    }
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**ours, **threads, "PREFECT_API_URL": prefect_api_url, "MLFLOW_DISABLE_TELEMETRY": "true", **more}


@pytest.fixture(scope="module")
def nights(prefect_server: None) -> Iterator[Nights]:
    """The warm process."""
    with Nights(warm_environment(str(PREFECT_API_URL.value()), PREFECT_LOGGING_TO_API_ENABLED="false")) as nights:
        yield nights


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of images, line file, MLflow's database and models, which all scenarios use."""
    folder = tmp_path_factory.mktemp("kills")
    write_images(folder / "images-of-all")
    (folder / "lines").mkdir()
    (folder / "lines" / f"{LINE}.toml").write_text(LINE_FILE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def make_plant(shared: Path, nights: Nights) -> Iterator[Callable[..., Plant]]:
    """A function that sets up a plant with a bucket of its own for a report store's URL."""
    servers: list[LocalS3] = []

    def make(name: str, store_url: str | None = None) -> Plant:
        folder = shared / name
        bucket = folder / "s3" / BUCKET
        for source in (shared / "images-of-all").rglob("*.png"):
            target = bucket / source.relative_to(shared / "images-of-all")
            target.parent.mkdir(parents=True)
            target.hardlink_to(source)
        server = LocalS3(folder / "s3")
        server.start()
        servers.append(server)
        url = store_url or f"sqlite:///{folder}/inspection.db"
        environment = {
            **server.environment(),
            "INSPECTION_BUCKET": BUCKET,
            "INSPECTION_WORK_DIR": str(shared),
            "INSPECTION_STORE_URL": url,
            "INSPECTION_MLFLOW_TRACKING_URI": f"sqlite:///{shared}/mlflow.db",
            "INSPECTION_MLFLOW_ARTIFACT_ROOT": str(shared / "mlartifacts"),
            "INSPECTION_LINES_DIR": str(shared / "lines"),
            "INSPECTION_LEASE_S": str(LEASE_S),
        }
        with ReportStore(url) as store:
            store.upgrade()
        return Plant(folder, bucket, environment, nights)

    yield make
    for server in servers:
        server.stop()


@dataclass(frozen=True)
class Reference:
    """An undisturbed night: what it leaves, and how long it took until its run began and until its end."""

    outcome: Outcome
    start_s: float
    whole_s: float


@pytest.fixture(scope="module")
def reference(make_plant: Callable[..., Plant]) -> Reference:
    """The model of all scenarios, trained once, and an undisturbed night with it."""
    plant = make_plant("reference")
    window = {"window_start": str(WEEK), "line": LINE}
    for flow, more in (("ingest_images", {}), ("train_ganomaly", {"device": "cpu"})):
        assert plant.nights.run(flow, plant.journal, plant.environment, **window, **more) == 0, plant.log[-5000:]
    started, wall = time.monotonic(), time.time()
    plant.finish()
    whole_s = time.monotonic() - started
    outcome = outcome_of(plant)
    assert outcome.counts == {"listed": IMAGES, "judged": IMAGES - UNUSABLE, "unusable": UNUSABLE}
    assert outcome.overlays == set(outcome.scores["heat_map_key"].dropna())
    assert len(outcome.overlays) > IMAGES // 50
    return Reference(outcome, plant.runs()[-1].started_at.timestamp() - wall, whole_s)


@pytest.fixture(params=["sqlite", "postgresql"])
def plant(request: pytest.FixtureRequest, make_plant: Callable[..., Plant], reference: Reference) -> Plant:
    """A plant whose night has not begun, on either database."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    return make_plant(f"{request.node.originalname}-{request.param}", url)


def wait_for(what: Callable[[], Any], plant: Plant) -> None:
    """Wait until something has come true."""
    deadline = time.monotonic() + SOON_S
    while not what():
        assert time.monotonic() < deadline, plant.log[-5000:]
        time.sleep(0.03)


def kill_often(plant: Plant, reference: Reference, rng: random.Random) -> Counter[str]:
    """Kill the night at `KILLS` random points, from before it begins to its report; gives kills by phase."""
    phases: Counter[str] = Counter()
    while sum(phases.values()) < KILLS:
        runs, before = len(plant.runs()), plant.committed()
        pid = plant.start()
        if before == IMAGES or rng.random() < 0.2:
            time.sleep(rng.uniform(0, reference.start_s))
        else:
            plant.wait_for_progress(pid, before + rng.uniform(0, IMAGES / KILLS / 2))
            time.sleep(rng.uniform(0, 0.2))
        begun, committed = len(plant.runs()) > runs, plant.committed()
        if plant.nights.kill(pid) == -signal.SIGKILL:
            phases["closing" if committed == IMAGES else "scoring" if begun else "starting"] += 1
    return phases


@pytest.mark.timeout(1200)
@pytest.mark.fault(
    area="Process",
    fault="SIGKILL at 20 random points of one night of 3,000 images",
    outcome="the next run goes on where it stopped; in the end rows, report and overlays of an undisturbed night",
)
def test_a_night_that_is_killed_twenty_times(plant: Plant, reference: Reference) -> None:
    """Broken if a kill at any point loses, doubles or changes a row, or leaves an overlay or a lease behind."""
    rng = random.Random(plant.folder.name)
    phases = kill_often(plant, reference, rng)
    time.sleep(LEASE_S)
    plant.finish()
    assert_same(outcome_of(plant), reference.outcome)
    assert sum(phases.values()) >= KILLS, phases
    assert phases["scoring"] >= KILLS // 3, phases
    states = Counter(run.state for run in plant.runs())
    assert states.keys() == {"interrupted", "completed"}
    assert states["completed"] == 1


def kill_either(plant: Plant, environment: dict[str, str], rng: random.Random) -> tuple[int, int]:
    """Let two runs share the night and kill `KILLS` times one of them, whose place a new one takes; gives the last two.

    Mostly the older of the two: the newer one has often not begun.
    """
    pair, kills = [plant.start(**environment), plant.start(**environment)], 0
    while kills < KILLS:
        plant.wait_for_progress(pair[0], plant.committed() + rng.uniform(0, IMAGES / KILLS))
        time.sleep(rng.uniform(0, 0.2))
        victim = pair.pop(0 if rng.random() < 0.8 else 1)
        kills += plant.nights.kill(victim) == -signal.SIGKILL
        pair.append(plant.start(**environment))
    return pair[0], pair[1]


@pytest.mark.timeout(1200)
@pytest.mark.fault(
    area="Process",
    fault="two runs at once of one night of 3,000 images, 20 times one of them is killed at a random point and "
    "replaced, and 5 % of the requests to S3 go wrong",
    outcome="no image is committed twice, the other waits and goes on where a dead one stopped; in the end rows, "
    "report and overlays of an undisturbed night",
)
def test_two_runs_at_once_with_faults_and_twenty_kills(plant: Plant, reference: Reference) -> None:
    """Broken if two runs commit an image twice, or if a dead run's images or a bad network's are lost or changed."""
    faults = [{"fault": [name for name in PASSING_FAULTS if "stall" not in name], "probability": 0.05}]
    with FaultProxy(plant.environment["INSPECTION_S3_ENDPOINT_URL"], faults, seed=1) as proxy:
        through = {"INSPECTION_S3_ENDPOINT_URL": proxy.url, "INSPECTION_LEASE_S": str(SHARED_LEASE_S)}
        last = kill_either(plant, through, random.Random(plant.folder.name))
        assert [plant.nights.status(pid, block=True) for pid in last] == [0, 0], plant.log[-5000:]
        done = proxy.counts()
    assert sum(done[name] for name in PASSING_FAULTS) > IMAGES // 50, done
    time.sleep(SHARED_LEASE_S)
    plant.finish()  # closes the dead runs; of two reports that were written at once it makes one
    states = Counter(run.state for run in plant.runs())
    assert states.keys() == {"interrupted", "completed"}
    assert states["interrupted"] >= KILLS // 3, states
    assert_same(outcome_of(plant), reference.outcome)
    times = Counter(plant.journal.read_text(encoding="utf-8").splitlines())
    assert set(times.values()) == {1}, "images were committed twice"


@pytest.mark.timeout(600)
@pytest.mark.fault(
    area="Process",
    fault="SIGKILL at 6 random points of the ingest of 3,000 images",
    outcome="the next ingest goes on where it stopped; every image is recorded once, as in an undisturbed night",
)
@pytest.mark.parametrize("plant", ["sqlite"], indirect=True)
def test_an_ingest_that_is_killed(plant: Plant, reference: Reference) -> None:
    """Broken if a killed ingest loses, doubles or changes a record, or blocks the next one longer than its lease."""
    rng = random.Random(0)
    for _ in range(6):
        pid = plant.start("ingest_images")
        plant.wait_for_progress(pid, plant.committed() + rng.uniform(0, IMAGES / 8))
        time.sleep(rng.uniform(0, 0.1))
        assert plant.nights.kill(pid) == -signal.SIGKILL
    plant.finish("ingest_images")
    with ReportStore(plant.environment["INSPECTION_STORE_URL"]) as store:
        pd.testing.assert_frame_equal(
            store.images.recorded(LINE, NIGHT, NIGHT).drop(columns="id"), reference.outcome.images
        )
    assert set(Counter(plant.journal.read_text(encoding="utf-8").splitlines()).values()) == {1}, "fetched twice"


@pytest.mark.timeout(600)
@pytest.mark.fault(
    area="Report store",
    fault="PostgreSQL refuses connections for eight seconds (with `--long` for a minute) in the middle of a night, and "
    "crashes later on",
    outcome="the night waits and goes on: one run, completed, rows of an undisturbed night",
)
def test_the_night_outlives_the_database(
    make_plant: Callable[..., Plant], reference: Reference, cluster: Cluster, request: pytest.FixtureRequest
) -> None:
    """Broken if an outage of the database ends a night, or a chunk that was being committed is lost or doubled."""
    tell(f"{cluster.server}/postgres", "CREATE DATABASE outlived")
    plant = make_plant("outlived", f"{cluster.server}/outlived")
    pid = plant.start()
    plant.wait_for_progress(pid, 300)
    with cluster.away(LONG_AWAY_S if request.config.getoption("--long") else AWAY_S):
        before = plant.committed()
    plant.wait_for_progress(pid, before + 500)
    with cluster.away(0, "immediate"):
        pass
    assert plant.nights.status(pid, block=True) == 0, plant.log[-5000:]
    assert plant.log.count("trying again") >= 2
    assert "geheim" not in plant.log
    (run,) = plant.runs()
    assert (run.state, run.failed, run.scored + run.unusable) == ("completed", 0, IMAGES)
    assert_same(outcome_of(plant), reference.outcome)


@pytest.mark.timeout(600)
@pytest.mark.fault(
    area="Process",
    fault="SIGTERM (a worker is stopped) and Ctrl-C in the middle of a night, @champion moved meanwhile",
    outcome="SIGTERM finishes the chunk; the run is closed as interrupted; the next goes on with the same model",
)
@pytest.mark.parametrize("plant", ["sqlite"], indirect=True)
def test_sigterm_finishes_the_chunk(plant: Plant, reference: Reference, shared: Path) -> None:
    """Broken if stopping a worker cuts a chunk in two, leaves a run open, or lets the next run change the model."""
    for number, sent in enumerate((signal.SIGTERM, signal.SIGINT)):
        pid = plant.start()
        before = plant.committed()
        wait_for(lambda before=before: plant.committed() > before + 100, plant)
        os.kill(pid, sent)
        status = plant.nights.status(pid, block=True)
        assert status not in (0, -signal.SIGKILL)
        assert len(plant.runs()) == number + 1
        newest = plant.runs()[-1]
        assert newest.state == "interrupted"
        with ReportStore(plant.environment["INSPECTION_STORE_URL"]) as store:
            judged = store.scores.judged(LINE, NIGHT, NIGHT, newest.model_version, newest.calibration_id)
        assert len(judged) == plant.committed() < IMAGES
        if sent == signal.SIGTERM:
            assert newest.scored + newest.unusable == len(judged)
    registry = ModelRegistry(f"sqlite:///{shared}/mlflow.db")
    champion = registry.champion(LINE)
    assert champion is not None
    files = registry.client.get_model_version_download_uri(champion.name, str(champion.version))
    moved = registry.client.create_model_version(champion.name, files, champion.mlflow_run_id)
    registry.client.set_registered_model_alias(champion.name, "champion", moved.version)
    try:
        plant.finish()
    finally:
        registry.client.set_registered_model_alias(champion.name, "champion", str(champion.version))
    assert plant.runs()[-1].model_version == champion.version
    assert_same(outcome_of(plant), reference.outcome)


@pytest.mark.timeout(600)
@pytest.mark.fault(
    area="Process",
    fault="a run is suspended for longer than its lease and wakes up again",
    outcome="another run takes its window over; the one that woke up does no harm and ends well",
)
@pytest.mark.parametrize("plant", ["postgresql"], indirect=True)
def test_a_suspended_run_loses_its_window(plant: Plant, reference: Reference) -> None:
    """Broken if a virtual machine that was paused holds the night up, or writes rows a second time when it goes on."""
    sleeper = plant.start()
    wait_for(lambda: plant.committed() > 100, plant)
    os.kill(sleeper, signal.SIGSTOP)
    time.sleep(LEASE_S * 1.5)
    plant.finish()
    os.kill(sleeper, signal.SIGCONT)
    assert plant.nights.status(sleeper, block=True) == 0, plant.log[-5000:]
    assert_same(outcome_of(plant), reference.outcome)
    assert {run.state for run in plant.runs()} == {"completed"}


@pytest.fixture
def mortal_server(tmp_path: Path) -> Iterator[PrefectServer]:
    """A Prefect server that may be killed."""
    with running_prefect_server(tmp_path / "prefect", warm_environment("")) as server:
        yield server


@pytest.mark.timeout(900)
@pytest.mark.fault(
    area="Prefect",
    fault="the Prefect server dies in the middle of a night and does not come back",
    outcome="the night is scored, reconciled and published all the same; only Prefect's own record of it is open",
)
@pytest.mark.parametrize("plant", ["sqlite"], indirect=True)
def test_the_night_outlives_the_prefect_server(
    plant: Plant, reference: Reference, mortal_server: PrefectServer
) -> None:
    """Broken if a night's verdicts or its report depend on the orchestrator being there until the end."""
    with Nights(warm_environment(mortal_server.url, PREFECT_CLIENT_MAX_RETRIES="1")) as nights:
        victim = replace(plant, nights=nights)
        pid = victim.start()
        wait_for(lambda: victim.committed() > 100, victim)
        os.killpg(mortal_server.process.pid, signal.SIGKILL)
        nights.status(pid, block=True)
    newest = plant.runs()[-1]
    assert (newest.state, newest.message) == ("completed", ""), plant.log[-5000:]
    assert_same(outcome_of(plant), reference.outcome)
