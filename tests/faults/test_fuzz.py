"""The short form of the fuzz (`fuzz.py`), that the fuzz itself sees what it looks for, and keys drawn by hypothesis."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.lines.line import LineConfig

FUZZ = Path(__file__).with_name("fuzz.py")
NEEDS_LINUX = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="limits a process's memory as Linux does"
)

# in the processes that try files, four files do what a broken decoder would do
DEADLY = """
import multiprocessing, os, signal, sys, time
sys.path.insert(0, {folder!r})
import fuzz

def deadly_file(seed, number, real=fuzz.mutated_file):
    if multiprocessing.parent_process() is not None:
        if number == 1:
            raise KeyError("nobody catches this")
        if number == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == 4:
            time.sleep(600)
        if number == 6:
            deadly_file.held = b"x" * 200_000_000
    return real(seed, number)

fuzz.mutated_file = deadly_file
if __name__ == "__main__":
    sys.exit(fuzz.main())
"""


def run_fuzz(program: Path, *arguments: str) -> tuple[int, dict[str, object]]:
    """Exit status and summary."""
    command = [sys.executable, str(program), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout)


@NEEDS_LINUX
@pytest.mark.fault(
    area="Image file",
    fault="100,000 mutated files: bits, fields, lengths, splices (2,000 of them in the tests)",
    outcome="an image or a reason; no crash, no hang, at most 256 MB",
)
@pytest.mark.fault(
    area="Key",
    fault="100,000 mutated keys, in four layouts",
    outcome="parsed or not an image of the line; no exception",
)
def test_mutated_files_and_keys_have_an_outcome(tmp_path: Path) -> None:
    """Broken if a damaged file or key raises anything unexpected, kills or blocks the process, or eats its memory."""
    status, summary = run_fuzz(FUZZ, "--files", "2000", "--seed", "7", "--seconds", "60", "--save", str(tmp_path))
    assert (status, summary["findings"]) == (0, [])
    outcomes = summary["outcomes"]
    assert sum(outcomes.values()) == 3 * 2000
    assert min(outcomes[name] for name in ("image", "truncated", "unreadable", "key of an image")) > 100


@NEEDS_LINUX
def test_the_fuzz_sees_and_saves_what_it_looks_for(tmp_path: Path) -> None:
    """Broken if a crash, a hang, lost memory or a stray exception goes unnoticed, or its file cannot be found."""
    program = tmp_path / "deadly.py"
    program.write_text(DEADLY.format(folder=str(FUZZ.parent)), encoding="utf-8")
    saved = tmp_path / "saved"
    limits = ("--seconds", "10", "--memory-mb", "150", "--save", str(saved))
    status, summary = run_fuzz(program, "--files", "7", *limits)
    assert status == 1
    said = dict(finding.split(": ", 1) for finding in summary["findings"])
    assert {Path(path).name: text.split("\n")[0] for path, text in said.items() if "-6." not in path} == {
        "0-1.bin": "KeyError: 'nobody catches this'",
        "0-2.bin": "the process ended with -11",
        "0-4.bin": "the process was silent for too long",
    }
    assert said[f"{saved}/0-6.bin"].startswith("took ")
    assert all(Path(path).is_file() for path in said)
    assert "deadly_file" in said[f"{saved}/0-2.bin"]  # where it died


PATTERNS = ("{date}/{part}/{view}.{ext}", "{date}/{part}.png", "{part}_{view}_{date}.png", "{view}-{part}/{date}/x.png")
LINES = {
    pattern: LineConfig.model_validate({"name": "cells", "images": {"prefix": "cells/", "key_pattern": pattern}})
    for pattern in PATTERNS
}
NAMES = st.text(st.characters(exclude_characters="/\x00", exclude_categories=["Cs"]), min_size=1, max_size=40)


@settings(deadline=None, max_examples=300)
@given(pattern=st.sampled_from(PATTERNS), part=NAMES, view=NAMES, day=st.dates())
def test_any_name_without_a_slash_is_a_part(pattern: str, part: str, view: str, day: date) -> None:
    """Broken if a character in a part's name makes an image a stray, or its fields do not make up its key again."""
    key = "cells/" + pattern.format(date=day, part=part, view=view, ext="png")
    fields = LINES[pattern].parse_key(key)
    assert fields is not None
    assert "cells/" + pattern.format(date=fields.date, part=fields.part, view=fields.view, ext="png") == key
    if pattern.startswith("{date}/{part}"):
        assert (fields.date, fields.part, fields.view) == (day, part, view if "{view}" in pattern else "")


@settings(deadline=None, max_examples=300)
@given(pattern=st.sampled_from(PATTERNS), key=st.text(st.characters(exclude_categories=["Cs"]), max_size=1024))
def test_any_text_is_a_key_or_none(pattern: str, key: str) -> None:
    """Broken if some object's key ends the night with an exception."""
    fields = LINES[pattern].parse_key(f"cells/{key}")
    assert fields is None or fields.date.isoformat() in key
