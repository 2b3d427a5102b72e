"""Which code ran: the installed version and, in a git checkout, the commit."""

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DISTRIBUTION = "ganomaly-inspection"


@cache
def code_version() -> str:
    """For example ``0.1.0+g1a2b3c4d``; ``.dirty`` is appended when tracked files differ from the commit."""
    try:
        release = version(DISTRIBUTION)
    except PackageNotFoundError:
        release = "0"
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return release
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=.dirty", "--exclude=*", "--abbrev=8"]
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments, no shell reads them
            command, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return release
    return f"{release}+g{done.stdout.strip()}"
