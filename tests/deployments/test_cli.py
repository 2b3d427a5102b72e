"""The command `inspection`."""

import subprocess
import sys
from pathlib import Path

import pytest

INSPECTION = str(Path(sys.executable).with_name("inspection"))
LINE_FILE = """
name = "plates"
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
    assert done.stdout == "plates: Striped plates (images/plates/, UTC, learns from features)\n"
    path.write_text(LINE_FILE + "[training]\nepochs = 0\nepoch = 3\n")
    done = run("lines")
    assert done.returncode == 1
    assert "plates.toml: training.epochs = 0: input should be greater than or equal to 1" in done.stderr
    assert "plates.toml: training.epoch: there is no such key; allowed here: batch_size" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("environment")
def test_all_line_files_are_checked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second mistake would be found after the first is mended, or a missing folder pass for no mistake."""
    for name in ("a", "b", "c"):
        (tmp_path / "lines" / f"{name}.toml").write_text(
            f'name = "{name}"\n' + "[training]\nepochs = 0\n" * (name != "b")
        )
    done = run("lines")
    assert done.returncode == 1
    assert done.stdout == "b: no description (images/b/, UTC, learns from features)\n"
    assert all(f"{name}.toml: training.epochs = 0" in done.stderr for name in ("a", "c"))
    monkeypatch.setenv("INSPECTION_LINES_DIR", str(tmp_path / "nowhere"))
    done = run("lines")
    assert done.returncode == 1
    assert "nowhere: there is no line file; INSPECTION_LINES_DIR names the folder" in done.stderr


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("INSPECTION_LEASE_S", "abc", "error: INSPECTION_LEASE_S: Input should be a valid number"),
        ("INSPECTION_STORE_URL", "foo", "INSPECTION_STORE_URL is no address of a database"),
        ("PREFECT_API_URL", "http://127.0.0.1:9/api", "Prefect: Failed to reach API at http://127.0.0.1:9/api"),
    ],
)
def test_a_wrong_variable_is_one_line(
    variable: str, value: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person would get a hundred lines of traceback for a typing mistake, or for a server that is down."""
    (tmp_path / "lines" / "plates.toml").write_text(LINE_FILE)
    monkeypatch.setenv(variable, value)
    done = run("nightly", "plates", "--date", "2026-03-08")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert words in line
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
        "catch-up",
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
def test_a_store_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    """Broken if the audit takes a wrong address for an empty record, or a program that reads its JSON gets a half."""
    done = run("trace", "p1", "--json")
    assert done.returncode == 1
    assert done.stdout == ""
    (said,) = done.stderr.strip().splitlines()
    assert said.startswith(f"error: report store sqlite:///{tmp_path}/inspection.db: there is no such file; name the")
    assert not (tmp_path / "inspection.db").exists()
