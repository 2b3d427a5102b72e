"""Judges images by the feature maps of a frozen network: GANomaly over them, and scores that see otherwise."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.acceleration.cores import on_all_cores
from ganomaly.acceleration.precision import Precision
from ganomaly.config import DetectorConfig
from ganomaly.features.vectors import Drawn, StoredVectors, digest_of
from ganomaly.judges.image_vectors import BATCH, ImageVectors
from ganomaly.judges.judge import NOT_FITTED, PreparedImages, WorthAMap
from ganomaly.networks.defect_discriminator import (
    learn_to_find_defects,
    learn_without_folds,
)
from ganomaly.networks.feature_ganomaly import FeatureGANomaly, one_cycle
from ganomaly.networks.layers import initialise
from ganomaly.networks.training import EpochStats, train
from ganomaly.saving import below
from ganomaly.scoring.alarms import DrawnDefects
from ganomaly.scoring.score import NormalMaps, as_maps
from ganomaly.scoring.scores import FittedScores, FoldScores, Judged, as_raw

HELD_OUT = 6
"""Of so many images that it trains on, one tells whether drawn defects are found."""
NETWORK = "network."
FOLDS = "folds."

_Found = TypeVar("_Found")


class FeatureJudge:
    """GANomaly over the feature maps of a frozen network, together with other scores of the same maps.

    Args:
        config: of the detector; its recipe knows the size of the network's input.
        device: where networks compute.
        rng: draws weights and the order of images.

    Attributes:
        vectors: of each place, what the scores read.
        extractor: what they come from.
        network: GANomaly over the maps; None before `train` and where statistics are cross-fitted.
        fitted: the scores; several where statistics are cross-fitted, each fitted without one fold.
        folds: what these said of the calibration images; None where one fit judges.
    """

    precision: Precision = "fp32"

    def __init__(self, config: DetectorConfig, device: torch.device, rng: torch.Generator) -> None:
        self.config = config
        self.device = device
        self._rng = rng
        self._trained: frozenset[bytes] = frozenset()
        self.vectors = ImageVectors(config, device)
        self.extractor = self.vectors.extractor
        self.network: FeatureGANomaly | None = None
        self.fitted: tuple[FittedScores, ...] = ()
        self.folds: FoldScores | None = None

    def train(self, images_nhwc: PreparedImages) -> Iterator[EpochStats]:
        """Train on the maps of prepared normal images, uint8 (N, H, W, 3): GANomaly, one epoch per value drawn.

        An epoch is `EPOCH` images drawn from all. Before the first one, drawn defects are learned to be found.

        Raises:
            TrainingDivergedError: if a loss is not finite; the weights of the epoch before are kept.
        """
        seed = self.config.training.seed
        tried_n = np.random.default_rng(seed).permutation(len(images_nhwc)) % HELD_OUT == 0
        with self.vectors.drawn_copies(images_nhwc, tried_n.astype(np.intp)) as copies:
            found = learn_to_find_defects(copies, ~tried_n, tried_n, seed, self.device)
        self.vectors.set_discriminators([] if found is None else [found])
        self._trained = frozenset(digest_of(image_hwc) for image_hwc in images_nhwc)
        vectors = self.vectors.of_all(images_nhwc)
        n_features = self.vectors.n_features
        mean_k, scale_k = (numbers_k[:n_features] for numbers_k in vectors.mean_and_deviation())
        with torch.random.fork_rng(devices=[]):
            network = FeatureGANomaly(len(mean_k))
        initialise(network, self._rng)
        network.standard = torch.stack([mean_k, scale_k])
        self.network = network.to(self.device).eval()

        def as_input(vectors_blk: NDArray[np.float16], device: torch.device) -> Tensor:
            x_blk = (torch.from_numpy(vectors_blk[..., :n_features].astype(np.float32)) - mean_k) / scale_k
            return as_maps(x_blk.to(device), self.vectors.grid)

        settings = (self.config.training, self._rng, self.precision)
        yield from train(self.network, Drawn(vectors, self._rng), *settings, as_input, one_cycle)

    def fit(self, images_nhwc: PreparedImages) -> None:
        """Fit the scores on prepared normal images, uint8 (N, H, W, 3)."""
        vectors, usual = self.vectors.of_all(images_nhwc), None
        fitted = self._fitted_on(vectors)
        if self.extractor.discriminators:
            trained_n = np.array([digest_of(image_hwc) in self._trained for image_hwc in images_nhwc])
            usual = DrawnDefects.fit(self.vectors.logits(vectors, 0), trained_n)
            usual = self.fitted[0].drawn if usual is None and self.fitted else usual  # a loaded judge knows
        self.fitted, self.folds = (replace(fitted, drawn=usual).to(self.device),), None
        self.vectors.forget()
        if usual is None:
            self.vectors.set_discriminators(())

    def cross_fit(
        self,
        images_nhwc: PreparedImages,
        fold_n: NDArray[np.intp],
        n_folds: int,
        calibrates_n: NDArray[np.bool_],
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Fit the scores once for each fold, without the images of that fold.

        Args:
            images_nhwc: prepared normal images, uint8 (N, H, W, 3).
            fold_n: the fold of each, (N,), from 0 up; those from `n_folds` up are never left out.
            n_folds: how many folds are left out in turn.
            calibrates_n: which of them, in folds that are left out, new images are compared with, (N,).

        Returns:
            Raw scores (N,) and maps (N, h, w) of the images, each by the scores that were fitted without its fold; of
            those that were never left out they mean nothing.
        """
        with self.vectors.drawn_copies(images_nhwc, fold_n) as copies:
            found_f, unseen_fn = learn_without_folds(copies, fold_n, n_folds, self.config.training.seed, self.device)
        self.vectors.set_discriminators([one for one in found_f if one is not None])
        column_f = np.where([one is None for one in found_f], -1, np.cumsum([one is not None for one in found_f]) - 1)
        fitted, score_n, maps_nhw = self._cross_fit(images_nhwc, fold_n, n_folds, True, column_f, unseen_fn)
        self.fitted, self.folds = fitted, FoldScores.of(score_n[calibrates_n], fold_n[calibrates_n])
        self.vectors.forget()
        return as_raw(score_n), maps_nhw

    def scores_among_others(
        self, images_nhwc: PreparedImages, fold_n: NDArray[np.intp], trusted_n: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Raw scores (N,) of prepared images, each by scores that were fitted on the other folds; nothing is kept.

        Args:
            images_nhwc: prepared images, uint8 (N, H, W, 3).
            fold_n: the fold of each, (N,), from 0 up.
            trusted_n: which of them may be fitted on, (N,).
        """
        self.vectors.set_discriminators(())  # they would have learned from defects
        self.fitted, self.folds = (), None
        return as_raw(self._cross_fit(images_nhwc, fold_n, int(fold_n.max()) + 1, trusted_n)[1])

    def _cross_fit(
        self,
        images_nhwc: PreparedImages,
        fold_n: NDArray[np.intp],
        n_folds: int,
        trusted_n: NDArray[np.bool_] | Literal[True] = True,
        column_f: NDArray[np.intp] | None = None,
        unseen_fn: NDArray[np.bool_] | None = None,
    ) -> tuple[tuple[FittedScores, ...], NDArray[np.float64], NDArray[np.float32]]:
        """The fits without each fold, and what each says of its fold: scores (N,) above and below 0, and maps."""
        vectors, fitted = self.vectors.of_all(images_nhwc), []
        maps_nhw, score_n = np.zeros((len(images_nhwc), *self.vectors.grid), np.float32), np.zeros(len(images_nhwc))
        for fold in range(n_folds):
            inside, outside = np.flatnonzero(fold_n == fold), np.flatnonzero((fold_n != fold) & trusted_n)
            one = self._fitted_on(vectors.some(outside))
            if unseen_fn is not None and column_f is not None and (column := int(column_f[fold])) >= 0:
                usual = DrawnDefects.fit(self.vectors.logits(vectors.some(outside), column), ~unseen_fn[fold, outside])
                one = replace(one, drawn=usual, discriminator=column)
            fitted.append(one.to(self.device))
            for start in range(0, len(inside), BATCH):
                rows = inside[start : start + BATCH]
                judged = self._judgement(vectors[rows], fitted[-1:], None)
                maps_nhw[rows], score_n[rows] = judged.map_bhw, judged.score_b
        return tuple(fitted), score_n, maps_nhw

    def raw_scores(self, images_nhwc: PreparedImages) -> NDArray[np.float64]:
        """Raw anomaly scores (N,) of prepared images, uint8 (N, H, W, 3)."""
        return np.array([raw for raw, _ in self.raw_scores_and_maps(images_nhwc, _none)], dtype=np.float64)

    def raw_scores_by_method(self, images_nhwc: PreparedImages) -> dict[str, NDArray[np.float64]]:
        """The scores (N,) of all ways to judge, of prepared images, uint8 (N, H, W, 3), and "fused"."""
        drawn = ["drawn"] if any(one.drawn is not None for one in self._fitted()) else []
        names = ["fused", *self._fitted()[0].scores, *drawn, "grain"]
        judged = self._for_each_batch(lambda batch: self._judged(batch).by_method(), images_nhwc)
        return {name: np.concatenate([np.empty(0), *(of[name] for of in judged)]) for name in names}

    def maps(self, images_nhwc: PreparedImages) -> NDArray[np.float32]:
        """Maps (N, h, w) of prepared images, uint8 (N, H, W, 3)."""
        found = self._for_each_batch(lambda batch: self._judged(batch).map_bhw, images_nhwc)
        return np.concatenate(found) if found else np.empty((0, *self.vectors.grid), np.float32)

    def raw_scores_and_maps(
        self, images_nhwc: PreparedImages, worth_a_map: WorthAMap
    ) -> list[tuple[float, NDArray[np.float32] | None]]:
        """Raw scores and, of images whose score is worth one, maps (h, w)."""

        def judge(batch_nhwc: PreparedImages) -> list[tuple[float, NDArray[np.float32] | None]]:
            judged = self._judged(batch_nhwc)
            rows = zip(judged.raw_b.tolist(), judged.map_bhw, worth_a_map(judged.raw_b), strict=True)
            return [(raw, map_hw if keep else None) for raw, map_hw, keep in rows]

        return [one for batch in self._for_each_batch(judge, images_nhwc) for one in batch]

    def _judged(self, images_bhwc: PreparedImages) -> Judged:
        vectors_blk = np.stack([self.vectors.of(image_hwc) for image_hwc in images_bhwc])
        return self._judgement(vectors_blk, self._fitted(), self.folds)

    def _judgement(
        self, vectors_blk: NDArray[np.float16], fitted: Sequence[FittedScores], folds: FoldScores | None
    ) -> Judged:
        """Judge some images by vectors (B, L, K + G + D)."""
        x_blk = torch.from_numpy(vectors_blk.astype(np.float32)).to(self.device)
        maps = [one.maps(x_blk, self.network) for one in fitted]
        deviations = [one.deviations(x_blk) for one in fitted]
        drawn = [one.drawn_deviations(x_blk, self.vectors.grid) for one in fitted]
        return Judged(maps, deviations, drawn, folds).of(self.vectors.places)

    def weights(self) -> dict[str, Tensor]:
        """The frozen network's weights, its compiled form, and GANomaly's weights, by name."""
        weights = self.extractor.weights()
        if self.network is not None:
            weights |= {NETWORK + name: tensor.cpu() for name, tensor in self.network.state_dict().items()}
        return weights

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Statistics that the scores compare with, by name."""
        arrays = {
            f"fit{number}.{name}": array
            for number, one in enumerate(self.fitted)
            for name, array in one.to_arrays().items()
        }
        if self.folds is not None:
            arrays |= {f"{FOLDS}{name}": array for name, array in self.folds.to_arrays().items()}
        return arrays

    def facts(self) -> dict[str, Any]:
        """Entries of the detector's description: whose weights it looks through, and its scores."""
        return {
            "backbone": dict(self.extractor.origin),
            "discriminators": len(self.extractor.discriminators),
            "scores": list(self._fitted()[0].scores),
            "fits": len(self.fitted),
            "grid": list(self.vectors.grid),
        }

    def restore(
        self, weights: Mapping[str, Tensor], arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
    ) -> None:
        """Take up what `weights`, `arrays` and `facts` gave; needs no package of weights.

        Raises:
            KeyError, RuntimeError, ValueError: if they do not make a judge.
        """
        self.extractor.restore(weights, facts["backbone"], int(facts["discriminators"]))
        self.vectors.grid = (int(facts["grid"][0]), int(facts["grid"][1]))
        fits = (FittedScores.from_arrays(below(f"fit{number}.", arrays)) for number in range(int(facts["fits"])))
        self.fitted = tuple(one.to(self.device) for one in fits)
        self.folds = FoldScores.from_arrays(below(FOLDS, arrays)) if len(self.fitted) > 1 else None
        if network := below(NETWORK, weights):
            self.network = FeatureGANomaly(len(self._fitted()[0].mean_k) - self._fitted()[0].n_fields)
            self.network.load_state_dict(network, strict=True)
            self.network.to(self.device).eval()

    @property
    def summary(self) -> str | None:
        """Weights that it looks through, and the ways it judges, for people."""
        if not self.fitted:
            return None
        origin = self.extractor.origin
        drawn = ["drawn defects"] if self.extractor.discriminators else []
        judges = ", ".join([*self.fitted[0].scores, *drawn])
        return f"features of {origin['network']} ({origin['licence']}), judged by {judges}"

    def _fitted(self) -> tuple[FittedScores, ...]:
        if not self.fitted:
            raise ValueError(NOT_FITTED)
        return self.fitted

    def _fitted_on(self, vectors: StoredVectors) -> FittedScores:
        size = self.vectors.n_features + self.vectors.n_fields
        mean_k, scale_k = (numbers_k[:size] for numbers_k in vectors.mean_and_deviation())
        if self.network is not None:
            mean_k[: self.vectors.n_features], scale_k[: self.vectors.n_features] = self.network.standard.cpu()
        network = None if self.network is None else copy.deepcopy(self.network).cpu()
        starts = range(0, len(vectors), BATCH)

        def batches() -> Iterator[Tensor]:
            for start in starts:
                x_blk = torch.from_numpy(vectors[start : start + BATCH][..., :size].astype(np.float32))
                yield (x_blk - mean_k) / scale_k

        normal = NormalMaps(batches, self.vectors.grid, len(vectors), network, self.config.training.seed)
        return FittedScores.fit(mean_k, scale_k, normal, self.vectors.n_fields)

    def _for_each_batch(self, work: Callable[[PreparedImages], _Found], images_nhwc: PreparedImages) -> list[_Found]:
        """What the work makes of each batch of images, in order."""
        self._fitted()
        _ = self.extractor.engine  # compiled before several threads ask for it
        return on_all_cores(work, self._batches(images_nhwc), self.device)

    @staticmethod
    def _batches(images_nhwc: PreparedImages) -> Sequence[PreparedImages]:
        return [images_nhwc[start : start + BATCH] for start in range(0, len(images_nhwc), BATCH)]


def _none(raw_n: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.zeros(len(raw_n), dtype=bool)
