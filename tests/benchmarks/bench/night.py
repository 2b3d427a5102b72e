"""Workloads around the networks: each stage alone, a whole night from the S3 server to the report, how cost grows.

The bound of a night is cores / (sum of the stages' CPU time for an image): what this machine could do if no core ever
waited and nothing but the stages ran. The S3 server runs on the same cores here, so there is one bound without and one
with the CPU time that it used in the night; it knows each object's MD5 when the night begins, as servers do that write
it down when an object comes. And cores share caches and memory: a stage costs more while all cores work,
as they do in a night, than it does alone, so the last bound takes the stages as they are then.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ganomaly.acceleration.cores import usable_cores
from tests.benchmarks.bench.contest import ANOMALIB, OURS, ROOT, Contestant, ContestantError, environment
from tests.benchmarks.bench.data import folder_of_files
from tests.benchmarks.bench.plan import Plan
from tests.benchmarks.bench.plant import Night, Plant
from tests.benchmarks.bench.processes import cpu_seconds
from tests.benchmarks.bench.rows import Row, row_of
from tests.faults.postgres_cluster import Cluster, server_programs

Say = Callable[[str], None]

SERVER_STAGE = "S3 server"
JUDGING_STAGE = "features + scores"
OVERLAY_STAGE = "overlay + PUT of a flagged image"
OVERLAYS = 32
PHOTOS = 16
AT_ONCE = ("S3 GET", "SHA-256", "decode", "decode + gate + recipe", JUDGING_STAGE, OVERLAY_STAGE)
"""Stages that several processes can carry out at once."""
END_TO_END = "end to end, S3 to report store"
FROM_FILES = "from files, anomalib's engine"


@dataclass(frozen=True)
class Stages:
    """What the stages of a night cost.

    Attributes:
        cpu_ms: CPU milliseconds for an image, in the order of the night; the S3 server's share is one of them.
        overlay_ms: of a flagged image, on top of that.
    """

    cpu_ms: Mapping[str, float]
    overlay_ms: float

    def bound(self, cores: int, *, with_server: bool) -> float:
        """Images per second that so many cores can do at most."""
        spent = sum(cpu for name, cpu in self.cpu_ms.items() if with_server or name != SERVER_STAGE)
        return 1000 * cores / spent

    def of_night(self, flagged_share: float, server_ms: float) -> "Stages":
        """The same with the overlays' cost spread over all images, and the S3 server's as it was in a night."""
        overlays = {SERVER_STAGE: server_ms, "overlays": self.overlay_ms * flagged_share}
        return replace(self, cpu_ms={**self.cpu_ms, **overlays})


def measure_stages(plan: Plan, plant: Plant, say: Say) -> tuple[Stages, Stages, list[Row]]:
    """Measure each stage alone and on all cores at once, all of them in turns, with one thread of torch."""
    day = plant.new_day(plan.stage_images, plan.defective_share).isoformat()
    n, share, folder = plan.stage_images, plan.defective_share, str(plant.detector)
    images = {"n_images": n, "defective_share": share}
    photos = {"folder": folder, "n_images": min(PHOTOS, n)}
    jobs: dict[str, tuple[str, dict[str, object]]] = {
        "list": ("listing", {"day": day}),
        "S3 GET": ("fetch", {"day": day, "n_images": n}),
        "SHA-256": ("digest", images),
        "decode": ("decode", images),
        "decode + gate + recipe": ("prepare", {"folder": folder, **images}),
        "the same, JPEG of 2,000 px, all pixels": ("prepare_photos", {**photos, "reduced": False}),
        "the same, JPEG of 2,000 px, reduced": ("prepare_photos", {**photos, "reduced": True}),
        JUDGING_STAGE: ("score", {"folder": folder, **images}),
        OVERLAY_STAGE: ("overlay", {"folder": folder, **images, "flagged": min(OVERLAYS, n)}),
        "report store, SQLite": ("store", {"url": f"sqlite:///{plant.folder}/stage.db", "n_images": n}),
    }
    command = [sys.executable, "-m", "tests.benchmarks.bench.contestant_stages"]
    log = plant.folder / "logs" / "stages.log"
    with _postgres() as url, ExitStack() as stack, ThreadPoolExecutor(usable_cores()) as askers:
        cast = [
            stack.enter_context(Contestant(OURS, command, 1, log, plant.environment(1))) for _ in range(usable_cores())
        ]
        if url is not None:
            jobs["report store, PostgreSQL"] = ("store", {"url": url, "n_images": n})
        alone: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
        at_once: dict[str, list[dict[str, float]]] = {name: [] for name in AT_ONCE}
        server: dict[str, list[float]] = {name: [] for name in jobs}
        for number in range(plan.rounds + 1):  # the first is the warm-up
            for name, (job, arguments) in jobs.items():
                say(f"stage: {name}")
                before = cpu_seconds(plant.s3_pid)
                answers = [cast[0].do(job, **arguments)]
                served = 1000 * (cpu_seconds(plant.s3_pid) - before) / n
                if name in AT_ONCE:
                    answers.append(_together(list(askers.map(lambda one: one.do(job, **arguments), cast))))  # noqa: B023
                if number:
                    server[name].append(served)
                    for found, answer in zip((alone, at_once), answers, strict=False):
                        found[name].append(answer)
    rows, costs = [], []
    for workload, found in (("stages, each alone", alone), ("stages, each on all cores at once", at_once)):
        medians = {name: statistics.median(answer["cpu_ms"] for answer in answers) for name, answers in found.items()}
        for name, answers in found.items():
            speeds = [answer["images_per_s"] for answer in answers]
            rows.append(row_of(workload, name, "images/s", speeds, threads=1, cpu_ms=medians[name]))
        costs.append(medians)
    served = sum(statistics.mean(server[name]) for name in ("list", "S3 GET"))
    return *(Stages(_of_an_image(c, served), c[OVERLAY_STAGE]) for c in (costs[0], costs[0] | costs[1])), rows


def _together(answers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What processes did that carried out a job at once: their speeds add up, an image's cost is the mean."""
    speed = sum(answer["images_per_s"] for answer in answers)
    return {"images_per_s": speed, "cpu_ms": statistics.mean(answer["cpu_ms"] for answer in answers)}


