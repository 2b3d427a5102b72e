"""The detector: networks, recipe and calibration in one object that is trained, saved, loaded and scored with."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.acceleration.memory import keep_freed_memory
from ganomaly.acceleration.precision import Precision, arithmetic, choose_precision
from ganomaly.acceleration.scoring_networks import for_scoring
from ganomaly.config import DetectorConfig
from ganomaly.errors import DetectorFileError
from ganomaly.images.preparation import ImageSource, Prepared, prepare_image, prepare_images
from ganomaly.networks.build import Judgement, Model, build_model
from ganomaly.networks.model import Wanted
from ganomaly.networks.training import EpochStats, to_input, train
from ganomaly.parts.roles import ROLES, plan_roles
from ganomaly.saving import SavedDetector, read_files, write_files
from ganomaly.scoring.calibration import Calibration
from ganomaly.scoring.global_neighbours import GROUPS
from ganomaly.scoring.heads import FOLDS, UNSAMPLED, Heads, HeadsFitting
from ganomaly.scoring.heatmap import HeatMapStatistics, smooth
from ganomaly.scoring.score import GaussianScore, residual_map

_Found = TypeVar("_Found")

Verdict = Literal["ok", "flagged", "unusable"]

SCORING_BATCHES = {"cpu": (4, 2**17, 64), "gpu": (16, 2**20, 1024)}
"""Fewest images, about so many pixels, and most images of a forward pass. More make a CPU hardly faster, and a single
image is padded to as many."""

HEAT_MAP_SAMPLE = 256
"""Images that suffice for the heat map's mean and deviation per location."""

CROSS_FIT_SAMPLE = 512
"""Images that suffice to tell how the heads' distances lie on normal images that they were not fitted on."""

HEAD_METHODS = ("fused", "local", "global")
ALL_METHODS = (*HEAD_METHODS, "gaussian", "paper")


