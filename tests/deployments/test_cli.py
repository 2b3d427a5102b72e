"""The command `inspection`."""

import subprocess
import sys
from pathlib import Path

import pytest

INSPECTION = str(Path(sys.executable).with_name("inspection"))
LINE_FILE = """
line = "plates"
description = "Striped plates"
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command."""
    return subprocess.run([INSPECTION, *arguments], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.usefixtures("environment")
def test_lines_are_checked_and_listed(tmp_path: Path) -> None:
    """Broken if a mistake in a line file is not found, or is told without file, key, value and what is allowed."""
    path = tmp_path / "lines" / "plates.toml"
    path.write_text(LINE_FILE)
    done = run("lines")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "plates: Striped plates (images/plates/, UTC)\n"
    path.write_text(LINE_FILE + "[training]\nepochs = 0\nepoch = 3\n")
    done = run("lines")
    assert done.returncode == 1
    assert "plates.toml: training.epochs = 0: input should be greater than or equal to 1" in done.stderr
    assert "plates.toml: training.epoch: there is no such key; allowed here: batch_size" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("environment")
def test_the_store_is_created(tmp_path: Path) -> None:
    """Broken if `inspection db upgrade` does not make a store that the flows accept."""
    done = run("db", "upgrade")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "inspection.db").exists()
    assert done.stdout.endswith("up to date\n")


def test_help_explains_every_command() -> None:
    """Broken if a command is missing or has no explanation."""
    done = run("--help")
    assert done.returncode == 0
    commands = (
        "demo",
        "lines",
        "ingest",
        "train",
        "score",
        "nightly",
        "trace",
        "verify",
        "runs",
        "flagged",
        "review",
        "db",
    )
    for command in commands:
        assert f"│ {command} " in done.stdout


@pytest.mark.usefixtures("environment")
def test_an_empty_store_is_told_without_a_traceback() -> None:
    """Broken if the audit fails with a traceback, or a program that reads its JSON gets half an answer."""
    done = run("trace", "p1", "--json")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.strip().splitlines()[-1].startswith("error: the report store sqlite:")
    assert "Traceback" not in done.stderr