def _of_an_image(medians: Mapping[str, float], server: float) -> dict[str, float]:
    """The stages of one image that is not flagged."""
    whole = medians["decode + gate + recipe"]
    decode = min(medians["decode"], whole)
    return {
        "list": medians["list"],
        "S3 GET": medians["S3 GET"],
        SERVER_STAGE: server,
        "SHA-256": medians["SHA-256"],
        "decode": decode,
        "gate + recipe": whole - decode,
        JUDGING_STAGE: medians[JUDGING_STAGE],
        "report store": medians["report store, SQLite"],
    }


def whole_night(plan: Plan, plant: Plant, alone: Stages, at_once: Stages, say: Say) -> tuple[Stages, list[Row]]:
    """A night of so many images, from the S3 server to the report, and the same night again."""
    say(f"night of {plan.images:,} images: laying out")
    day = plant.new_day(plan.images, plan.defective_share)
    say(f"night of {plan.images:,} images: scoring")
    night = plant.score(day)
    say("the finished night again")
    again = plant.score(day)
    flagged = night.answer["counts"]["flagged"]
    server_ms = 1000 * night.s3.total_cpu_s / night.images
    alone, at_once = (stages.of_night(flagged / night.images, server_ms) for stages in (alone, at_once))
    speed, inside = (
        night.images / seconds for seconds in (night.answer["flow_s"], sum(night.answer["tasks"].values()))
    )
    note = f"{night.images:,} images, {flagged:,} flagged; the flow from its start to the report"
    rows = [_night_row(END_TO_END, OURS, speed, plan, night, note)]
    rows.append(_night_row(END_TO_END, "ours, the flow's tasks alone", inside, plan, night, "without Prefect's start"))
    for stages, with_server, name in (
        (alone, False, f"bound, {usable_cores()} cores"),
        (alone, True, f"bound, {usable_cores()} cores, with the S3 server's share"),
        (at_once, True, f"bound, {usable_cores()} cores that are all busy, with the S3 server's share"),
    ):
        bound = stages.bound(usable_cores(), with_server=with_server)
        text = f"{100 * speed / bound:.0f} % of it reached, {100 * inside / bound:.0f} % by the tasks alone"
        rows.append(row_of(END_TO_END, name, "images/s", [bound], cpu_ms=1000 * usable_cores() / bound, note=text))
    rows += _costs(plan, night)
    rows += _finished(again)
    return alone, rows


def _finished(again: Night) -> Iterator[Row]:
    """A night that has nothing left to do: until all its tasks have ended, and until the flow returns.

    In between Prefect ends its run: the thread of its heartbeat, which sleeps in steps of a second, is waited for.
    """
    answer, workload = again.answer, "a finished night again"
    size = f"{again.images:,} images"
    start = f"{size}; start of Python and imports {answer['started_s']:.1f} s"
    yield row_of(workload, "until its last task has ended", "s", [answer["done_s"]], note=size)
    yield row_of(workload, "until the flow returns", "s", [answer["flow_s"]], note=start)


def _night_row(workload: str, who: str, speed: float, plan: Plan, night: Night, note: str) -> Row:
    cpu_ms = 1000 * sum(used.total_cpu_s for used in (night.own, night.s3, night.prefect)) / night.images
    return row_of(workload, who, "images/s", [speed], threads=max(plan.threads), cpu_ms=cpu_ms, note=note)


