"""Runs jobs one after the other and keeps each on disk when it is finished. Yields; prints nothing."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score

from ganomaly.acceleration.devices import pick_device
from ganomaly.detector import Detector
from ganomaly.evaluation.baselines import BASELINES
from ganomaly.evaluation.datasets import DataSet, recipe_pixels, split, unite_near_duplicates
from ganomaly.evaluation.machine import describe_machine
from ganomaly.evaluation.metrics import image_auroc
from ganomaly.evaluation.paper.aae import AAE
from ganomaly.evaluation.paper.anogan import AnoGAN
from ganomaly.evaluation.paper.comparators import Comparator, Trial
from ganomaly.evaluation.paper.egbad import EGBAD
from ganomaly.evaluation.paper.experiments import MAIN, NETWORKS, Job
from ganomaly.evaluation.paper.rows import Arrays, Row, rows_of_file, save_rows
from ganomaly.judges.pixels import PixelJudge
from ganomaly.networks.ganomaly import Pass
from ganomaly.networks.training import EpochStats, to_input
from ganomaly.parts.roles import ROLES, split_by_part

EMBEDDED = 150
"""Normal and abnormal images each in the t-SNE view."""
EMBEDDED_SIZE = 50
"""Principal components that are kept of the discriminator's features: what t-SNE starts from."""
SHOWN = 5
"""Normal and abnormal images each among the pictures of reconstructions."""

Sources = Mapping[str, Callable[[], DataSet]]
"""How to load each data set, by its name in tables."""


@dataclass(frozen=True)
class TrialImages:
    """Prepared images of one data set, class and seed, uint8 (N, S, S, C).

    Attributes:
        train: normal, train the networks.
        fit: normal, join in fitting statistics.
        calibrate: normal.
        test: (M, S, S, C), normal ones first.
        abnormal_m: bool (M,), which of them are abnormal.
    """

    train: NDArray[np.uint8]
    fit: NDArray[np.uint8]
    calibrate: NDArray[np.uint8]
    test: NDArray[np.uint8]
    abnormal_m: NDArray[np.bool_]

    @property
    def counts(self) -> str:
        """How many images had which role, in words."""
        counts = {"train": self.train, "fit": self.fit, "calibrate": self.calibrate}
        said = [f"{len(images):,} {role}" for role, images in counts.items()]
        abnormal = int(self.abnormal_m.sum())
        return f"{', '.join(said)}, {len(self.abnormal_m) - abnormal:,} normal and {abnormal:,} abnormal test"


@dataclass(frozen=True)
class Outcome:
    """What a job found: raw scores (M,) by name, which of them flags, seconds and milliseconds, arrays for figures."""

    scores: dict[str, NDArray[np.float64]]
    flagging: str
    train_s: float
    score_ms_per_image: float
    pictures: Arrays


def run_jobs(
    jobs: Sequence[Job], sources: Sources, folder: Path, *, device: str
) -> Iterator[tuple[Job, EpochStats | list[Row]]]:
    """Run jobs: each with the figures of its epochs and, when it is saved, with its rows.

    Args:
        jobs: what to run; see `unfinished`.
        sources: how to load each data set.
        folder: of the comparison.
        device: as `Detector` takes it.

    Raises:
        ValueError: for a device that is not there.
        OSError: if rows cannot be written. Whatever goes wrong inside of a job becomes its error instead.
    """
    machine, dealt = describe_machine(device), _Dealt(sources)
    for job in jobs:
        started_at, started, images, outcome, error = datetime.now(UTC), time.perf_counter(), None, None, None
        try:
            images = dealt.images_of(job)
            for news in run_job(job, images, device):
                if isinstance(news, EpochStats):
                    yield job, news
                else:
                    outcome = news
        except Exception as fault:  # one job that fails must not take the others of the night with it
            error = f"{type(fault).__name__}: {fault}"
        common: dict[str, Any] = {
            "job": job.name,
            "settings_id": job.settings_id,
            "study": job.experiment.study,
            "value": job.experiment.value,
            "method": job.method,
            "data": job.experiment.data,
            "abnormal_class": job.abnormal_class,
            "seed": job.seed,
            "images": images.counts if images else "",
            "settings": _settings(job),
            "train_s": outcome.train_s if outcome else None,
            "score_ms_per_image": outcome.score_ms_per_image if outcome else None,
            "note": job.experiment.note,
            "error": error,
            "machine": machine.summary,
            "started_at": started_at.isoformat(timespec="milliseconds"),
            "duration_s": time.perf_counter() - started,
        }
        rows = [Row(**found, **common) for found in _findings(job, images, outcome)]
        arrays: Arrays = {}
        if outcome is not None and images is not None:
            scores = {f"score_{row.score}": s for row, s in zip(rows, outcome.scores.values(), strict=True)}
            arrays = {"abnormal": images.abnormal_m, **scores, **outcome.pictures}
        save_rows(folder / "runs", job.name, rows, arrays)
        yield job, rows


