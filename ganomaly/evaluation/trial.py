"""One job: deal out the images, train or fit, judge the test images, measure the time of each."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA  # type: ignore[import-untyped]
from torch import Tensor

from ganomaly.detector import Detector
from ganomaly.evaluation.baselines import BASELINES, PatchGaussian, PixelGaussian
from ganomaly.evaluation.drawn_defects import KINDS
from ganomaly.evaluation.localisation import (
    LocalisationRow,
    Locator,
    WithoutNetwork,
    draw_sheet,
    measure_localisation,
)
from ganomaly.evaluation.plan import MAIN, Job
from ganomaly.evaluation.protocols import DataSet, recipe_pixels, split, unite_near_duplicates
from ganomaly.images.preparation import ImageSource, prepare_image, read_image
from ganomaly.judges.pixels import PixelJudge
from ganomaly.networks.build import GANomaly
from ganomaly.networks.training import EpochStats, to_input
from ganomaly.parts.roles import ROLES, split_by_part

EMBEDDED = 150
"""Normal and abnormal images each in the t-SNE view."""
EMBEDDED_SIZE = 50
"""Principal components that are kept of the discriminator's features: what t-SNE starts from."""
SHOWN = 5
"""Normal and abnormal images each among the pictures of reconstructions."""
SHEET_TILE_PX = 128


@dataclass(frozen=True)
class TrialImages:
    """Prepared images of one data set, class and seed.

    Attributes:
        train_nhwc: uint8 (N, S, S, C), normal, train the networks.
        fit_nhwc: uint8 (F, S, S, C), normal, join in fitting statistics.
        calibrate_nhwc: uint8 (K, S, S, C), normal.
        test_nhwc: uint8 (M, S, S, C), normal ones first.
        abnormal_m: bool (M,), which of them are abnormal.
        test_sources: where the M test images came from, in the camera's pixels.
    """

    train_nhwc: NDArray[np.uint8]
    fit_nhwc: NDArray[np.uint8]
    calibrate_nhwc: NDArray[np.uint8]
    test_nhwc: NDArray[np.uint8]
    abnormal_m: NDArray[np.bool_]
    test_sources: Sequence[ImageSource]


@dataclass(frozen=True)
class Outcome:
    """What a job found.

    Attributes:
        scores: raw scores (M,) of the test images by the name of the score.
        flagging: the score that the detector flags with.
        train_s: seconds of training, or of fitting a baseline.
        score_ms_per_image: milliseconds that judging an image took, all scores of the method together.
        pictures: arrays that figures are drawn of, by name; empty for most jobs.
        localisation: a row for each sort of drawn defect; empty where none were drawn.
    """

    scores: dict[str, NDArray[np.float64]]
    flagging: str
    train_s: float
    score_ms_per_image: float
    pictures: dict[str, NDArray[np.generic]]
    localisation: tuple[LocalisationRow, ...] = ()


def deal_out(data: DataSet, job: Job) -> TrialImages:
    """Prepare a job's images; near-duplicates stay on one side of each split unless its calibration ignores them.

    Raises:
        ValueError: if the data set lacks the class or has too few images.
        ImageError: for an image that cannot be read.
    """
    limits, promise = job.limits, job.config.calibration
    if promise.near_duplicates != "ignore":
        data = unite_near_duplicates(data, job.config.recipe)
    dealt = split(
        data,
        job.abnormal_class,
        seed=job.seed,
        train_images=limits.train_images,
        test_normal=limits.test_normal,
        test_abnormal=limits.test_abnormal,
    )
    roles = split_by_part(
        data.parts[dealt.train].tolist(),
        fit_fraction=promise.fit_fraction,
        calibrate_fraction=promise.calibrate_fraction,
        seed=job.seed,
    )
    train, fit, calibrate = (recipe_pixels(data, dealt.train[roles == role], job.config.recipe) for role in ROLES)
    test, sources = recipe_pixels(data, dealt.test, job.config.recipe), [data.images[i] for i in dealt.test]
    return TrialImages(train, fit, calibrate, test, dealt.abnormal, sources)


def run_trial(job: Job, images: TrialImages, device: str) -> Iterator[EpochStats | Outcome]:
    """Run a job: figures of each epoch, at last the outcome.

    Raises:
        TrainingDivergedError: if a loss is not finite.
        TrainingDataError: if there are too few images.
        ValueError: for a device that is not there.
    """
    if job.is_network:
        yield from _run_network(job, images, device)
    else:
        yield _run_baseline(job, images)


