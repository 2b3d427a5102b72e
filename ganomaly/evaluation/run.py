"""Run jobs one after the other, save each when it is finished, and go on when one fails. Yields; prints nothing."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score  # type: ignore[import-untyped]

from ganomaly.evaluation.localisation import LocalisationRow
from ganomaly.evaluation.machine import Machine, describe_machine
from ganomaly.evaluation.plan import Job, Sources
from ganomaly.evaluation.protocols import DataSet
from ganomaly.evaluation.rows import Row, RowStore
from ganomaly.evaluation.trial import Outcome, TrialImages, deal_out, run_trial
from ganomaly.networks.training import EpochStats


@dataclass(frozen=True)
class Started:
    """A job begins."""

    job: Job


@dataclass(frozen=True)
class EpochDone:
    """A job's networks were trained for one more epoch."""

    job: Job
    stats: EpochStats


@dataclass(frozen=True)
class Finished:
    """A job's rows are saved; a job that failed has one row with its error."""

    job: Job
    rows: tuple[Row, ...]

    @property
    def error(self) -> str | None:
        """Why it failed, None if it did not."""
        return self.rows[0].error


Event = Started | EpochDone | Finished


def unfinished(jobs: Sequence[Job], folder: Path) -> list[Job]:
    """The jobs that a folder has no rows of.

    Raises:
        ValueError: if a file of the folder is damaged; names it.
    """
    store = RowStore(folder)
    return [job for job in jobs if not store.is_done(job)]


def run_jobs(jobs: Sequence[Job], sources: Sources, folder: Path, *, device: str, code_version: str) -> Iterator[Event]:
    """Run jobs and save the rows of each as soon as it is finished.

    Args:
        jobs: what to run; see `unfinished`.
        sources: how to load each data set.
        folder: of the benchmark.
        device: as `Detector` takes it.
        code_version: for the rows.

    Raises:
        ValueError: for a device that is not there.
        OSError: if rows cannot be written. Whatever goes wrong inside of a job becomes its error instead.
    """
    machine, store, images = describe_machine(device), RowStore(folder), _Images(sources)
    for job in jobs:
        yield Started(job)
        attempt = _Attempt(job)
        yield from attempt.go(images, device)
        rows = attempt.rows(machine, code_version)
        store.save(job, rows, attempt.arrays(), attempt.localisation())
        yield Finished(job, rows)


class _Attempt:
    """One job from its start to its rows, whether it succeeds or not."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.started_at = datetime.now(UTC)
        self.started = time.perf_counter()
        self.images: TrialImages | None = None
        self.outcome: Outcome | None = None
        self.error: str | None = None

    def go(self, images: "_Images", device: str) -> Iterator[EpochDone]:
        try:
            self.images = images.of(self.job)
            for news in run_trial(self.job, self.images, device):
                if isinstance(news, EpochStats):
                    yield EpochDone(self.job, news)
                else:
                    _check_scores(news)
                    self.outcome = news
        except Exception as error:  # one job that fails must not take the others of the night with it
            self.error = f"{type(error).__name__}: {error}"

    def rows(self, machine: Machine, code_version: str) -> tuple[Row, ...]:
        common = _settings(self.job) | _counts(self.images) | asdict(machine)
        common |= {
            "train_s": self.outcome.train_s if self.outcome else None,
            "score_ms_per_image": self.outcome.score_ms_per_image if self.outcome else None,
            "error": self.error,
            "code_version": code_version,
            "started_at": self.started_at.isoformat(timespec="milliseconds"),
            "duration_s": time.perf_counter() - self.started,
        }
        return tuple(Row(**found, **common) for found in self._findings())

    def _findings(self) -> list[dict[str, Any]]:
        if self.outcome is None or self.images is None:
            return [{"score": self.job.method, "flagging": False, "auroc": None, "average_precision": None}]
        abnormal = self.images.abnormal_m
        own_only = len(self.outcome.scores) == 1
        return [
            {
                "score": self.job.method if own_only else name,
                "flagging": own_only or name == self.outcome.flagging,
                "auroc": float(roc_auc_score(abnormal, scores)),
                "average_precision": float(average_precision_score(abnormal, scores)),
            }
            for name, scores in self.outcome.scores.items()
        ]

    def arrays(self) -> dict[str, NDArray[Any]]:
        if self.outcome is None or self.images is None:
            return {}
        scores = self.outcome.scores
        names = [self.job.method] if len(scores) == 1 else list(scores)
        saved = {f"score_{name}": values for name, values in zip(names, scores.values(), strict=True)}
        return {"abnormal": self.images.abnormal_m, **saved, **self.outcome.pictures}

    def localisation(self) -> tuple[LocalisationRow, ...]:
        return self.outcome.localisation if self.outcome else ()


class _Images:
    """Prepared images, kept until a job needs others: methods of one class and seed share them."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.data: tuple[str, DataSet] | None = None
        self.dealt: tuple[object, TrialImages] | None = None

    def of(self, job: Job) -> TrialImages:
        key = (job.data, job.abnormal_class, job.seed, job.limits, job.config.recipe, job.config.calibration)
        if self.dealt is None or self.dealt[0] != key:
            self.dealt = None  # first: two data sets at once may not fit into memory
            self.dealt = key, deal_out(self._load(job.data), job)
        return self.dealt[1]

    def _load(self, name: str) -> DataSet:
        if self.data is None or self.data[0] != name:
            self.data = name, self.sources[name]()
        return self.data[1]


def _check_scores(outcome: Outcome) -> None:
    for name, scores in outcome.scores.items():
        if not np.isfinite(scores).all():
            raise ValueError(f"score {name}: {np.count_nonzero(~np.isfinite(scores))} of {len(scores)} are not finite")


def _settings(job: Job) -> dict[str, Any]:
    config, network = job.config, job.is_network
    return {
        "job": job.name,
        "settings_id": job.settings_id,
        "study": job.study,
        "value": job.value,
        "method": job.method,
        "data": job.data,
        "abnormal_class": job.abnormal_class,
        "seed": job.seed,
        "size_px": config.recipe.size_px,
        "epochs": config.training.epochs if network else None,
        "features": config.network.features if network else None,
        "latent_size": config.network.latent_size if network else None,
        "weight_adversarial": config.training.weight_adversarial if network else None,
        "weight_contextual": config.training.weight_contextual if network else None,
        "weight_encoder": config.training.weight_encoder if network else None,
        "note": job.note,
    }


def _counts(images: TrialImages | None) -> dict[str, int | None]:
    names = ("train_images", "fit_images", "calibrate_images", "test_normal", "test_abnormal")
    if images is None:
        return dict.fromkeys(names)
    abnormal = int(images.abnormal_m.sum())
    normal = (images.train_nhwc, images.fit_nhwc, images.calibrate_nhwc)
    counts = (*map(len, normal), len(images.abnormal_m) - abnormal, abnormal)
    return dict(zip(names, counts, strict=True))
