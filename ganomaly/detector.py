"""The detector: recipe, judge and calibration in one object that is trained, saved, loaded and scored with."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ganomaly.acceleration.devices import pick_device
from ganomaly.config import DetectorConfig
from ganomaly.errors import DetectorFileError
from ganomaly.image_score import ImageScore
from ganomaly.images.preparation import ImageSource, Prepared, prepare_image, prepare_images
from ganomaly.judges.features import FeatureJudge
from ganomaly.judges.judge import NOT_FITTED, Judge, PreparedImages
from ganomaly.judges.pixels import PixelJudge
from ganomaly.networks.training import EpochStats
from ganomaly.parts.roles import CROSS, ROLES, Plan, plan_roles
from ganomaly.parts.suspects import without_suspects
from ganomaly.saving import read_files, write_files
from ganomaly.scoring.calibration import Calibration, CalibrationConfig
from ganomaly.scoring.heatmap import HeatMapStatistics

HEAT_MAP_SAMPLE = 256
"""Images that suffice for the heat map's mean and deviation per location."""


class Detector:
    """A judge of images with its recipe and calibration. What scores or saves raises ValueError before `calibrate`.

    Args:
        config: everything that defines the detector.
        device: ``"auto"`` (CUDA, then Apple's MPS, then CPU) or a torch device name.
        snapshot_id: content hash of the images it is trained on, kept for the audit.
    """

    def __init__(
        self, config: DetectorConfig | None = None, *, device: str = "auto", snapshot_id: str | None = None
    ) -> None:
        self.config = config or DetectorConfig()
        self.device = pick_device(device)
        self.snapshot_id = snapshot_id
        rng = torch.Generator().manual_seed(self.config.training.seed)
        kind = FeatureJudge if self.config.input == "features" else PixelJudge
        self.judge: Judge = kind(self.config, self.device, rng)
        self.heat: HeatMapStatistics | None = None
        self.calibration: Calibration | None = None

    @classmethod
    def fit(
        cls,
        images: Sequence[ImageSource],
        *,
        parts: Sequence[str] | None = None,
        config: DetectorConfig | None = None,
        device: str = "auto",
    ) -> Self:
        """Train and calibrate on images of good parts; those that cannot be judged are left out.

        Args:
            images: encoded bytes, paths, or arrays (H, W) or (H, W, 3) RGB of uint8 or uint16.
            parts: part id of each image; views of one part stay on one side of the split. Near-duplicates do so with
                and without ids; `ganomaly.parts.roles.plan_roles` tells how many parts they leave.
            config: recipe, networks, training and calibration.
            device: see `Detector`.

        Raises:
            TrainingDataError: if the images cannot train or calibrate the detector as asked.
            TrainingDivergedError: if a loss is not finite.
        """
        config = (config or DetectorConfig()).fitted_to(images)
        detector = cls(config, device=device)
        prepared = list(detector.prepare_all(images))
        for _ in detector.learn(prepared, detector.plan(prepared, parts)):
            pass
        return detector

    def plan(self, prepared: Sequence[Prepared], parts: Sequence[str] | None = None) -> Plan:
        """Decide who trains and who calibrates, see `plan_roles`; with `calibration.trim`, suspects get no role.

        Raises:
            TrainingDataError: if the images cannot train or calibrate a detector as asked.
        """
        config, seed = self.config.calibration, self.config.training.seed
        plan, judge = plan_roles(prepared, parts, config, seed), self.judge
        if config.trim == 0:
            return plan
        assert isinstance(judge, FeatureJudge)
        images = self.stack(prepared, plan.roles != "")
        judged = partial(judge.scores_among_others, images)
        return without_suspects(plan, prepared, parts, config, seed, judged)

    def prepare(self, image: ImageSource) -> Prepared:
        """Decode one image, judge its quality and apply the recipe; never raises for a bad image."""
        return prepare_image(image, self.config.recipe, self.config.quality)

    def prepare_all(self, images: Sequence[ImageSource]) -> Iterator[Prepared]:
        """Prepare images in their order, several at a time."""
        return prepare_images(images, self.config.recipe, self.config.quality)

    def learn(self, prepared: Sequence[Prepared], plan: Plan) -> Iterator[EpochStats]:
        """Train, fit and calibrate on prepared images of good parts, each in the role that the plan gives it.

        The detector is calibrated when the last value was drawn: one for each epoch, none where statistics are
        cross-fitted.

        Raises:
            TrainingDivergedError: if a loss is not finite.
        """
        if plan.folds is not None:
            self._cross_calibrate(prepared, plan.roles, plan.folds, plan.trimmed_share)
            return
        train, fit, calibrate = (self.stack(prepared, plan.roles == role) for role in ROLES)
        yield from self.train(train)
        self.calibrate(_together(train, fit), calibrate, plan.trimmed_share)

    def train(self, images_nhwc: PreparedImages) -> Iterator[EpochStats]:
        """Train the networks on prepared normal images, uint8 (N, H, W, C), one epoch per value drawn.

        Raises:
            TrainingDivergedError: if a loss is not finite; the weights of the epoch before are kept.
        """
        return self.judge.train(images_nhwc)

    def calibrate(self, fit_nhwc: PreparedImages, calibrate_nhwc: PreparedImages, trimmed_share: float = 0.0) -> None:
        """Fit the score's statistics on normal images and the reject limit on others that training never saw.

        Args:
            fit_nhwc: prepared normal images, uint8 (N, H, W, C); those that trained the networks may be among them.
            calibrate_nhwc: prepared normal images, uint8 (M, H, W, C), that are not among the others.
            trimmed_share: share of the parts that were left out as suspects, see `plan`.

        Raises:
            TrainingDataError: if M is too small for the false-reject rate and its confidence.
        """
        rate = self.config.calibration.false_reject_rate
        self.judge.fit(fit_nhwc)
        held_out = self.judge.raw_scores_and_maps(calibrate_nhwc, lambda raw_n: np.ones(len(raw_n), dtype=bool))
        self.calibration = self._calibration_of([raw for raw, _ in held_out], 0, trimmed_share)
        if self.config.input == "features":
            self.heat = HeatMapStatistics.fit_limit(_maps_of(held_out), rate)
            return
        fitted_nhw = self.judge.maps(_some(fit_nhwc, _sample(len(fit_nhwc), HEAT_MAP_SAMPLE)))
        self.heat = HeatMapStatistics.fit(fitted_nhw, _maps_of(held_out), rate)

    def allow(self, false_reject_rate: float) -> None:
        """Promise another false-reject rate with the same calibration images: the limit moves, no score does.

        The heat map keeps its own limit.

        Raises:
            TrainingDataError: if the calibration images are too few for the rate.
            ValueError: if the detector is not calibrated, or for a rate outside (0, 1).
        """
        if not 0 < false_reject_rate < 1:
            raise ValueError(f"false_reject_rate = {false_reject_rate}: must be more than 0 and less than 1")
        calibration = self.calibrated
        other = calibration.with_rate(false_reject_rate)
        rates = {"false_reject_rate": false_reject_rate, "sure_rate": other.sure_rate}
        promise = CalibrationConfig.model_validate(self.config.calibration.model_dump() | rates)
        self.calibration = other
        self.config = self.config.model_copy(update={"calibration": promise})

    def _cross_calibrate(
        self, prepared: Sequence[Prepared], roles: NDArray[np.str_], folds: NDArray[np.intp], trimmed_share: float
    ) -> None:
        """Let every part calibrate, each by statistics that were fitted without its fold."""
        assert isinstance(self.judge, FeatureJudge)
        calibrates = roles[folds >= 0] == CROSS
        n_folds = int(folds[roles == CROSS].max()) + 1
        images_nhwc = self.stack(prepared, folds >= 0)
        raw_n, maps_nhw = self.judge.cross_fit(images_nhwc, folds[folds >= 0], n_folds, calibrates)
        fold_size = int(calibrates.sum()) // n_folds
        self.calibration = self._calibration_of(raw_n[calibrates], fold_size, trimmed_share)
        self.heat = HeatMapStatistics.fit_limit(maps_nhw[calibrates], self.calibration.false_reject_rate)

    def _calibration_of(self, scores: ArrayLike, fold_size: int, trimmed_share: float) -> Calibration:
        promise = self.config.calibration
        rates = promise.false_reject_rate, promise.confidence
        return Calibration.fit(scores, *rates, fold_size, trimmed_share, promise.sure_rate)

    def score(self, images: Sequence[ImageSource]) -> list[ImageScore]:
        """Judge images: encoded bytes, paths or arrays. One result for each, in their order; bad input never raises."""
        prepared = list(self.prepare_all(images))
        scores = iter(self.score_prepared(self.stack(prepared, np.ones(len(prepared), dtype=bool))))
        return [
            next(scores) if p.usable else ImageScore(None, None, None, "unusable", p.reason, p.detail) for p in prepared
        ]

    def score_prepared(self, images_nhwc: PreparedImages) -> list[ImageScore]:
        """Judge prepared images, uint8 (N, S, S, C)."""
        return self._image_scores(self.raw_scores(images_nhwc))

    def score_and_map(self, images_nhwc: PreparedImages) -> list[tuple[ImageScore, NDArray[np.float32] | None]]:
        """`score_prepared` and, for each flagged image, its heat map (H', W') of one pass through the networks."""
        judged = self.judge.raw_scores_and_maps(images_nhwc, self.calibrated.flagged)
        scores = self._image_scores(np.array([raw for raw, _ in judged], dtype=np.float64))
        heats = [None if map_hw is None else self._heat(map_hw[None])[0] for _, map_hw in judged]
        return list(zip(scores, heats, strict=True))

    def _image_scores(self, raw_n: NDArray[np.float64]) -> list[ImageScore]:
        calibration = self.calibrated
        sure_n = calibration.is_sure(raw_n)
        columns = (raw_n, calibration.normalise(raw_n), calibration.p_value(raw_n), calibration.flagged(raw_n), sure_n)
        return [
            ImageScore(float(s), float(normalised), float(p), "flagged" if flagged else "ok", sure=bool(sure))
            for s, normalised, p, flagged, sure in zip(*columns, strict=True)
        ]

    def raw_scores(self, images_nhwc: PreparedImages) -> NDArray[np.float64]:
        """Raw anomaly scores (N,) of prepared images, uint8 (N, H, W, C)."""
        return self.judge.raw_scores(images_nhwc)

    def raw_scores_by_method(self, images_nhwc: PreparedImages) -> dict[str, NDArray[np.float64]]:
        """All raw scores that the judge offers, (N,) each by its method, of prepared images, uint8 (N, H, W, C)."""
        return self.judge.raw_scores_by_method(images_nhwc)

    def heat_maps(self, images_nhwc: PreparedImages) -> NDArray[np.float32]:
        """Heat maps (N, H', W') of prepared images, uint8 (N, H, W, C): from 0 up, 1.0 is the map's reject limit."""
        return self._heat(self.judge.maps(images_nhwc))

    def _heat(self, map_nhw: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.heat is None:
            raise ValueError(NOT_FITTED)
        return self.heat.heat(map_nhw)

    def save(self, folder: str | Path) -> None:
        """Write the detector as a folder of one JSON and two safetensors files; see `ganomaly.saving`."""
        calibration = self.calibrated
        assert self.heat is not None
        statistics = {
            "heat.mean": self.heat.mean_hw,
            "heat.scale": self.heat.scale_hw,
            "heat.limit": np.array(self.heat.limit),
            "calibration.scores": calibration.scores_n,
            "calibration.fold_size": np.array(calibration.fold_size),
            "calibration.trimmed_share": np.array(calibration.trimmed_share),
        } | self.judge.arrays()
        description = {
            "config": self.config.model_dump(mode="json"),
            "snapshot_id": self.snapshot_id,
            "calibration_id": calibration.id,
            "judge": self.judge.facts(),
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
        }
        tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in statistics.items()}
        write_files(Path(folder), description, self.judge.weights(), tensors)

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto") -> Self:
        """Read a saved detector; executes no code from its files.

        Raises:
            DetectorFileError: if a file is missing, was altered, or is of a newer format.
            ValueError: for a device that is not there.
        """
        pick_device(device)  # here: below, its error would be taken for one of the files
        description, weights, statistics = read_files(Path(folder))
        try:
            config = DetectorConfig.model_validate(description["config"])
            detector = cls(config, device=device, snapshot_id=description["snapshot_id"])
            numbers = {name: tensor.numpy() for name, tensor in statistics.items()}
            detector.judge.restore(weights, numbers, description["judge"])
            detector._restore(numbers, description["calibration_id"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise DetectorFileError(f"{folder}: the files do not make a detector: {error}") from error
        return detector

    def _restore(self, numbers: Mapping[str, NDArray[Any]], calibration_id: str) -> None:
        self.heat = HeatMapStatistics(numbers["heat.mean"], numbers["heat.scale"], float(numbers["heat.limit"]))
        promise = self.config.calibration
        fold_size = int(numbers["calibration.fold_size"])
        self.calibration = Calibration(
            numbers["calibration.scores"],
            promise.false_reject_rate,
            promise.confidence,
            fold_size,
            float(numbers["calibration.trimmed_share"]),
            promise.sure_rate,
        )
        if self.calibration.id != calibration_id:
            raise ValueError(f"calibration id is {self.calibration.id}, recorded {calibration_id}")

    def stack(self, prepared: Sequence[Prepared], chosen: NDArray[np.bool_]) -> PreparedImages:
        """Pixels of the chosen images that are usable, uint8 (N, H, W, C).

        As one array where the networks look at pixels, as a list of the images themselves where they look at
        features: those are large.
        """
        pixels = [image.pixels for image, take in zip(prepared, chosen, strict=True) if take]
        usable = [one for one in pixels if one is not None]
        if self.config.input == "features":
            return usable
        size_px, channels = self.config.recipe.size_px, self.config.recipe.channels
        return np.array(usable, dtype=np.uint8).reshape(-1, size_px, size_px, channels)

    @property
    def calibrated(self) -> Calibration:
        """The calibration.

        Raises:
            ValueError: if the detector is not calibrated.
        """
        if self.calibration is None:
            raise ValueError(NOT_FITTED)
        return self.calibration


def _sample(n_images: int, n: int) -> NDArray[np.intp]:
    """At most n of the images, at equal distances in their order."""
    return np.arange(0, n_images, max(1, -(-n_images // n)))


def _maps_of(judged: Sequence[tuple[float, NDArray[np.float32] | None]]) -> NDArray[np.float32]:
    return np.stack([map_hw for _, map_hw in judged if map_hw is not None])


def _together(first: PreparedImages, second: PreparedImages) -> PreparedImages:
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return np.concatenate([first, second])
    return [*first, *second]


def _some(images: PreparedImages, which: NDArray[np.intp]) -> PreparedImages:
    return images[which] if isinstance(images, np.ndarray) else [images[at] for at in which]
