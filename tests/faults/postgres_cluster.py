"""A PostgreSQL server of the tests' own, which goes away and comes back when they say so."""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

POSTGRES_FOLDERS = ("usr/lib/postgresql/*/bin", "opt/homebrew/opt/postgresql*/bin", "usr/local/opt/postgresql*/bin")


class Cluster:
    """A PostgreSQL cluster that a test can stop and start."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(folder, "nobody")
            self._user = {"user": "nobody", "extra_groups": []}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._call("initdb", "-U", "inspection", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        rules = folder / "data" / "pg_hba.conf"
        rules.write_text(f"host all careful 127.0.0.1/32 scram-sha-256\n{rules.read_text('utf-8')}", encoding="utf-8")

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = f"-h 127.0.0.1 -p {self.port} -k {self._folder} -F"
        self._call("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self, mode: str) -> None:
        """``fast`` throws out all clients, ``immediate`` is as good as a crash."""
        self._call("pg_ctl", "-w", "-m", mode, "stop")

    @contextmanager
    def down(self) -> Iterator[None]:
        """Not there for as long as the block takes."""
        self.stop("fast")
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def away(self, seconds: float, mode: str = "fast") -> Iterator[None]:
        """Not there for some seconds from now on; there again at the end."""
        self.stop(mode)
        back = threading.Timer(seconds, self.start)
        back.start()
        try:
            yield
        finally:
            back.join()

    @property
    def server(self) -> str:
        """The URL without a database. The password is not asked for; it must not show up anywhere."""
        return f"postgresql+psycopg://inspection:geheim@127.0.0.1:{self.port}"

    def _call(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), "-D", str(self._folder / "data"), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self._folder, **self._user)


def server_programs() -> Path | None:
    """The folder of PostgreSQL's `initdb` and `pg_ctl`; None where the server is not installed."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += [folder for pattern in POSTGRES_FOLDERS for folder in sorted(Path("/").glob(pattern), reverse=True)]
    return next((folder for folder in folders if (folder / "pg_ctl").is_file()), None)


def tell(url: str, statement: str) -> list[Any]:
    """Carry out a statement on a connection of its own; the first column of what it gives."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        result = connection.exec_driver_sql(statement)
        found = list(result.scalars()) if result.returns_rows else []
    engine.dispose()
    return found