def unfinished(jobs: Sequence[Job], folder: Path) -> list[Job]:
    """The jobs that a folder has no rows of; one that failed is tried again.

    Raises:
        ValueError: if a file of the folder is damaged; names it.
    """
    paths = [folder / "runs" / f"{job.name}.json" for job in jobs]
    done = [path.exists() and all(row.error is None for row in rows_of_file(path)) for path in paths]
    return [job for job, is_done in zip(jobs, done, strict=True) if not is_done]


def deal_out(data: DataSet, job: Job) -> TrialImages:
    """Prepare a job's images; near-duplicates stay on one side of each split unless its calibration ignores them.

    Raises:
        ValueError: if the data set lacks the class or has too few images.
        ImageError: for an image that cannot be read.
    """
    recipe, promise = job.config.recipe, job.config.calibration
    if promise.near_duplicates != "ignore":
        data = unite_near_duplicates(data, recipe)
    dealt = split(data, job.abnormal_class, seed=job.seed, **asdict(job.experiment.limits))
    fractions = {"statistics_fraction": promise.statistics_fraction, "calibrate_fraction": promise.calibrate_fraction}
    roles = split_by_part(data.parts[dealt.train].tolist(), **fractions, seed=job.seed)
    train, fit, calibrate = (recipe_pixels(data, dealt.train[roles == role], recipe) for role in ROLES)
    return TrialImages(train, fit, calibrate, recipe_pixels(data, dealt.test, recipe), dealt.abnormal)


def run_job(job: Job, images: TrialImages, device: str) -> Iterator[EpochStats | Outcome]:
    """Run a job: figures of each epoch, at last the outcome.

    Raises:
        TrainingDivergedError: if a loss is not finite.
        TrainingDataError: if there are too few images.
        ValueError: for a device that is not there, or a score that is not finite.
    """
    started = time.perf_counter()
    fitted_on = np.concatenate([images.train, images.fit])
    detector = None
    if job.method == "ganomaly":
        detector = Detector(job.config, device=device)
        yield from detector.train(images.train)
        detector.calibrate(fitted_on, images.calibrate)
    elif job.method in NETWORKS:
        trial = Trial(_networks(job), job.config, pick_device(device))
        yield from trial.train(images.train)
        trial.raw_scores(images.test[:1])  # the first batch pays for what is set up once
    else:
        baseline = BASELINES[job.method](fitted_on)
    judging = time.perf_counter()
    if detector is not None:
        scores = detector.raw_scores_by_method(images.test)
    else:
        scores = {job.method: (trial if job.method in NETWORKS else baseline).raw_scores(images.test)}
    milliseconds = 1000 * (time.perf_counter() - judging) / len(images.test)
    for name, raw_m in scores.items():
        if not np.isfinite(raw_m).all():
            raise ValueError(f"score {name}: {np.count_nonzero(~np.isfinite(raw_m))} of {len(raw_m)} are not finite")
    pictures = _pictures(detector, images) if detector is not None and job.experiment.study == MAIN else {}
    flagging = job.config.score.method if detector is not None else job.method
    yield Outcome(scores, flagging, judging - started, milliseconds, pictures)


