"""A Prefect server in a process of its own, as a plant has one, for the tests and benchmarks that need it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PREFECT = str(Path(sys.executable).with_name("prefect"))
START_TIMEOUT_S = 180


@dataclass(frozen=True)
class PrefectServer:
    """A server that answers.

    Attributes:
        url: of its API, for `PREFECT_API_URL`.
        process: leads a process group of its own.
    """

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def running_prefect_server(home: Path, env: Mapping[str, str]) -> Iterator[PrefectServer]:
    """A server on a free port of the loopback interface while the block runs; its log is ``HOME/server.log``.

    Args:
        home: Prefect's folder, with its database.
        env: the environment; Prefect's variables in it are left out.

    Raises:
        RuntimeError: if it does not start; says what it wrote.
    """
    port = _free_port()
    kept = {name: value for name, value in env.items() if not name.startswith("PREFECT_")}
    settings = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    home.mkdir(parents=True, exist_ok=True)
    log = home / "server.log"
    command = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            env={**kept, **settings},
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    server = PrefectServer(f"http://127.0.0.1:{port}/api", process)
    try:
        _wait_until_healthy(server, log)
        yield server
    finally:
        stop_group(process)


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group, and all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_healthy(server: PrefectServer, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            urllib.request.urlopen(f"{server.url}/health", timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"the Prefect server did not start:\n{log.read_text(errors='replace')[-3000:]}")
