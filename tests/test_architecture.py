"""docs/architecture.md is a map of what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAP = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:ganomaly|tasks|flows|deployments|infra|tests|docs)/[\w./-]*)`", MAP)))


def test_the_map_names_files() -> None:
    """The test below would pass for an empty map."""
    assert len(NAMED) > 30


@pytest.mark.parametrize("name", NAMED)
def test_what_the_map_names_is_there(name: str) -> None:
    """A newcomer would look for a file that was moved."""
    assert (ROOT / name).exists()


def test_every_room_is_on_the_map() -> None:
    """A folder would be missing from the map, or hold more files than a room should."""
    for package in ("ganomaly", "tasks"):
        for folder in (ROOT / package).iterdir():
            files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
            assert len(files) <= 12, f"{folder} has {len(files)} files"