def _networks(job: Job) -> Callable[[], Comparator]:
    said = (job.config.recipe.size_px, job.config.recipe.channels, job.config.network)
    kinds: dict[str, Callable[[], Comparator]] = {
        "egbad": partial(EGBAD, *said),
        "aae": partial(AAE, *said),
        "anogan": partial(AnoGAN, *said, job.experiment.search_steps),
    }
    return kinds[job.method]


class _Dealt:
    """Prepared images, kept until a job needs others: methods of one class and seed share them."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.data: tuple[str, DataSet] | None = None
        self.dealt: tuple[object, TrialImages] | None = None

    def images_of(self, job: Job) -> TrialImages:
        said = job.experiment
        key = (said.data, job.abnormal_class, job.seed, said.limits, said.config.recipe, said.config.calibration)
        if self.dealt is None or self.dealt[0] != key:
            self.dealt = None  # first: two data sets at once may not fit into memory
            if self.data is None or self.data[0] != said.data:
                self.data = said.data, self.sources[said.data]()
            self.dealt = key, deal_out(self.data[1], job)
        return self.dealt[1]


def _settings(job: Job) -> str:
    config, said = job.config, [f"{job.config.recipe.size_px} px"]
    if job.method in NETWORKS:
        network = config.network
        said += [f"{config.training.epochs} epochs", f"{network.features} features", f"latent {network.latent_size}"]
    return ", ".join(said)


def _findings(job: Job, images: TrialImages | None, outcome: Outcome | None) -> list[dict[str, Any]]:
    if outcome is None or images is None:
        return [{"score": job.method, "flagging": False, "auroc": None, "average_precision": None}]
    return [
        {
            "score": name,
            "flagging": name == outcome.flagging,
            "auroc": image_auroc(images.abnormal_m, scores),
            "average_precision": float(average_precision_score(images.abnormal_m, scores)),
        }
        for name, scores in outcome.scores.items()
    ]


def _pictures(detector: Detector, images: TrialImages) -> Arrays:
    """What the figures of one GANomaly need of its networks."""
    chosen, shown = (_some_of_each(images.abnormal_m, n) for n in (EMBEDDED, SHOWN))
    features_kp, differences_kd, _ = _look_inside(detector, images.test[chosen])
    size = min(EMBEDDED_SIZE, *features_kp.shape)
    return {
        "embedded_abnormal": images.abnormal_m[chosen],
        "embedded_features": PCA(size, random_state=0).fit_transform(features_kp).astype(np.float32),
        "embedded_latent_differences": differences_kd,
        "shown_abnormal": images.abnormal_m[shown],
        "shown_images": images.test[shown],
        "shown_reconstructions": _look_inside(detector, images.test[shown])[2],
    }


def _some_of_each(abnormal_m: NDArray[np.bool_], n: int) -> NDArray[np.intp]:
    """At most n normal and n abnormal images, at equal distances."""
    kinds = (np.flatnonzero(abnormal_m == kind) for kind in (False, True))
    return np.concatenate([k[np.unique(np.linspace(0, len(k) - 1, min(n, len(k))).astype(int))] for k in kinds])


@torch.no_grad()
def _look_inside(
    detector: Detector, images_nhwc: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """The discriminator's last features (N, P), z - z_hat (N, D) and reconstructions uint8 (N, S, S, C)."""
    judge = detector.judge
    assert isinstance(judge, PixelJudge)
    parts = []
    for start in range(0, len(images_nhwc), judge.batch_size):
        seen = Pass(judge.model, to_input(images_nhwc[start : start + judge.batch_size], detector.device))
        features_bp = judge.model.discriminator(seen.x_bchw).features_bchw.flatten(1)
        grey_bhwc = ((seen.x_hat_bchw + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8)
        parts.append((features_bp.cpu(), (seen.z_bd - seen.z_hat_bd).cpu(), grey_bhwc.cpu()))
    features, differences, grey = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return features, differences, grey
