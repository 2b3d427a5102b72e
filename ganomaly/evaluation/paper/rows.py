"""What a finished job leaves on disk: `runs/NAME.json` with its rows, `runs/NAME.npz` with what figures are drawn of.

Each is written beside its place and renamed, the npz first: a run that is killed loses the job in progress, no other.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganomaly.evaluation.paper.experiments import Job


@dataclass(frozen=True)
class Row:
    """One line of the results table: one score of one job. A job that failed has one row with its error.

    Attributes:
        job: name of the job, the same for all scores of one training.
        settings_id: the same for rows that differ in class and seed only.
        study: "main", or the setting of GANomaly that is varied.
        value: of the setting that is varied.
        method: ganomaly, egbad, anogan, aae or a baseline.
        score: which score of the method; the method's name where it has one only.
        flagging: whether it is the score that the detector flags with.
        data: name of the data set.
        abnormal_class: the label that is abnormal and unseen.
        seed: deals out the images and draws the weights.
        auroc: of the raw scores of the test images, networks in `eval()` mode; None if the job failed.
        average_precision: the same scores, abnormal as positive.
        images: how many trained, fitted, calibrated, tested as normal and tested as abnormal, in words.
        settings: size of the input, epochs and sizes of the networks, in words.
        train_s: seconds of training, or of fitting a baseline.
        score_ms_per_image: milliseconds to judge an image, all scores of the method together.
        note: what a reader must know.
        error: why the job failed; None if it did not.
        machine: device, processors and versions, in words.
        started_at: UTC, ISO 8601.
        duration_s: seconds of the whole job with preparing its images.
    """

    job: str
    settings_id: str
    study: str
    value: float | None
    method: str
    score: str
    flagging: bool
    data: str
    abnormal_class: str
    seed: int
    auroc: float | None
    average_precision: float | None
    images: str
    settings: str
    train_s: float | None
    score_ms_per_image: float | None
    note: str
    error: str | None
    machine: str
    started_at: str
    duration_s: float

    @property
    def label(self) -> str:
        """Method and score for tables: ``ganomaly (paper)``, ``egbad``."""
        return self.method if self.score == self.method else f"{self.method} ({self.score})"

    @property
    def group(self) -> tuple[str, float | None, str, str]:
        """Rows that differ in class and seed only, and so may share a mean, have the same."""
        return self.study, self.value, self.data, self.method


Arrays = dict[str, NDArray[Any]]


def read_rows(folder: Path, jobs: Iterable[Job]) -> list[Row]:
    """The rows of a folder that belong into one table: of each method and data set those with the same settings.

    A folder may hold rows of earlier settings. The settings of `jobs` count; where they say nothing, the newest.

    Raises:
        ValueError: if a file is damaged; names it.
    """
    rows = [row for path in sorted((folder / "runs").glob("*.json")) for row in rows_of_file(path)]
    rows.sort(key=lambda row: row.started_at)
    settings = {row.group: row.settings_id for row in rows}
    settings |= {(e.study, e.value, e.data, job.method): job.settings_id for job in jobs for e in [job.experiment]}
    return [row for row in rows if settings[row.group] == row.settings_id]


def read_arrays(folder: Path, job_name: str) -> Arrays:
    """The arrays of a job: ``abnormal`` (M,), ``score_NAME`` (M,), and what figures need.

    Raises:
        FileNotFoundError: if the file was removed.
    """
    with np.load(folder / "runs" / f"{job_name}.npz", allow_pickle=False) as saved:
        return {name: saved[name] for name in saved.files}


def save_rows(folder: Path, name: str, rows: Sequence[Row], arrays: Arrays) -> None:
    """Write a job's rows and arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    if arrays:
        unfinished_npz = folder / f".{name}.part.npz"
        np.savez_compressed(unfinished_npz, allow_pickle=False, **arrays)
        unfinished_npz.replace(folder / f"{name}.npz")
    unfinished_json = folder / f".{name}.part"
    unfinished_json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    unfinished_json.replace(folder / f"{name}.json")


def rows_of_file(path: Path) -> list[Row]:
    """The rows of one job.

    Raises:
        ValueError: if the file is damaged; names it.
    """
    try:
        return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: holds no rows that this version can read ({error}); delete it to run it again"
        ) from None