def _run_baseline(job: Job, images: TrialImages) -> Outcome:
    started = time.perf_counter()
    baseline = BASELINES[job.method](np.concatenate([images.train_nhwc, images.fit_nhwc]))
    fitted = time.perf_counter()
    scores = baseline.raw_scores(images.test_nhwc)
    milliseconds = 1000 * (time.perf_counter() - fitted) / len(scores)
    rows: tuple[LocalisationRow, ...] = ()
    if drawable := _drawable(job, images):
        assert isinstance(baseline, PatchGaussian | PixelGaussian)
        rows = tuple(measure_localisation(WithoutNetwork(job.config, baseline), drawable, seed=job.seed))
    return Outcome({job.method: scores}, job.method, fitted - started, milliseconds, {}, rows)


def _run_network(job: Job, images: TrialImages, device: str) -> Iterator[EpochStats | Outcome]:
    detector = Detector(job.config, device=device)
    started = time.perf_counter()
    yield from detector.train(images.train_nhwc)
    trained = time.perf_counter()
    if job.method == "ganomaly":  # the others' own score needs no statistics, and AnoGAN takes seconds for an image
        detector.calibrate(np.concatenate([images.train_nhwc, images.fit_nhwc]), images.calibrate_nhwc)
    else:
        detector.raw_scores(images.test_nhwc[:1])  # the first batch pays for what is set up once
    judging = time.perf_counter()
    scores = detector.raw_scores_by_method(images.test_nhwc)
    milliseconds = 1000 * (time.perf_counter() - judging) / len(images.test_nhwc)
    pictures = _pictures(detector, images) if job.method == "ganomaly" and job.study == MAIN else {}
    rows: tuple[LocalisationRow, ...] = ()
    if drawable := _drawable(job, images):
        rows = tuple(measure_localisation(detector, drawable, seed=job.seed))
        pictures |= _sheets(detector, drawable, job.seed)
    yield Outcome(scores, job.config.score.method, trained - started, milliseconds, pictures, rows)


def _drawable(job: Job, images: TrialImages) -> list[NDArray[np.uint8]]:
    """The good test images, in the camera's pixels, that defects are drawn into: such as the detector can judge."""
    sources = (source for source, bad in zip(images.test_sources, images.abnormal_m, strict=True) if not bad)
    read = (read_image(source) for source in islice(sources, job.drawn_images))
    eight_bits = ((i // 257 if i.dtype == np.uint16 else i).astype(np.uint8) for i in read)
    config = job.config
    return [image for image in eight_bits if prepare_image(image, config.recipe, config.quality).usable]


def _sheets(detector: Locator, images: Sequence[NDArray[np.uint8]], seed: int) -> dict[str, NDArray[np.generic]]:
    """For each kind of defect a picture of images, outlines and overlays, uint8 (H, W, 3)."""
    return {f"sheet_{kind}": draw_sheet(detector, images, kind, tile_px=SHEET_TILE_PX, seed=seed) for kind in KINDS}


def _pictures(detector: Detector, images: TrialImages) -> dict[str, NDArray[np.generic]]:
    """What the figures of one GANomaly need of its networks."""
    chosen = _some_of_each(images.abnormal_m, EMBEDDED)
    shown = _some_of_each(images.abnormal_m, SHOWN)
    features_kp, differences_kd, _ = _look_inside(detector, images.test_nhwc[chosen])
    size = min(EMBEDDED_SIZE, *features_kp.shape)
    _, _, reconstructions = _look_inside(detector, images.test_nhwc[shown])
    return {
        "embedded_abnormal": images.abnormal_m[chosen],
        "embedded_features": PCA(size, random_state=0).fit_transform(features_kp).astype(np.float32),
        "embedded_latent_differences": differences_kd,
        "shown_abnormal": images.abnormal_m[shown],
        "shown_images": images.test_nhwc[shown],
        "shown_reconstructions": reconstructions,
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
    model = judge.model
    assert isinstance(model, GANomaly)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    size = judge.batch_size
    for start in range(0, len(images_nhwc), size):
        x_bchw = to_input(images_nhwc[start : start + size], detector.device)
        out = model.generator(x_bchw)
        features_bp = model.discriminator(x_bchw).features_bchw.flatten(1)
        grey_bhwc = ((out.x_hat_bchw + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8)
        parts.append((features_bp.cpu(), (out.z_bd - out.z_hat_bd).cpu(), grey_bhwc.cpu()))
    features, differences, grey = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return features, differences, grey
