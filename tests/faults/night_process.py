"""Runs flows in processes that can be killed, many times over, without waiting ten seconds for imports each time.

As a script this is a warm process: it has imported everything and done nothing, reads one JSON request per line and
answers each with one line. `{"flow": ..., "arguments": {...}, "environment": {...}, "journal": path}` forks a child
that runs the flow and gives its process id; `{"wait": pid, "block": true}` gives the child's exit status, null while it
runs. `Nights` is the class that talks to it.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any, Self

FLOWS = ("ingest_images", "train_ganomaly", "score_batch", "nightly")


def main() -> None:
    """Serve requests until standard input ends."""
    import torch  # noqa: PLC0415 - only the warm process and its children need all this

    from flows.ingest_images import ingest_images  # noqa: PLC0415
    from flows.nightly import nightly  # noqa: PLC0415
    from flows.score_batch import score_batch  # noqa: PLC0415
    from flows.train_ganomaly import train_ganomaly  # noqa: PLC0415

    flows = dict(zip(FLOWS, (ingest_images, train_ganomaly, score_batch, nightly), strict=True))
    torch.set_num_threads(1)
    _warm_up()
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        request = json.loads(line)
        if "flow" in request:
            answer: int | None = os.fork()
            if answer == 0:
                _run(flows[request["flow"]], request)
        else:
            pid, status = os.waitpid(request["wait"], 0 if request["block"] else os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(answer), flush=True)  # noqa: T201


def _warm_up() -> None:
    """Read what flows read at their first use: SQLAlchemy's dialects, migrations, MLflow's stores, S3's service."""
    import boto3  # noqa: PLC0415
    import mlflow.store.model_registry.sqlalchemy_store  # noqa: PLC0415
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401, PLC0415
    import psycopg  # noqa: F401, PLC0415

    from tasks.store.store import ReportStore  # noqa: PLC0415

    with ReportStore("sqlite://") as store:
        store.prepare()
    boto3.client("s3", region_name="us-east-1", aws_access_key_id="none", aws_secret_access_key="none")


def _run(flow: Any, request: dict[str, Any]) -> None:
    """Run the flow in this forked process and end it: 0, or 1 if the flow raised."""
    status = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(request["journal"] + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for target, source in ((0, nothing), (1, log), (2, log)):
            os.dup2(source, target)
        os.environ.update(request["environment"])
        _write_journal(request["journal"])
        arguments = request["arguments"]
        days = {name: date.fromisoformat(arguments[name]) for name in arguments if name.startswith(("window", "prod"))}
        flow(**{**arguments, **days})
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _write_journal(path: str) -> None:
    """Write the key of every image that this process commits, so that work done twice shows."""
    from tasks.store.images import Images  # noqa: PLC0415
    from tasks.store.scores import Scores  # noqa: PLC0415

    commit_scores, commit_images = Scores.commit, Images.commit

    def note(keys: Iterable[str]) -> None:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write("".join(f"{key}\n" for key in keys))

    def scores(self: Any, run_id: str, judged: Any, failures: Any) -> Any:
        done = commit_scores(self, run_id, judged, failures)
        note(one.image.key for one in judged)
        return done

    def images(self: Any, line: str, rows: Any) -> Any:
        done = commit_images(self, line, rows)
        note(row.key for row in rows)
        return done

    Scores.commit = scores  # type: ignore[method-assign]
    Images.commit = images  # type: ignore[method-assign]


class Nights:
    """The warm process, for the ``with`` block.

    Args:
        environment: its environment variables, and those of its children.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        root = Path(__file__).resolve().parents[2]
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env={**environment, "PYTHONPATH": str(root)},
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"the warm process ended with status {self._process.wait()}")
        self._running: set[int] = set()
        self._ended: dict[int, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in list(self._running):
            self.kill(pid)
        self._process.communicate()  # closes its input, which ends it

    def start(self, flow: str, journal: Path, environment: dict[str, str], **arguments: Any) -> int:
        """Start a flow in a process of its own; gives its process id."""
        pid = self._ask(flow=flow, arguments=arguments, environment=environment, journal=str(journal))
        self._running.add(pid)
        return pid

    def status(self, pid: int, *, block: bool = False) -> int | None:
        """Exit status of a process, negative for the signal that ended it; None while it runs."""
        if pid not in self._ended:
            status = self._ask(wait=pid, block=block)
            if status is None:
                return None
            self._running.discard(pid)
            self._ended[pid] = status
        return self._ended[pid]

    def run(self, flow: str, journal: Path, environment: dict[str, str], **arguments: Any) -> int:
        """Run a flow to its end; gives its exit status."""
        status = self.status(self.start(flow, journal, environment, **arguments), block=True)
        assert status is not None
        return status

    def kill(self, pid: int) -> int:
        """SIGKILL; gives the exit status, which says whether the process was still running."""
        if pid not in self._ended:
            os.kill(pid, signal.SIGKILL)
        status = self.status(pid, block=True)
        assert status is not None
        return status

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


if __name__ == "__main__":
    main()
