"""Judges images by GANomaly over their pixels: the paper's networks, and scores of what they make of an image."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.acceleration.cores import on_all_cores
from ganomaly.acceleration.precision import Precision, choose_precision
from ganomaly.acceleration.scoring_networks import for_scoring
from ganomaly.config import DetectorConfig
from ganomaly.judges.judge import NOT_FITTED, PreparedImages, WorthAMap
from ganomaly.networks.ganomaly import GANomaly, Pass
from ganomaly.networks.layers import build
from ganomaly.networks.training import EpochStats, to_input, train
from ganomaly.scoring.pixel_scores import (
    FOLDS,
    METHODS,
    UNSAMPLED,
    Measured,
    PixelScores,
    PixelScoresFitting,
)

_Found = TypeVar("_Found")

SCORING_BATCHES = {"cpu": (4, 2**17, 64), "gpu": (16, 2**20, 1024)}
"""Fewest images, about so many pixels, and most images of a forward pass. More make a CPU hardly faster, and a single
image is padded to as many."""

CROSS_FIT_SAMPLE = 512
"""Images that suffice to tell how distances lie on normal images that they were not fitted on."""


def scoring_batch(size_px: int, device: torch.device) -> int:
    """Images per forward pass, always: smaller batches are padded, so that a score depends on no other image.

    On a CPU 64 images of 32 px, 32 of 64 px, 8 of 128 px.
    """
    fewest, pixels, most = SCORING_BATCHES["cpu" if device.type == "cpu" else "gpu"]
    return max(fewest, min(most, pixels // size_px**2))


class PixelJudge:
    """GANomaly over the recipe's pixels.

    Args:
        config: of the detector.
        device: where the networks compute.
        rng: draws weights and the order of images.
    """

    def __init__(self, config: DetectorConfig, device: torch.device, rng: torch.Generator) -> None:
        self.config = config
        self.device = device
        self._rng = rng
        recipe = config.recipe
        model = build(lambda: GANomaly(recipe.size_px, recipe.channels, config.network), rng)
        self.model = model.to(device).eval()
        self.precision: Precision = choose_precision(config.network.precision, device)
        self._scoring_model: GANomaly | None = None
        self.statistics: PixelScores | None = None

    def train(self, images_nhwc: PreparedImages) -> Iterator[EpochStats]:
        """Train the networks on prepared normal images, uint8 (N, S, S, C), one epoch per value drawn.

        Raises:
            TrainingDivergedError: if a loss is not finite; the weights of the epoch before are kept.
        """
        for stats in train(self.model, np.asarray(images_nhwc), self.config.training, self._rng, self.precision):
            self._scoring_model = None
            yield stats

    def fit(self, images_nhwc: PreparedImages) -> None:
        """Fit what the scores compare with on prepared normal images, uint8 (N, S, S, C)."""
        images_nhwc = np.asarray(images_nhwc)
        sample = _sample(len(images_nhwc), CROSS_FIT_SAMPLE)
        fold_n = np.full(len(images_nhwc), UNSAMPLED)
        fold_n[sample] = np.arange(len(sample)) % FOLDS
        fitting, start = PixelScoresFitting(), 0
        for seen, n in self._passes(images_nhwc):
            fitting.add(seen, fold_n[start : start + n])
            start += n
        folds = (self._passes(images_nhwc[fold_n == fold]) for fold in range(FOLDS))
        self.statistics = fitting.fitted(folds, self.device)

    def raw_scores(self, images_nhwc: PreparedImages) -> NDArray[np.float64]:
        """Raw anomaly scores (N,) of prepared images, uint8 (N, S, S, C)."""
        method = self.config.score.method
        found = self._for_each_batch(lambda measured, n: measured.raw_scores(method)[:n], images_nhwc)
        return np.concatenate([np.empty(0), *found])

    def raw_scores_by_method(self, images_nhwc: PreparedImages) -> dict[str, NDArray[np.float64]]:
        """The raw scores (N,) of every method by name, of prepared images, uint8 (N, S, S, C), by one pass."""
        found = self._for_each_batch(
            lambda measured, n: [measured.raw_scores(method)[:n] for method in METHODS], images_nhwc
        )
        columns = zip(*found, strict=True) if found else ((),) * len(METHODS)
        return {name: np.concatenate([np.empty(0), *parts]) for name, parts in zip(METHODS, columns, strict=True)}

    def maps(self, images_nhwc: PreparedImages) -> NDArray[np.float32]:
        """Maps (N, S, S), not yet standardised, of prepared images, uint8 (N, S, S, C)."""
        size_px = self.config.recipe.size_px
        found = self._for_each_batch(lambda measured, n: measured.maps(np.arange(n)), images_nhwc)
        return np.concatenate([np.empty((0, size_px, size_px), np.float32), *found])

    def raw_scores_and_maps(
        self, images_nhwc: PreparedImages, worth_a_map: WorthAMap
    ) -> list[tuple[float, NDArray[np.float32] | None]]:
        """Raw scores and, of images whose score is worth one, maps (S, S), from one pass through the networks."""
        method = self.config.score.method

        def judge(measured: Measured, n: int) -> list[tuple[float, NDArray[np.float32] | None]]:
            raw_b = measured.raw_scores(method)[:n]
            mapped = np.flatnonzero(worth_a_map(raw_b))
            maps: dict[int, NDArray[np.float32]] = {}
            if len(mapped):
                maps = dict(zip(mapped.tolist(), measured.maps(mapped), strict=True))
            return [(raw, maps.get(row)) for row, raw in enumerate(raw_b.tolist())]

        return [one for batch in self._for_each_batch(judge, images_nhwc) for one in batch]

    def _for_each_batch(self, work: Callable[[Measured, int], _Found], images_nhwc: PreparedImages) -> list[_Found]:
        """What the work makes of each batch and the number of its images, in order."""
        if self.statistics is None:
            raise ValueError(NOT_FITTED)
        statistics = self.statistics
        self._make_scoring_model()  # before several threads ask for it

        @torch.no_grad()
        def judge(batch_bhwc: NDArray[np.uint8]) -> _Found:
            return work(statistics.measure(self._pass(batch_bhwc)), len(batch_bhwc))

        return on_all_cores(judge, self._batches(np.asarray(images_nhwc)), self.device)

    def _passes(self, images_nhwc: NDArray[np.uint8]) -> Iterator[tuple[Pass, int]]:
        """Batches of images on their way through the networks, and how many of each are no padding."""
        for batch_bhwc in self._batches(images_nhwc):
            yield self._pass(batch_bhwc), len(batch_bhwc)

    def _pass(self, batch_bhwc: NDArray[np.uint8]) -> Pass:
        """A batch of one fixed shape, whatever the number of images."""
        x_bchw = to_input(_pad(np.ascontiguousarray(batch_bhwc), self.batch_size), self.device)
        return Pass(self._make_scoring_model(), x_bchw, self.precision)

    def _batches(self, images_nhwc: NDArray[np.uint8]) -> Sequence[NDArray[np.uint8]]:
        size = self.batch_size
        return [images_nhwc[start : start + size] for start in range(0, len(images_nhwc), size)]

    @property
    def batch_size(self) -> int:
        """Images of one forward pass; fewer take as long as so many."""
        return scoring_batch(self.config.recipe.size_px, self.device)

    def _make_scoring_model(self) -> GANomaly:
        if self._scoring_model is None:
            self._scoring_model = for_scoring(self.model, self.precision, self.device)
        return self._scoring_model

    def weights(self) -> dict[str, Tensor]:
        """The networks' weights by name."""
        return {name: tensor.cpu() for name, tensor in self.model.state_dict().items()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the scores compare with, by name."""
        return {} if self.statistics is None else self.statistics.to_arrays()

    def facts(self) -> dict[str, Any]:
        """What the detector's description says of this judge, JSON types only."""
        return {"precision": self.precision}

    def restore(
        self, weights: Mapping[str, Tensor], arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
    ) -> None:
        """Take up what `weights`, `arrays` and `facts` gave.

        Raises:
            KeyError: if something is missing.
            RuntimeError: if weights are of other networks.
            ValueError: for a precision that there is not.
        """
        self.model.load_state_dict(weights, strict=True)
        self._scoring_model = None
        self.precision = _precision(facts["precision"])
        self.statistics = PixelScores.from_arrays(arrays).to(self.device)

    @property
    def summary(self) -> str:
        """The way it looks at this line's parts, for people."""
        return f"pixels of {self.config.recipe.size_px} px by GANomaly, score {self.config.score.method}"


def _sample(n_images: int, n: int) -> NDArray[np.intp]:
    """At most n of the images, at equal distances in their order."""
    return np.arange(0, n_images, max(1, -(-n_images // n)))


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
