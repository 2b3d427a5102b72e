"""A plant of the benchmark's own: an S3 server over a folder, a Prefect server, a line with a model, days of images."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from infra.local_s3 import LocalS3
from tests.benchmarks.bench.contest import ROOT, environment
from tests.benchmarks.bench.data import lay_out_day
from tests.benchmarks.bench.plan import Plan
from tests.benchmarks.bench.processes import Usage, child_named, watching
from tests.prefect_server import PrefectServer, running_prefect_server

BUCKET = "plant"
LINE = "bench"
FIRST_DAY = date(2026, 3, 2)
TRAINED_ON = 400
FIRST_NIGHT = 16
A_DAY_S = 86_400
LOOKED_AGAIN_S = 1.0


class NightError(RuntimeError):
    """A process of the plant failed."""


@dataclass(frozen=True)
class Night:
    """What one scoring of a day came to.

    Attributes:
        images: that were listed.
        answer: what the process said of itself, see `night_process`.
        own: what the process used.
        s3: what the S3 server used meanwhile.
        prefect: what the Prefect server used meanwhile.
    """

    images: int
    answer: dict[str, Any]
    own: Usage
    s3: Usage
    prefect: Usage


class Plant:
    """A running plant; made by `open_plant`."""

    def __init__(self, folder: Path, threads: int, s3: LocalS3, prefect: PrefectServer) -> None:
        self.folder = folder
        self.threads = threads
        self.s3 = s3
        self.s3_pid = child_named("rclone")
        self.prefect = prefect
        self._days = 0

    @property
    def detector(self) -> Path:
        """The folder of the saved detector."""
        return self.folder / "detector"

    def environment(self, threads: int | None = None) -> dict[str, str]:
        """The environment of a process of this plant."""
        ours = {
            **self.s3.environment(),
            "INSPECTION_WORK_DIR": str(self.folder),
            "INSPECTION_BUCKET": BUCKET,
            "INSPECTION_LINES_DIR": str(self.folder / "lines"),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": self.prefect.url,
            "PREFECT_LOGGING_COLORS": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        kept = environment(threads or self.threads)
        foreign = ("INSPECTION_", "PREFECT_", "MLFLOW_", "AWS_")
        return {name: value for name, value in kept.items() if not name.startswith(foreign)} | ours

    def new_day(self, n_images: int, defective_share: float, image_px: int = 0) -> date:
        """Make a day of so many images and give its date; the S3 server then knows their MD5, as after an upload."""
        day = FIRST_DAY + timedelta(days=self._days)
        self._days += 1
        lay_out_day(self.folder / "bucket" / BUCKET, LINE, day, n_images, defective_share, image_px)
        self.s3.look_again()
        time.sleep(LOOKED_AGAIN_S)
        self.run("look", day=day.isoformat())
        return day

    def score(self, day: date) -> Night:
        """Score a day in a process of its own, as a worker would.

        Raises:
            NightError: if it fails; names its log.
        """
        answer, own, s3, prefect = self.run("score", day=day.isoformat())
        return Night(int(answer["counts"]["listed"]), answer, own, s3, prefect)

    def run(self, job: str, **arguments: Any) -> tuple[dict[str, Any], Usage, Usage, Usage]:
        """Run one job of `night_process`; gives its answer, and what it, the S3 server and the Prefect server used.

        Raises:
            NightError: if it fails; names its log.
        """
        log = self.folder / "logs" / f"{job}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.benchmarks.bench.night_process", json.dumps({"job": job, **arguments})]
        with log.open("ab") as output, watching(self.s3_pid) as s3, watching(self.prefect.process.pid) as prefect:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=output, text=True, cwd=ROOT, env=self.environment()
            )
            with watching(process.pid) as own:
                assert process.stdout is not None
                text = process.stdout.readline()  # it waits with its end until we have looked at what it used
            process.stdout.close()
            status = process.wait()
        if status or not text:
            raise NightError(f"{job} ended with status {status}; its output is {log}")
        return json.loads(text), own, s3, prefect


@contextmanager
def open_plant(plan: Plan, threads: int) -> Iterator[Plant]:
    """Start the servers, write a line's file with the defaults, train on good cells and register the champion."""
    with started_plant(plan.folder / "plant", threads, 'input = "features"\n') as plant:
        plant.run("prepare", images=TRAINED_ON if plan.seconds >= 1 else 150)
        plant.score(plant.new_day(FIRST_NIGHT, plan.defective_share))  # the servers warm up as well
        yield plant


@contextmanager
def started_plant(folder: Path, threads: int, line: str) -> Iterator[Plant]:
    """Start the servers and write the line's file; there is no model yet."""
    folder = folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "lines").mkdir(parents=True)
    (folder / "bucket" / BUCKET).mkdir(parents=True)
    (folder / "lines" / f"{LINE}.toml").write_text(f'name = "{LINE}"\n{line}', encoding="utf-8")
    with (
        LocalS3(folder / "bucket", log_file=folder / "logs" / "s3.log", listing_delay_s=A_DAY_S) as s3,
        running_prefect_server(folder / "prefect", os.environ) as prefect,
    ):
        yield Plant(folder, threads, s3, prefect)
