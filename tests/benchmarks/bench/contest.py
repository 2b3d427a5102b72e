"""Contestants in processes of their own, measured in turns, so that what else the machine does hits all of them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]

OURS, AUTHORS, ANOMALIB = "ours", "the authors' way, plain fp32", "anomalib"
"""Names of the contestants in tables."""

FULL = f"{OURS}, both heads"
"""Ours with its default score instead of the paper's."""


class ContestantError(RuntimeError):
    """A contestant could not do a job."""


class Contestant:
    """A process that carries out jobs one after the other, see `serving`.

    Args:
        name: for tables.
        command: what to start.
        threads: of OpenMP and torch.
        log: where its standard error goes.
        env: instead of `environment(threads)`.
    """

    def __init__(
        self, name: str, command: Sequence[str], threads: int, log: Path, env: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self.threads = threads
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                cwd=ROOT,
                env=env or environment(threads),
            )
        self.do("set_threads", threads=threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it may have died
            self._process.stdin.close()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def do(self, job: str, **arguments: Any) -> dict[str, float]:
        """Carry out a job and wait for its answer.

        Raises:
            ContestantError: if the job fails or the process is gone; names its log.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"job": job, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": f"ended with status {self._process.poll()}"}
        if "error" in answer:
            raise ContestantError(f"{self.name}: {job}: {answer['error']}; its output is {self._log}")
        return answer


@dataclass(frozen=True)
class Entry:
    """A contestant with the job it is measured by.

    Attributes:
        name: in tables.
        contestant: who does it.
        job: its name there.
        arguments: of the job.
    """

    name: str
    contestant: Contestant
    job: str
    arguments: dict[str, Any]


def compete(entries: Sequence[Entry], rounds: int, warm_up: dict[str, Any]) -> dict[str, list[dict[str, float]]]:
    """Measure the entries in turns.

    Args:
        entries: in the order of their turns.
        rounds: how often each is measured.
        warm_up: arguments that shorten the first, unmeasured turn.

    Returns:
        For each entry's name what its job answered, one for each round.
    """
    for entry in entries:
        entry.contestant.do(entry.job, **entry.arguments | warm_up)
    answers: dict[str, list[dict[str, float]]] = {entry.name: [] for entry in entries}
    for _ in range(rounds):
        for entry in entries:
            answers[entry.name].append(entry.contestant.do(entry.job, **entry.arguments))
    return answers


@contextmanager
def contestants(threads: int, folder: Path, anomalib: Path | None) -> Iterator[dict[str, Contestant]]:
    """Start the contestants, each in a process of its own.

    Args:
        threads: of torch, the same for all.
        folder: where their logs go.
        anomalib: the Python of anomalib's environment; None leaves it out.
    """
    commands = {
        OURS: [sys.executable, "-m", "tests.benchmarks.bench.contestant_ours"],
        AUTHORS: [sys.executable, "-m", "tests.benchmarks.bench.contestant_plain"],
    }
    if anomalib is not None:
        commands[ANOMALIB] = [str(anomalib), str(HERE / "contestant_anomalib.py")]
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(Contestant(name, command, threads, folder / f"{number}.log"))
            for number, (name, command) in enumerate(commands.items())
        }


def environment(threads: int) -> dict[str, str]:
    """The environment of a measured process: so many threads, this checkout's code, nothing sent home."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "ANOMALIB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }
