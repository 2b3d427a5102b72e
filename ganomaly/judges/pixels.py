"""Judges images by GANomaly over their pixels: the paper's networks, and the heads that look at what they say."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.acceleration.precision import Precision, arithmetic, choose_precision
from ganomaly.acceleration.scoring_networks import for_scoring
from ganomaly.config import DetectorConfig
from ganomaly.judges.judge import NOT_FITTED, PreparedImages
from ganomaly.networks.build import Judgement, Model, build_model
from ganomaly.networks.model import Wanted
from ganomaly.networks.training import EpochStats, to_input, train
from ganomaly.scoring.global_neighbours import GROUPS
from ganomaly.scoring.heads import FOLDS, UNSAMPLED, Heads, HeadsFitting
from ganomaly.scoring.heatmap import smooth
from ganomaly.scoring.pixel_scores import GaussianScore, residual_map

_Found = TypeVar("_Found")

SCORING_BATCHES = {"cpu": (4, 2**17, 64), "gpu": (16, 2**20, 1024)}
"""Fewest images, about so many pixels, and most images of a forward pass. More make a CPU hardly faster, and a single
image is padded to as many."""

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


class PixelJudge:
    """GANomaly, or a method to compare it with, over the recipe's pixels.

    Args:
        config: of the detector.
        device: where the networks compute.
        rng: draws weights and the order of images.
    """

    def __init__(self, config: DetectorConfig, device: torch.device, rng: torch.Generator) -> None:
        self.config = config
        self.device = device
        self._rng = rng
        recipe, network = config.recipe, config.network
        model = build_model(recipe.size_px, recipe.channels, network, config.model, rng)
        self.model = model.to(device).eval()
        self.precision: Precision = choose_precision(network.precision, device)
        self._scoring_model: Model | None = None
        self.gaussian: GaussianScore | None = None
        self.heads: Heads | None = None

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
        if self.config.model.kind == "ganomaly":
            self._fit_statistics(np.asarray(images_nhwc))

    def raw_scores(self, images_nhwc: PreparedImages) -> NDArray[np.float64]:
        """Raw anomaly scores (N,) of prepared images, uint8 (N, S, S, C)."""
        return self._raw_scores(self.examine(np.asarray(images_nhwc), (self.config.score.method,)))

    def raw_scores_by_method(self, images_nhwc: PreparedImages) -> dict[str, NDArray[np.float64]]:
        """All raw scores that the networks offer, (N,) each by its method, of prepared images, uint8 (N, S, S, C).

        One pass through the networks serves all of them; "paper" is always there.
        """
        return self._scores_by_method(self.examine(np.asarray(images_nhwc)))

    def maps(self, images_nhwc: PreparedImages) -> NDArray[np.float32]:
        """Maps (N, S, S), not yet standardised, of prepared images, uint8 (N, S, S, C)."""
        return self.examine(np.asarray(images_nhwc), (self.config.score.method,), maps=True).map_nhw

    def raw_scores_and_maps(
        self, images_nhwc: PreparedImages, worth_a_map: Callable[[NDArray[np.float64]], NDArray[np.bool_]]
    ) -> list[tuple[float, NDArray[np.float32] | None]]:
        """Raw scores and, of images whose score is worth one, maps (S, S), from one pass through the networks."""
        methods = (self.config.score.method,)
        heads = self._heads_for(methods)
        mapped = self.heads is not None and not self.heads.is_surface
        wanted = self._wanted(methods, heads)._replace(local_views=mapped)

        @torch.no_grad()
        def judge_batch(batch_bhwc: NDArray[np.uint8]) -> list[tuple[float, NDArray[np.float32] | None]]:
            x_bchw = self._input(batch_bhwc)
            judged = self._judge(x_bchw, wanted)
            columns = self._columns(x_bchw, judged, heads, maps=False)
            raw_b = self._raw_scores(_evidence([_first(columns, len(batch_bhwc))]))
            maps: list[NDArray[np.float32] | None] = [None] * len(raw_b)
            mapped_rows = np.flatnonzero(worth_a_map(raw_b))
            if len(mapped_rows):
                rows = torch.from_numpy(mapped_rows).to(self.device)
                columns = self._columns(x_bchw[rows], judged.some(rows), self.heads, maps=True)
                for row, map_hw in zip(mapped_rows, _evidence([columns]).map_nhw, strict=True):
                    maps[row] = map_hw
            return list(zip(raw_b.tolist(), maps, strict=True))

        return [one for batch in self._for_each_batch(judge_batch, np.asarray(images_nhwc)) for one in batch]

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

    def weights(self) -> dict[str, Tensor]:
        """The networks' weights by name."""
        return {name: tensor.cpu() for name, tensor in self.model.state_dict().items()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the scores compare with, by name."""
        arrays = {} if self.heads is None else self.heads.to_arrays()
        if self.gaussian is not None:
            arrays |= {
                "gaussian.mean": self.gaussian.mean_f,
                "gaussian.scale": self.gaussian.scale_f,
                "gaussian.precision_root": self.gaussian.precision_root_ff,
                "gaussian.shrinkage": np.array(self.gaussian.shrinkage),
            }
        return arrays

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
        if self.config.model.kind == "ganomaly":
            self.gaussian = GaussianScore(
                arrays["gaussian.mean"],
                arrays["gaussian.scale"],
                arrays["gaussian.precision_root"],
                float(arrays["gaussian.shrinkage"]),
            )
            self.heads = Heads.from_arrays(arrays).to(self.device)

    @property
    def summary(self) -> str | None:
        """For people: whether the line is taken for a surface, and what follows; None where nobody measured it."""
        return None if self.heads is None or self.heads.summary is None else f"a surface? {self.heads.summary}"

    def _raw_scores(self, evidence: Evidence) -> NDArray[np.float64]:
        scores = self._scores_by_method(evidence)
        if self.config.score.method not in scores:
            raise ValueError(NOT_FITTED)
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
