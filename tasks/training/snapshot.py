"""The manifest of the images that a detector was trained on: its content hash, and its form as a file.

Columns, all text: key, etag, sha256, part, role (``train``, ``fit`` or ``calibrate``).
"""

import csv
import hashlib
from pathlib import Path

import pandas as pd

COLUMNS = ("key", "etag", "sha256", "part", "role")
_HASHED = ["key", "etag", "sha256", "role"]


class ManifestError(ValueError):
    """A file that is no manifest."""


def snapshot_id(manifest: pd.DataFrame) -> str:
    """Content hash of a manifest: SHA-256 of its rows by key, the first 16 hexadecimal digits."""
    # str: the text counts, not whether numpy or Python holds it
    rows = sorted(tuple(map(str, row)) for row in manifest[_HASHED].itertuples(index=False, name=None))
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def write_manifest(manifest: pd.DataFrame, path: Path) -> None:
    """Write a manifest as CSV. All is quoted: a key may hold a line break, and unquoted CSV loses a lone one."""
    manifest.to_csv(path, index=False, lineterminator="\n", quoting=csv.QUOTE_ALL)


def read_manifest(path: Path) -> pd.DataFrame:
    """Read what `write_manifest` wrote, every cell as the text that it is.

    Raises:
        ManifestError: if the file is damaged or has other columns; says which.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, strict=True)
    except (csv.Error, ValueError) as error:
        raise ManifestError(f"{path.name}: is no CSV table ({error})") from None
    if missing := [name for name in COLUMNS if name not in header]:
        raise ManifestError(f"{path.name}: has no column {', '.join(missing)}; found {', '.join(header)}")
    if any(len(row) != len(header) for row in rows):
        raise ManifestError(f"{path.name}: has rows that are not {len(header)} cells long")
    return pd.DataFrame(rows, columns=header, dtype=object)
