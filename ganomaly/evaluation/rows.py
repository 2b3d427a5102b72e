"""What a finished job leaves on disk: one JSON file with its rows and one npz file with its scores and pictures.

Each is written beside its place, made durable and renamed: a run that is killed loses the job in progress and no other.
The npz goes first, so that a JSON file always has its arrays.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganomaly.evaluation.localisation import LocalisationRow
from ganomaly.evaluation.plan import Job


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
        train_images: normal images that trained the networks.
        fit_images: normal images that joined in fitting statistics.
        calibrate_images: normal images that only calibrated.
        test_normal: normal images that tested.
        test_abnormal: abnormal images that tested.
        size_px: side of the network's input.
        epochs: of training; None for a baseline, as are the next five.
        features: width of the networks.
        latent_size: length of z.
        weight_adversarial: w_adv.
        weight_contextual: w_con.
        weight_encoder: w_enc.
        train_s: seconds of training, or of fitting a baseline.
        score_ms_per_image: milliseconds to judge an image, all scores of the method together.
        note: what a reader must know.
        error: why the job failed; None if it did not.
        code_version: release and commit, with ".dirty" where files were changed.
        device: where the networks ran.
        cpu: model of the CPU.
        cores: CPU cores that the process may use.
        threads: that torch used.
        gpu: model of the GPU, empty without one.
        python: version.
        torch: version.
        opencv: version.
        numpy: version.
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
    train_images: int | None
    fit_images: int | None
    calibrate_images: int | None
    test_normal: int | None
    test_abnormal: int | None
    size_px: int
    epochs: int | None
    features: int | None
    latent_size: int | None
    weight_adversarial: float | None
    weight_contextual: float | None
    weight_encoder: float | None
    train_s: float | None
    score_ms_per_image: float | None
    note: str
    error: str | None
    code_version: str
    device: str
    cpu: str
    cores: int
    threads: int
    gpu: str
    python: str
    torch: str
    opencv: str
    numpy: str
    started_at: str
    duration_s: float

    @property
    def label(self) -> str:
        """Method and score for tables: ``ganomaly (paper)``, ``egbad``."""
        return self.method if self.score == self.method else f"{self.method} ({self.score})"

    @property
    def group(self) -> tuple[str, float | None, str, str]:
        """As that of `Job`."""
        return self.study, self.value, self.data, self.method


@dataclass(frozen=True)
class DefectRow:
    """How well the heat maps and the flagging score of one job find one sort of drawn defects.

    Attributes:
        job: name of the job; `Row` says the rest of it.
        data: name of the data set.
        method: of the job.
        seed: of the job; also draws the defects.
        kind: what was drawn.
        size: its size.
        contrast: its contrast.
        image_auroc: chance that an image with the defect scores higher than one without.
        pixel_auroc: chance that a defect pixel is hotter than a good one.
        aupro: area under the per-region overlap up to a false-positive rate of 0.3; 0.15 knows nothing.
        images: how many images carry the defect.
    """

    job: str
    data: str
    method: str
    seed: int
    kind: str
    size: str
    contrast: str
    image_auroc: float
    pixel_auroc: float
    aupro: float
    images: int


class RowStore:
    """The folder ``runs`` of a benchmark.

    Args:
        folder: of the benchmark; it is made when the first job is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "runs"

    def is_done(self, job: Job) -> bool:
        """Whether the job has rows; one that failed is tried again."""
        path = self.folder / f"{job.name}.json"
        return path.exists() and all(row.error is None for row in _read(path))

    def save(
        self,
        job: Job,
        rows: Sequence[Row],
        arrays: Mapping[str, NDArray[Any]],
        localisation: Sequence[LocalisationRow] = (),
    ) -> None:
        """Write a job's rows and arrays; once this returns they survive anything that may happen to the process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if arrays:
            buffer = BytesIO()
            np.savez_compressed(buffer, allow_pickle=False, **arrays)
            _replace(self.folder / f"{job.name}.npz", buffer.getvalue())
        said = {"config": job.config.model_dump(mode="json"), "limits": asdict(job.limits)}
        drawn = [asdict(row) for row in localisation]
        document = {"rows": [asdict(row) for row in rows], "drawn_defects": drawn, **said}
        _replace(self.folder / f"{job.name}.json", (json.dumps(document, indent=1) + "\n").encode())

    def rows(self) -> list[Row]:
        """All rows that were ever saved here.

        Raises:
            ValueError: if a file is damaged; names it.
        """
        return [row for path in sorted(self.folder.glob("*.json")) for row in _read(path)]

    def defect_rows(self, rows: Iterable[Row]) -> list[DefectRow]:
        """What the jobs of these rows measured with drawn defects."""
        jobs = {row.job: row for row in rows}
        return [
            DefectRow(row.job, row.data, row.method, row.seed, **figures)
            for name, row in jobs.items()
            for figures in json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8")).get(
                "drawn_defects", ()
            )
        ]

    def arrays(self, job_name: str) -> dict[str, NDArray[Any]]:
        """The arrays of a job: ``abnormal`` (M,), ``score_NAME`` (M,), and what pictures need.

        Raises:
            FileNotFoundError: if the file was removed.
        """
        with np.load(self.folder / f"{job_name}.npz", allow_pickle=False) as saved:
            return {name: saved[name] for name in saved.files}


def choose_rows(rows: Iterable[Row], jobs: Iterable[Job]) -> list[Row]:
    """The rows that belong into one table: of each method and data set those with one and the same settings.

    A folder may hold rows of earlier settings. The settings of ``jobs`` count; where they say nothing, the newest.
    """
    rows = sorted(rows, key=lambda row: row.started_at)
    settings = {row.group: row.settings_id for row in rows}
    settings |= {job.group: job.settings_id for job in jobs}
    return [row for row in rows if settings[row.group] == row.settings_id]


def _read(path: Path) -> list[Row]:
    try:
        return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: holds no rows that this version can read ({error}); delete it to run it again"
        ) from None


def _replace(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    if os.name == "posix":  # the new name is in the folder's own pages
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