def _costs(plan: Plan, night: Night) -> Iterator[Row]:
    """CPU seconds by process, memory, and what Prefect and MLflow add."""
    shares = {"ours": night.own, "Prefect's server": night.prefect, "S3 server (rclone)": night.s3}
    for name, used in shares.items():
        yield row_of("CPU of the night", name, "s", [used.total_cpu_s], cpu_ms=1000 * used.total_cpu_s / night.images)
    for name, size in (("ours", night.answer["peak_bytes"]), ("Prefect's server", night.prefect.peak_bytes)):
        yield row_of("memory of the night", name, "MB", [size / 1e6])
    yield from orchestration(night)


def orchestration(night: Night) -> Iterator[Row]:
    """Seconds of a night that are not the stages': start, Prefect around the tasks, MLflow's model."""
    tasks, size = night.answer["tasks"], f"{night.images:,} images"
    spent = {
        "Python and imports": night.answer["started_s"],
        "Prefect: flow without its tasks": night.answer["flow_s"] - sum(tasks.values()),
        "MLflow: resolve and load the model": tasks.get("pin-model", 0.0),
    }
    for name, seconds in spent.items():
        share = 100 * seconds / (night.answer["flow_s"] + night.answer["started_s"])
        yield row_of("orchestration of the night", name, "s", [seconds], note=f"{size}, {share:.1f} % of the night")


def anomalib_engine(plan: Plan, cast: Mapping[str, Contestant], ours_per_s: float | None, say: Say) -> Iterator[Row]:
    """PatchCore of anomalib from image files on the local disk to scores, beside our night of the same images."""
    if ANOMALIB not in cast:
        return
    theirs = cast[ANOMALIB]
    files = plan.folder.resolve() / "files"
    folder = str(folder_of_files(files / "judged", plan.engine_images, plan.defective_share))
    learned = str(folder_of_files(files / "learned", plan.engine_trained, 0.0))
    for visualise, name in ((True, "anomalib PatchCore, predict"), (False, "the same, no pictures")):
        say(name)
        job = {"folder": folder, "learned": learned, "visualise": visualise, "threads": theirs.threads}
        try:
            answer = theirs.do("predict", **job)
        except ContestantError as error:
            yield row_of(FROM_FILES, name, "images/s", [float("nan")], note=str(error))
            continue
        speed = answer["images_per_s"]
        note = f"ResNet-18, drawn weights; memory of {plan.engine_trained} images; {answer['images']:.0f} judged"
        yield row_of(
            FROM_FILES,
            name,
            "images/s",
            [speed],
            size_px=int(answer["size_px"]),
            threads=theirs.threads,
            cpu_ms=answer["cpu_ms"],
            ratios=[] if ours_per_s is None else [ours_per_s / speed],
            note=note + ("" if ours_per_s is None else "; ours: from the bucket to the report"),
        )


def growth(plan: Plan, plant: Plant, say: Say) -> Iterator[Row]:
    """Nights of several sizes: speed, CPU, memory, and what orchestration takes."""
    for n_images in plan.growth:
        say(f"growth: night of {n_images:,} images")
        night = plant.score(plant.new_day(n_images, plan.defective_share, plan.growth_px))
        speed = night.images / night.answer["flow_s"]
        images = f"{n_images:,} images" + (f" of {plan.growth_px} px" if plan.growth_px else "")
        note = f"peak memory {night.answer['peak_bytes'] / 1e6:.0f} MB, own CPU {night.own.total_cpu_s:.0f} s"
        yield _night_row("how a night's cost grows", images, speed, plan, night, note)
        yield row_of("memory by size of the night", images, "MB", [night.answer["peak_bytes"] / 1e6])
        yield from (
            row_of(
                "orchestration by size of the night", f"{images}: {row.contestant}", "s", [row.median], note=row.note
            )
            for row in orchestration(night)
        )


def many_keys(plan: Plan, say: Say) -> Iterator[Row]:
    """Listing and set-difference of many keys, half of which are scored; see `keys`."""
    say(f"listing and set-difference of {plan.keys:,} keys")
    command = [sys.executable, "-m", "tests.benchmarks.bench.keys", "--keys", str(plan.keys)]
    done = subprocess.run(command, check=True, cwd=ROOT, env=environment(1), capture_output=True, text=True)
    answer = json.loads(done.stdout)
    name = f"{plan.keys:,} keys"
    yield row_of(name, "listing, without the server", "s", [answer["listing_s"]])
    yield row_of(name, "set-difference with SQLite", "s", [answer["difference_s"]])
    for word in ("before", "peak"):
        text = "memory before the listing" if word == "before" else "memory at its highest"
        yield row_of(name, text, "MB", [answer[f"{word}_bytes"] / 1e6])


@contextmanager
def _postgres() -> Iterator[str | None]:
    """The URL of a throw-away PostgreSQL; None where its server is not installed."""
    programs = server_programs()
    if programs is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="inspection-bench-") as folder:
        cluster = Cluster(programs, Path(folder))
        cluster.start()
        try:
            yield f"{cluster.server}/postgres"
        finally:
            cluster.stop("immediate")
