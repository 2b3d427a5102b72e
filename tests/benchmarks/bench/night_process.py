"""A process of the benchmark's plant: makes and registers its model, lists a day, or scores it through the flow.

    python -m tests.benchmarks.bench.night_process '{"job": "score", "day": "2026-03-02"}'

Prints one line of JSON and ends. Prefect and MLflow are imported after the clock has started: their start is a part of
what a night costs.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Iterable
from datetime import UTC, date, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from tests.benchmarks.bench.data import cell_files
from tests.benchmarks.bench.plant import LINE

if TYPE_CHECKING:
    from prefect.client.schemas.objects import TaskRun

STARTED = time.perf_counter()


def prepare(images: int) -> dict[str, Any]:
    """Train the line's detector on good cells, save it, register it as champion."""
    import cv2

    from ganomaly import Detector
    from tasks.registry.versions import CHAMPION, model_name
    from tasks.systems import open_systems

    systems = open_systems(LINE)
    config, cells = systems.line.detector, list(islice(cell_files(defective=False), images))
    config = config.fitted_to(cells)
    detector = Detector(config, device="cpu", snapshot_id="benchmark")
    prepared = list(detector.prepare_all(cells))
    for _ in detector.learn(prepared, detector.plan(prepared)):
        pass
    folder = systems.settings.work_dir / "detector"
    detector.save(folder)
    assert detector.calibration is not None
    calibration = detector.calibration.id
    tags = {"snapshot_id": "benchmark", "calibration_id": calibration, "code_version": "benchmark"}
    assert prepared[0].pixels is not None
    example = cv2.imencode(".png", prepared[0].pixels)[1].tobytes()
    with systems.registry.training_run(LINE, "benchmark", {"line": LINE}) as run:
        version = run.log_model(folder, example, tags, model_name(LINE))
    systems.registry.set_alias(version, CHAMPION)
    return {"version": version.version}


def look(day: str) -> dict[str, Any]:
    """List a day, so that rclone computes each object's MD5; other S3 servers do so once, when it is written."""
    from tasks.systems import open_systems

    return {"images": sum(1 for _ in open_systems(LINE).objects.list_objects(f"images/{LINE}/{day}/"))}


def score(day: str) -> dict[str, Any]:
    """Score a day through the flow ``score-batch``.

    Returns:
        ``counts`` of the night; ``flow_s`` of the flow; ``started_s`` until it began; ``tasks``, the seconds of the
        flow's tasks by name, as Prefect recorded them; ``done_s`` from the flow's call until its last task had ended;
        ``peak_bytes``, the process's highest resident memory.
    """
    from dataclasses import asdict

    from flows.score_batch import score_batch

    imported, called = time.perf_counter(), datetime.now(UTC)
    night = score_batch(LINE, date.fromisoformat(day), device="cpu")
    ended = time.perf_counter()
    runs = task_runs()
    return {
        "counts": asdict(night.counts),
        "flow_s": ended - imported,
        "started_s": imported - STARTED,
        "tasks": task_seconds(runs),
        "done_s": (max(run.end_time for run in runs if run.end_time) - called).total_seconds(),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def task_runs() -> list["TaskRun"]:
    """The newest flow run's tasks."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        newest = client.read_flow_runs(sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=1)[0]
        return client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[newest.id])))


def task_seconds(runs: Iterable["TaskRun"]) -> dict[str, float]:
    """Seconds of tasks by the task's name."""
    seconds: dict[str, float] = {}
    for run in runs:
        name = run.name.rsplit("-", 1)[0] if run.name.count("-") else run.name.split()[0]
        seconds[name] = seconds.get(name, 0.0) + run.total_run_time.total_seconds()
    return seconds


def main() -> None:
    """Do the job that the argument names; libraries' prints go to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.loads(sys.argv[1])
    answer = {"prepare": prepare, "look": look, "score": score}[request.pop("job")](**request)
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