def scoring_batch(size_px: int, device: torch.device) -> int:
    """Images per forward pass, always: smaller batches are padded, so that a score depends on no other image.

    On a CPU 64 images of 32 px, 32 of 64 px, 8 of 128 px.
    """
    fewest, pixels, most = SCORING_BATCHES["cpu" if device.type == "cpu" else "gpu"]
    return max(fewest, min(most, pixels // size_px**2))


@dataclass(frozen=True)
class ImageScore:
    """What the detector says about one image.

    Attributes:
        raw: anomaly score from 0 up, higher for less normal; None when unusable.
        normalised: score in [0, 1), 0.5 at the reject limit; None when unusable.
        p_value: share of normal images that look at least as unusual, in (0, 1]; None when unusable.
        verdict: ``ok``, ``flagged`` or ``unusable``.
        reason: why the image cannot be judged, one short word; None unless unusable.
        detail: the reason with the value found and what is allowed; None unless unusable.
    """

    raw: float | None
    normalised: float | None
    p_value: float | None
    verdict: Verdict
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Evidence:
    """What the networks say about N prepared images.

    Attributes:
        features_nf: float32 (N, F), what the Gaussian score looks at; F = 0 for models that have no such score. These
            two are empty where only the heads were asked.
        paper_n: float32 (N,), the score of the model's paper.
        local_nv: float32 (N, V), distances of the local head's views, for a surface that of its patches; (N, 0) without
            heads, or where they were not asked for.
        global_ng: float32 (N, G), distances of the global head's groups of features; (N, 0) without heads, where they
            were not asked for, and on a surface unless the score "global" was.
        map_nhw: float32 (N, S, S), what the heat map is made of: the local head's map or, without heads, the smoothed
            |x - x_hat|; empty (0, S, S) when not asked for.
    """

    features_nf: NDArray[np.float32]
    paper_n: NDArray[np.float32]
    local_nv: NDArray[np.float32]
    global_ng: NDArray[np.float32]
    map_nhw: NDArray[np.float32]


class Detector:
    """GANomaly, or a method to compare it with, with its recipe and calibration.

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
        if self.device.type == "cpu":
            keep_freed_memory()
        self.snapshot_id = snapshot_id
        self._rng = torch.Generator().manual_seed(self.config.training.seed)
        recipe, network = self.config.recipe, self.config.network
        model = build_model(recipe.size_px, recipe.channels, network, self.config.model, self._rng)
        self.model = model.to(self.device).eval()
        self.precision: Precision = choose_precision(network.precision, self.device)
        self._scoring_model: Model | None = None
        self.gaussian: GaussianScore | None = None
        self.heads: Heads | None = None
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
        detector = cls(config, device=device)
        prepared = list(detector.prepare_all(images))
        roles = plan_roles(prepared, parts, detector.config.calibration, detector.config.training.seed).roles
        pixels = {role: detector.stack(prepared, roles == role) for role in ROLES}
        for _ in detector.train(pixels["train"]):
            pass
        detector.calibrate(np.concatenate([pixels["train"], pixels["fit"]]), pixels["calibrate"])
        return detector

    def prepare(self, image: ImageSource) -> Prepared:
        """Decode one image, judge its quality and apply the recipe; never raises for a bad image."""
        return prepare_image(image, self.config.recipe, self.config.quality)

    def prepare_all(self, images: Sequence[ImageSource]) -> Iterator[Prepared]:
        """Prepare images in their order, several at a time."""
        return prepare_images(images, self.config.recipe, self.config.quality)

    def train(self, images_nhwc: NDArray[np.uint8]) -> Iterator[EpochStats]:
        """Train the networks on prepared normal images, uint8 (N, S, S, C), one epoch per value drawn.

        Raises:
            TrainingDivergedError: if a loss is not finite; the weights of the epoch before are kept.
        """
        for stats in train(self.model, images_nhwc, self.config.training, self._rng, self.precision):
            self._scoring_model = None
            yield stats

    def calibrate(self, fit_nhwc: NDArray[np.uint8], calibrate_nhwc: NDArray[np.uint8]) -> None:
        """Fit the score's statistics on normal images and the reject limit on others that training never saw.

        Args:
            fit_nhwc: prepared normal images, uint8 (N, S, S, C); those that trained the networks may be among them.
            calibrate_nhwc: prepared normal images, uint8 (M, S, S, C), that are not among the others.

        Raises:
            TrainingDataError: if M is too small for the false-reject rate and its confidence.
        """
        rate, confidence = self.config.calibration.false_reject_rate, self.config.calibration.confidence
        if self.config.model.kind == "ganomaly":
            self._fit_statistics(fit_nhwc)
        # some methods take seconds for an image
        methods = (self.config.score.method,)
        fitted = self.examine(fit_nhwc[_sample(len(fit_nhwc), HEAT_MAP_SAMPLE)], methods, maps=True)
        held_out = self.examine(calibrate_nhwc, methods, maps=True)
        self.calibration = Calibration.fit(self._raw_scores(held_out), rate, confidence)
        self.heat = HeatMapStatistics.fit(fitted.map_nhw, held_out.map_nhw, rate)

    def _fit_statistics(self, fit_nhwc: NDArray[np.uint8]) -> None:
        sample = _sample(len(fit_nhwc), CROSS_FIT_SAMPLE)
        fold_n = np.full(len(fit_nhwc), UNSAMPLED)
        fold_n[sample] = np.arange(len(sample)) % FOLDS
        fitting, features, start = HeadsFitting(), [], 0
        for x_bchw, judged in self._judgements(fit_nhwc):
            end = start + len(x_bchw)
            fitting.add(x_bchw, judged, fold_n[start:end])
            features.append(judged.features_bf.cpu())
            start = end
        self.heads = fitting.heads(self._judgements(fit_nhwc[fold_n == fold]) for fold in range(FOLDS)).to(self.device)
        self.gaussian = GaussianScore.fit(torch.cat(features).numpy())

    def score(self, images: Sequence[ImageSource]) -> list[ImageScore]:
        """Judge images: encoded bytes, paths or arrays. One result for each, in their order; bad input never raises.

        Raises:
            ValueError: if the detector is not calibrated.
        """
        prepared = list(self.prepare_all(images))
        scores = iter(self.score_prepared(self.stack(prepared, np.ones(len(prepared), dtype=bool))))
        return [
            next(scores) if p.usable else ImageScore(None, None, None, "unusable", p.reason, p.detail) for p in prepared
        ]

    def score_prepared(self, images_nhwc: NDArray[np.uint8]) -> list[ImageScore]:
        """Judge prepared images, uint8 (N, S, S, C).

        Raises:
            ValueError: if the detector is not calibrated.
        """
        self._calibrated()
        return self._image_scores(self.raw_scores(images_nhwc))

    def score_and_map(self, images_nhwc: NDArray[np.uint8]) -> list[tuple[ImageScore, NDArray[np.float32] | None]]:
        """`score_prepared` and, for each flagged image, its heat map (S, S) of one pass through the networks.

        Raises:
            ValueError: if the detector is not calibrated.
        """
        calibration, methods = self._calibrated(), (self.config.score.method,)
        heads = self._heads_for(methods)
        mapped = self.heads is not None and not self.heads.is_surface
        wanted = self._wanted(methods, heads)._replace(local_views=mapped)

        @torch.no_grad()
        def judge_batch(batch_bhwc: NDArray[np.uint8]) -> list[tuple[ImageScore, NDArray[np.float32] | None]]:
            x_bchw = self._input(batch_bhwc)
            judged = self._judge(x_bchw, wanted)
            columns = self._columns(x_bchw, judged, heads, maps=False)
            raw_b = self._raw_scores(_evidence([_first(columns, len(batch_bhwc))]))
            heats: list[NDArray[np.float32] | None] = [None] * len(raw_b)
            flagged = np.flatnonzero(calibration.flagged(raw_b))
            if len(flagged):
                rows = torch.from_numpy(flagged).to(self.device)
                columns = self._columns(x_bchw[rows], judged.some(rows), self.heads, maps=True)
                for row, heat in zip(flagged, self._heat(_evidence([columns]).map_nhw), strict=True):
                    heats[row] = heat
            return list(zip(self._image_scores(raw_b), heats, strict=True))

        return [one for batch in self._for_each_batch(judge_batch, images_nhwc) for one in batch]

    def _image_scores(self, raw_n: NDArray[np.float64]) -> list[ImageScore]:
        calibration = self._calibrated()
        columns = (raw_n, calibration.normalise(raw_n), calibration.p_value(raw_n), calibration.flagged(raw_n))
        return [
            ImageScore(float(s), float(normalised), float(p), "flagged" if flagged else "ok")
            for s, normalised, p, flagged in zip(*columns, strict=True)
        ]

    def raw_scores(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Raw anomaly scores (N,) of prepared images, uint8 (N, S, S, C)."""
        return self._raw_scores(self.examine(images_nhwc, (self.config.score.method,)))

    def raw_scores_by_method(self, images_nhwc: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
        """All raw scores that the networks offer, (N,) each by its method, of prepared images, uint8 (N, S, S, C).

        One pass through the networks serves all of them; "paper" is always there.
        """
        return self._scores_by_method(self.examine(images_nhwc))

    def heat_maps(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Heat maps (N, S, S) of prepared images, uint8 (N, S, S, C): from 0 up, 1.0 is the map's reject limit.

        Raises:
            ValueError: if the detector is not calibrated.
        """
        self._calibrated()
        return self._heat(self.examine(images_nhwc, (self.config.score.method,), maps=True).map_nhw)

    def _heat(self, map_nhw: NDArray[np.float32]) -> NDArray[np.float32]:
        assert self.heat is not None
        return self.heat.heat(map_nhw)

    def examine(
        self, images_nhwc: NDArray[np.uint8], methods: Collection[str] = ALL_METHODS, *, maps: bool = False
    ) -> Evidence:
        """Run the networks over prepared images, uint8 (N, S, S, C), in batches of one fixed shape.

        Args:
            images_nhwc: prepared images.
            methods: what scores will be made of it: networks that none of them needs do not run.
            maps: whether heat maps will be made of it.
        """
        heads = self.heads if maps else self._heads_for(methods)
        wanted = self._wanted(methods, heads)

        @torch.no_grad()
        def examine_batch(batch_bhwc: NDArray[np.uint8]) -> tuple[Tensor, ...]:
            x = self._input(batch_bhwc)
            return _first(self._columns(x, self._judge(x, wanted), heads, maps=maps), len(batch_bhwc))

        parts = self._for_each_batch(examine_batch, images_nhwc)
        if not parts:
            size_px = self.config.recipe.size_px
            n_views, n_groups = (0, 0) if heads is None else heads.sizes
            return Evidence(
                np.empty((0, 0 if self.gaussian is None else len(self.gaussian.mean_f)), np.float32),
                np.empty(0, np.float32),
                np.empty((0, n_views), np.float32),
                np.empty((0, n_groups if wanted.groups else 0), np.float32),
                np.empty((0, size_px, size_px), np.float32),
            )
        return _evidence(parts)

    def _heads_for(self, methods: Collection[str]) -> Heads | None:
        return None if set(HEAD_METHODS).isdisjoint(methods) else self.heads

    def _wanted(self, methods: Collection[str], heads: Heads | None) -> Wanted:
        """What the networks must say: of a surface nothing that its own head needs."""
        second_pass = self.heads is None or not {"gaussian", "paper"}.isdisjoint(methods)
        if heads is None:
            return Wanted(second_pass, (), local_views=False)
        if heads.is_surface:
            return Wanted(second_pass, self._groups if "global" in methods else (), local_views=False)
        return Wanted(second_pass, self._groups)

    @staticmethod
    def _columns(x_bchw: Tensor, judged: Judgement, heads: Heads | None, *, maps: bool) -> tuple[Tensor, ...]:
        no_map_bhw, none_b0 = x_bchw.new_empty((len(x_bchw), 0, 0)), x_bchw.new_empty((len(x_bchw), 0))
        if heads is not None:
            local_bv, global_bg, map_bhw = heads.examine(x_bchw, judged, x_bchw.shape[-1] if maps else None)
            return judged.features_bf, judged.score_b, local_bv, global_bg, no_map_bhw if map_bhw is None else map_bhw
        if not maps:
            return judged.features_bf, judged.score_b, none_b0, none_b0, no_map_bhw
        smoothed_bhw = torch.from_numpy(smooth(residual_map(x_bchw, judged.x_hat_bchw).cpu().numpy()))
        return judged.features_bf, judged.score_b, none_b0, none_b0, smoothed_bhw

    @torch.no_grad()
    def _judgements(self, images_nhwc: NDArray[np.uint8]) -> Iterator[tuple[Tensor, Judgement]]:
        """Images as network input and what the networks say about them, batch by batch, without the padding."""
        for batch_bhwc in self._batches(images_nhwc):
            x_bchw, n = self._input(batch_bhwc), len(batch_bhwc)
            yield x_bchw[:n], self._judge(x_bchw, Wanted(groups=self._groups)).some(slice(n))

    def _batches(self, images_nhwc: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        size = self.batch_size
        return [images_nhwc[start : start + size] for start in range(0, len(images_nhwc), size)]

    def _input(self, batch_bhwc: NDArray[np.uint8]) -> Tensor:
        """Network input of one fixed shape, whatever the number of images."""
        return to_input(_pad(np.ascontiguousarray(batch_bhwc), self.batch_size), self.device)

    def _for_each_batch(
        self, work: Callable[[NDArray[np.uint8]], _Found], images_nhwc: NDArray[np.uint8]
    ) -> list[_Found]:
        """What the work makes of each batch, in order; on a CPU several at once, each on one core.

        Torch's own threads would wait for each other within every layer. The results are the same bit by bit.
        """
        batches, threads = self._batches(images_nhwc), torch.get_num_threads()
        if self.device.type != "cpu" or threads == 1 or len(batches) < 2:
            return [work(batch) for batch in batches]
        with self.scored_by_threads():
            return list(_workers(threads).map(work, batches))

    @contextmanager
    def scored_by_threads(self) -> Iterator[None]:
        """For threads that score at the same time: those that begin in this block compute on one core each."""
        self._make_scoring_model()  # before several threads ask for it
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    @property
    def batch_size(self) -> int:
        """Images of one forward pass; fewer take as long as so many."""
        return scoring_batch(self.config.recipe.size_px, self.device)

    @property
    def _groups(self) -> tuple[str, ...]:
        """Groups of features that the global head compares, or will when it is fitted."""
        return tuple(GROUPS if self.heads is None else self.heads.neighbours.groups)

    def _judge(self, x_bchw: Tensor, wanted: Wanted) -> Judgement:
        model = self._make_scoring_model()
        with arithmetic(self.precision, self.device):
            return model.judge(x_bchw, wanted)

    def _make_scoring_model(self) -> Model:
        if self._scoring_model is None:
            self._scoring_model = for_scoring(self.model, self.precision, self.device)
        return self._scoring_model

    def save(self, folder: str | Path) -> None:
        """Write the detector as a folder of one JSON and two safetensors files; see `ganomaly.saving`.

        Raises:
            ValueError: if the detector is not calibrated.
        """
        calibration = self._calibrated()
        assert self.heat is not None
        weights = {name: tensor.cpu() for name, tensor in self.model.state_dict().items()}
        statistics = {
            "heat.mean": self.heat.mean_hw,
            "heat.scale": self.heat.scale_hw,
            "heat.limit": np.array(self.heat.limit),
            "calibration.scores": calibration.scores_n,
        }
        if self.heads is not None:
            statistics |= self.heads.to_arrays()
        if self.gaussian is not None:
            statistics |= {
                "gaussian.mean": self.gaussian.mean_f,
                "gaussian.scale": self.gaussian.scale_f,
                "gaussian.precision_root": self.gaussian.precision_root_ff,
                "gaussian.shrinkage": np.array(self.gaussian.shrinkage),
            }
        description = {
            "config": self.config.model_dump(mode="json"),
            "snapshot_id": self.snapshot_id,
            "calibration_id": calibration.id,
            "precision": self.precision,
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
        }
        tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in statistics.items()}
        write_files(Path(folder), SavedDetector(description, weights, tensors))

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto") -> Self:
        """Read a saved detector; executes no code from its files.

        Raises:
            DetectorFileError: if a file is missing, was altered, or is of a newer format.
            ValueError: for a device that is not there.
        """
        pick_device(device)  # here: below, its error would be taken for one of the files
        saved = read_files(Path(folder))
        try:
            config = DetectorConfig.model_validate(_completed(saved.description["config"]))
            detector = cls(config, device=device, snapshot_id=saved.description["snapshot_id"])
            detector._restore(saved)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise DetectorFileError(f"{folder}: the files do not make a detector: {error}") from error
        return detector

    def _restore(self, saved: SavedDetector) -> None:
        self.model.load_state_dict(saved.weights, strict=True)
        self.precision = _precision(saved.description.get("precision", "fp32"))  # formats 1 to 3 have none
        numbers = {name: tensor.numpy() for name, tensor in saved.calibration.items()}
        if self.config.model.kind == "ganomaly":
            self.gaussian = GaussianScore(
                numbers["gaussian.mean"],
                numbers["gaussian.scale"],
                numbers["gaussian.precision_root"],
                float(numbers["gaussian.shrinkage"]),
            )
        if Heads.are_in(numbers):  # formats 1 and 2 have none
            self.heads = Heads.from_arrays(numbers).to(self.device)
        elif self.config.score.method in HEAD_METHODS:
            raise KeyError(f"score.method is {self.config.score.method!r}, but the heads' statistics are missing")
        self.heat = HeatMapStatistics(numbers["heat.mean"], numbers["heat.scale"], float(numbers["heat.limit"]))
        promise = self.config.calibration
        self.calibration = Calibration(numbers["calibration.scores"], promise.false_reject_rate, promise.confidence)
        if self.calibration.id != saved.description["calibration_id"]:
            raise ValueError(f"calibration id is {self.calibration.id}, recorded {saved.description['calibration_id']}")

    def stack(self, prepared: Sequence[Prepared], chosen: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Pixels of the chosen images that are usable as one array, uint8 (N, S, S, C)."""
        pixels = [image.pixels for image, take in zip(prepared, chosen, strict=True) if take and image.usable]
        size_px, channels = self.config.recipe.size_px, self.config.recipe.channels
        return np.array(pixels, dtype=np.uint8).reshape(-1, size_px, size_px, channels)

    def _raw_scores(self, evidence: Evidence) -> NDArray[np.float64]:
        scores = self._scores_by_method(evidence)
        if self.config.score.method not in scores:
            raise ValueError("the detector is not calibrated: call calibrate() or load a calibrated one")
        return scores[self.config.score.method]

    def _scores_by_method(self, evidence: Evidence) -> dict[str, NDArray[np.float64]]:
        n_images, n_views = evidence.local_nv.shape
        scores = {}
        if len(evidence.paper_n) == n_images:
            scores["paper"] = evidence.paper_n.astype(np.float64)
            if self.gaussian is not None:
                scores["gaussian"] = self.gaussian.score(evidence.features_nf)
        if self.heads is not None and n_views:
            scores |= self.heads.raw_scores(evidence.local_nv, evidence.global_ng)
        return scores

    def _calibrated(self) -> Calibration:
        if self.calibration is None:
            raise ValueError("the detector is not calibrated: call calibrate() or load a calibrated one")
        return self.calibration


def _first(columns: tuple[Tensor, ...], n: int) -> tuple[Tensor, ...]:
    """The first n images' float32 columns, in the computer's own memory."""
    return tuple(column[:n].float().cpu() for column in columns)


def _evidence(parts: Sequence[tuple[Tensor, ...]]) -> Evidence:
    return Evidence(*(torch.cat(column).float().cpu().numpy() for column in zip(*parts, strict=True)))


@cache
def _workers(threads: int) -> ThreadPoolExecutor:
    """Threads that examine batches: kept, since memory that was a thread's is not soon another's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="examine")


os.register_at_fork(after_in_child=_workers.cache_clear)  # threads do not survive a fork


def pick_device(name: str) -> torch.device:
    """Resolve ``"auto"`` to CUDA, Apple's MPS or the CPU.

    Raises:
        ValueError: for a name that torch does not know or a device that is not there.
    """
    if name != "auto":
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device = {name!r}: not usable here ({error}); use auto, cpu or cuda") from error
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _sample(n_images: int, n: int) -> NDArray[np.intp]:
    """At most n of the images, at equal distances in their order."""
    return np.arange(0, n_images, max(1, -(-n_images // n)))


def _completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A saved configuration with what older formats meant where they said nothing."""
    return {**config, "recipe": {"reduced_jpeg": False, **config["recipe"]}}


def _precision(name: Any) -> Precision:
    """The precision that a file names.

    Raises:
        ValueError: for any other.
    """
    if name not in get_args(Precision):
        raise ValueError(f"precision is {name!r}: must be one of {', '.join(get_args(Precision))}")
    precision: Precision = name
    return precision


def _pad(batch_bhwc: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    missing = size - len(batch_bhwc)
    return np.pad(batch_bhwc, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else batch_bhwc
