"""Which lines there are, for those who must not wait until the settings of a line, and torch with them, are read."""

from pathlib import Path


def list_lines(lines_dir: Path) -> list[str]:
    """The names of all lines, sorted; empty when the folder does not exist."""
    return sorted(path.stem for path in lines_dir.glob("*.toml"))
