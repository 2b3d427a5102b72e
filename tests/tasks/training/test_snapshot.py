"""The manifest of a snapshot, as a file and as a hash."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tasks.training.snapshot import COLUMNS, ManifestError, read_manifest, snapshot_id, write_manifest

KEYS = ["plain", "a\nb", "c\rd", "e\r\nf", 'q"uo,te', "NA", " space ", "", "007", "ü€", "=cmd", "\u2028", "null", "1e5"]


def manifest_of(keys: list[str]) -> pd.DataFrame:
    """One image to train for each key."""
    return pd.DataFrame([(key, "e1", "ab" * 32, "p", "train") for key in keys], columns=list(COLUMNS))


def test_any_key_survives_the_file(tmp_path: Path) -> None:
    """Broken if a key with line breaks, quotes or the look of a number comes back changed, and the check fails."""
    written = manifest_of(KEYS)
    write_manifest(written, tmp_path / "manifest.csv")
    read = read_manifest(tmp_path / "manifest.csv")
    assert list(read["key"]) == KEYS
    assert snapshot_id(read) == snapshot_id(written)


def test_the_id_is_of_the_content() -> None:
    """Broken if the order of images or a library's kind of text changes a snapshot's id, or another role does not."""
    manifest = manifest_of(["a", "b"])
    assert snapshot_id(manifest) == "a99568ceea3590e7"
    assert snapshot_id(manifest.iloc[::-1]) == "a99568ceea3590e7"
    assert snapshot_id(manifest.astype(object).map(np.str_)) == "a99568ceea3590e7"
    for column in ("key", "etag", "sha256", "role"):
        altered = manifest.copy()
        altered.loc[1, column] = "x"
        assert snapshot_id(altered) != "a99568ceea3590e7"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is no CSV table"),
        ("key,etag\na,b\n", "has no column sha256, part, role"),
        ('"key","etag","sha256","part","role"\n"a","b"\n', "rows that are not 5 cells"),
        ('"key","etag","sha256","part","role"\n"a","b', "is no CSV table"),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, text: str, problem: str) -> None:
    """Broken if a cut or foreign file passes for a manifest or ends in a traceback."""
    path = tmp_path / "manifest.csv"
    path.write_text(text)
    with pytest.raises(ManifestError, match=problem):
        read_manifest(path)
