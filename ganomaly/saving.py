"""The saved form of a detector: a folder of one JSON and two safetensors files. Nothing in it is executable.

- detector.json: configuration, snapshot id, versions, and the SHA-256 of all three (its own without the hashes)
- weights.safetensors: the networks of the model
- calibration.safetensors: statistics of the score and the heat map, calibration scores

The hashes find damage and mix-ups. They are no signature: whoever may write the folder can write another detector.
"""

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ganomaly.errors import DetectorFileError

FORMAT_VERSION = 13
"""The only one that is read: detectors of earlier ones were never released."""
DESCRIPTION_FILE = "detector.json"
WEIGHTS_FILE = "weights.safetensors"
CALIBRATION_FILE = "calibration.safetensors"
FILES = (DESCRIPTION_FILE, WEIGHTS_FILE, CALIBRATION_FILE)


def write_files(
    folder: Path, description: Mapping[str, Any], weights: Mapping[str, Tensor], calibration: Mapping[str, Tensor]
) -> None:
    """Write the three files; ``detector.json`` last, so that an interrupted save is never taken for a whole one.

    Args:
        folder: is made, if need be.
        description: what ``detector.json`` holds besides format and hashes, JSON types only.
        weights: state of the networks by name.
        calibration: statistics and calibration scores by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)  # where it is a link, what it leads to stays as it is
    hashes = {}
    for name, tensors in ((WEIGHTS_FILE, weights), (CALIBRATION_FILE, calibration)):
        data = save_tensors({key: tensor.contiguous() for key, tensor in tensors.items()})
        (folder / name).write_bytes(data)
        hashes[name] = hashlib.sha256(data).hexdigest()
    document: dict[str, Any] = {"format_version": FORMAT_VERSION, **description}
    document["sha256"] = {**hashes, DESCRIPTION_FILE: _content_sha256(document)}
    (folder / DESCRIPTION_FILE).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_files(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Read and check the three files: description, weights and calibration, see `write_files`.

    Raises:
        DetectorFileError: if a file is missing, unreadable, altered, a link, of a newer format, or none of the three;
            names it.
    """
    document = _read_description(folder / DESCRIPTION_FILE)
    if added := sorted(path.name for path in folder.iterdir() if path.name not in FILES):
        raise DetectorFileError(
            f"{folder / added[0]}: is not part of a detector: remove it, nothing else may lie there"
        )
    hashes = document["sha256"]
    weights, calibration = (_read_tensors(folder / name, hashes.get(name)) for name in (WEIGHTS_FILE, CALIBRATION_FILE))
    description = {key: value for key, value in document.items() if key not in ("format_version", "sha256")}
    return description, weights, calibration


def _read_description(path: Path) -> dict[str, Any]:
    data = _read(path)
    try:
        document: dict[str, Any] = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DetectorFileError(f"{path}: is no valid JSON ({error}): damaged, fetch the detector again") from None
    version = document.get("format_version") if isinstance(document, dict) else None
    if not isinstance(version, int) or not isinstance(document.get("sha256"), dict):
        raise DetectorFileError(f"{path}: has no format_version or sha256: this is no detector")
    if version > FORMAT_VERSION:
        raise DetectorFileError(
            f"{path}: format_version {version} is newer than {FORMAT_VERSION}, the newest that this version of "
            "ganomaly reads: upgrade it"
        )
    if version < FORMAT_VERSION:
        raise DetectorFileError(
            f"{path}: format_version {version} is older than {FORMAT_VERSION}, the only one that this version of "
            "ganomaly reads: train the detector again"
        )
    if other := sorted(set(document["sha256"]) - set(FILES)):
        raise DetectorFileError(f"{path}: sha256 names {other[0]!r}; a detector is {', '.join(FILES)} and nothing else")
    if document["sha256"].get(DESCRIPTION_FILE) != _content_sha256(document):
        raise DetectorFileError(f"{path}: was altered after it was saved (by its SHA-256); fetch the detector again")
    return document


def _content_sha256(document: Mapping[str, Any]) -> str:
    content = {key: value for key, value in document.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_tensors(path: Path, expected_sha256: object) -> dict[str, Tensor]:
    data = _read(path)
    found = hashlib.sha256(data).hexdigest()
    if found != expected_sha256:
        raise DetectorFileError(
            f"{path}: SHA-256 is {found}, but {DESCRIPTION_FILE} records {expected_sha256}: the file was altered or "
            "copied incompletely; fetch the detector again"
        )
    try:
        return load_tensors(data)
    except SafetensorError as error:
        raise DetectorFileError(f"{path}: is no valid safetensors file ({error})") from error


def _read(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # a link may lead anywhere, a pipe or device may never end
            raise DetectorFileError(f"{path}: is a link or no file at all: put the file itself there")
        return path.read_bytes()
    except OSError as error:
        raise DetectorFileError(
            f"{path}: cannot be read ({error.strerror or error}): a detector is a folder of {', '.join(FILES)}"
        ) from error


def below(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    """The entries whose name begins with the prefix, by the rest of the name."""
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
