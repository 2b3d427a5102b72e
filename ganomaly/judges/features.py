"""Judges images by the feature maps of a frozen network: GANomaly over them, and scores that see otherwise."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.acceleration.cores import on_all_cores, usable_cores
from ganomaly.acceleration.precision import Precision
from ganomaly.config import DetectorConfig
from ganomaly.errors import TrainingDataError
from ganomaly.features.backbone import Backbone, load_backbone, restore_backbone
from ganomaly.features.engine import CompiledEngine, Engine, TorchEngine, export
from ganomaly.features.extraction import Drawn, FeatureStore, StoredVectors, vectors_of
from ganomaly.judges.judge import NOT_FITTED, PreparedImages, WorthAMap
from ganomaly.networks.defect_discriminator import DefectDiscriminator, Seeing, learn_to_find_defects
from ganomaly.networks.feature_ganomaly import FeatureGANomaly, one_cycle
from ganomaly.networks.layers import initialise
from ganomaly.networks.training import EpochStats, train
from ganomaly.scoring.grain import roughness
from ganomaly.scoring.score import NormalMaps, as_maps
from ganomaly.scoring.scores import FittedScores, FoldScores, Judged, as_raw, below

BATCH = 8
"""Images that are judged together."""
LEAST_SCALE = 1e-4
COPIES = 6
"""Of all covariances, that are in memory at once while they are fitted."""
MOST_BYTES = 8e9
BACKBONE = "backbone."
NETWORK = "network."
DISCRIMINATOR = "defects."
GRAPH = "graph"
FOLDS = "folds."

_Found = TypeVar("_Found")


class FeatureJudge:
    """GANomaly over the feature maps of a frozen network, together with other scores of the same maps.

    Args:
        config: of the detector; its recipe knows the size of the network's input.
        device: where networks compute.
        rng: draws weights and the order of images.

    Attributes:
        network: GANomaly over the maps; None before `train` and where statistics are cross-fitted.
        discriminator: finds drawn defects; None before `train`, where statistics are cross-fitted, and where it cannot.
        fitted: the scores; several where statistics are cross-fitted, each fitted without one fold.
        folds: what these said of the calibration images; None where one fit judges.
    """

    precision: Precision = "fp32"

    def __init__(self, config: DetectorConfig, device: torch.device, rng: torch.Generator) -> None:
        self.config = config
        self.device = device
        self._rng = rng
        self._backbone: Backbone | None = None
        self._saved: tuple[Mapping[str, Tensor], Mapping[str, str]] | None = None
        self._engine: Engine | None = None
        self._store: FeatureStore | None = None
        self._grid = (0, 0)
        self._n_fields = 0
        self.network: FeatureGANomaly | None = None
        self.discriminator: DefectDiscriminator | None = None
        self.fitted: tuple[FittedScores, ...] = ()
        self.folds: FoldScores | None = None

    def train(self, images_nhwc: PreparedImages) -> Iterator[EpochStats]:
        """Train on the maps of prepared normal images, uint8 (N, H, W, 3): GANomaly, one epoch per value drawn.

        An epoch is `EPOCH` images drawn from all. Before the first one, drawn defects are learned to be found.

        Raises:
            TrainingDivergedError: if a loss is not finite; the weights of the epoch before are kept.
        """
        self._forget_discriminator()
        self._seen(images_nhwc[0])  # now the grid is known
        judged_hw = None if self.places is None else self.places.cpu().numpy() > 0
        maps_of, seed = self._started_engine().maps, self.config.training.seed
        self.discriminator = learn_to_find_defects(list(images_nhwc), maps_of, seed, self.device, judged_hw)
        self._engine = self._new_engine()
        vectors = self._extracted(images_nhwc)
        n_features = vectors.size - self._n_fields
        mean_k, scale_k = (numbers_k[:n_features] for numbers_k in _standard(vectors))
        with torch.random.fork_rng(devices=[]):
            network = FeatureGANomaly(len(mean_k))
        initialise(network, self._rng)
        network.standard = torch.stack([mean_k, scale_k])
        self.network = network.to(self.device).eval()

        def as_input(vectors_blk: NDArray[np.float16], device: torch.device) -> Tensor:
            x_blk = (torch.from_numpy(vectors_blk[..., :n_features].astype(np.float32)) - mean_k) / scale_k
            return as_maps(x_blk.to(device), self._grid)

        settings = (self.config.training, self._rng, self.precision)
        yield from train(self.network, Drawn(vectors, self._rng), *settings, as_input, one_cycle)

    def fit(self, images_nhwc: PreparedImages) -> None:
        """Fit the scores on prepared normal images, uint8 (N, H, W, 3)."""
        self.fitted, self.folds = (self._fitted_on(self._extracted(images_nhwc)).to(self.device),), None
        self._forget_vectors()

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
        fitted, score_n, maps_nhw = self._cross_fit(images_nhwc, fold_n, n_folds)
        self.fitted, self.folds = fitted, FoldScores.of(score_n[calibrates_n], fold_n[calibrates_n])
        self._forget_vectors()
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
        return as_raw(self._cross_fit(images_nhwc, fold_n, int(fold_n.max()) + 1, trusted_n)[1])

    def _cross_fit(
        self,
        images_nhwc: PreparedImages,
        fold_n: NDArray[np.intp],
        n_folds: int,
        trusted_n: NDArray[np.bool_] | Literal[True] = True,
    ) -> tuple[tuple[FittedScores, ...], NDArray[np.float64], NDArray[np.float32]]:
        self._forget_discriminator()
        vectors, fitted = self._extracted(images_nhwc), []
        maps_nhw, score_n = np.zeros((len(images_nhwc), *self._grid), np.float32), np.zeros(len(images_nhwc))
        for fold in range(n_folds):
            inside, outside = np.flatnonzero(fold_n == fold), np.flatnonzero((fold_n != fold) & trusted_n)
            fitted.append(self._fitted_on(vectors.some(outside)).to(self.device))
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
        drawn = [] if self.discriminator is None else ["drawn"]
        names = ["fused", *self._fitted()[0].scores, *drawn, "grain"]
        judged = self._for_each_batch(lambda batch: self._judged(batch).by_method(), images_nhwc)
        return {name: np.concatenate([np.empty(0), *(of[name] for of in judged)]) for name in names}

    def maps(self, images_nhwc: PreparedImages) -> NDArray[np.float32]:
        """Maps (N, h, w) of prepared images, uint8 (N, H, W, 3)."""
        found = self._for_each_batch(lambda batch: self._judged(batch).map_bhw, images_nhwc)
        return np.concatenate(found) if found else np.empty((0, *self._grid), np.float32)

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
        vectors, beyond = zip(*(self._seen(image_hwc) for image_hwc in images_bhwc), strict=True)
        drawn_bhw = None if self.discriminator is None else torch.from_numpy(np.stack(beyond))
        return self._judgement(np.stack(vectors), self._fitted(), self.folds, drawn_bhw)

    def _judgement(
        self,
        vectors_blk: NDArray[np.float16],
        fitted: Sequence[FittedScores],
        folds: FoldScores | None,
        drawn_bhw: Tensor | None = None,
    ) -> Judged:
        """Judge some images by vectors (B, L, K + G), and by what the discriminator says of them (B, h, w), if any."""
        x_blk = torch.from_numpy(vectors_blk.astype(np.float32)).to(self.device)
        maps, deviations = zip(*((one.maps(x_blk, self.network), one.deviations(x_blk)) for one in fitted), strict=True)
        return Judged(maps, deviations, folds, drawn_bhw).of(self.places)

    def weights(self) -> dict[str, Tensor]:
        """The frozen network's weights, its compiled form, and GANomaly's weights, by name."""
        weights = {BACKBONE + name: tensor.cpu() for name, tensor in self.backbone.network.state_dict().items()}
        weights[GRAPH] = torch.frombuffer(bytearray(self._graph()), dtype=torch.uint8)
        if self.network is not None:
            weights |= {NETWORK + name: tensor.cpu() for name, tensor in self.network.state_dict().items()}
        if self.discriminator is not None:
            weights |= {DISCRIMINATOR + name: tensor.cpu() for name, tensor in self.discriminator.state_dict().items()}
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
            "backbone": dict(self._origin),
            "scores": list(self._fitted()[0].scores),
            "fits": len(self.fitted),
            "grid": list(self._grid),
        }

    def restore(
        self, weights: Mapping[str, Tensor], arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
    ) -> None:
        """Take up what `weights`, `arrays` and `facts` gave; needs no package of weights.

        Raises:
            KeyError, RuntimeError, ValueError: if they do not make a judge.
        """
        self._saved = below(BACKBONE, weights), facts["backbone"]
        if discriminator := below(DISCRIMINATOR, weights):
            self.discriminator = DefectDiscriminator.restored(discriminator)
        self._engine = self._new_engine(weights[GRAPH].numpy().tobytes())
        self._grid = (int(facts["grid"][0]), int(facts["grid"][1]))
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
        origin = self._origin
        judges = ", ".join([*self.fitted[0].scores, *(["drawn defects"] if self.discriminator is not None else [])])
        return f"features of {origin['network']} ({origin['licence']}), judged by {judges}"

    @cached_property
    def places(self) -> Tensor | None:
        """1 for each place of a map that is judged, 0 for the others, (h, w); None for all.

        Judged are places that all images show, unless nothing is looked at in all of the place.
        """
        shown, filled = self.config.recipe.scored_places, self.config.recipe.filled_places
        if shown is None and filled is None:
            return None
        judged = torch.ones(self._grid)
        if shown is not None:
            judged *= self._share_of_places(shown) == 1
        if filled is not None:
            judged *= self._share_of_places(filled) < 1
        return judged.to(self.device)

    def _share_of_places(self, pixels_hw: NDArray[np.bool_]) -> Tensor:
        return F.adaptive_avg_pool2d(torch.from_numpy(pixels_hw.astype(np.float32))[None, None], self._grid)[0, 0]

    def _fitted(self) -> tuple[FittedScores, ...]:
        if not self.fitted:
            raise ValueError(NOT_FITTED)
        return self.fitted

    def _fitted_on(self, vectors: StoredVectors) -> FittedScores:
        needed = vectors.places * vectors.size**2 * 4 * COPIES
        if needed > MOST_BYTES:
            raise TrainingDataError(
                f"a covariance for each of {vectors.places:,} places of {vectors.size:,} numbers takes about "
                f"{needed / 1e9:.0f} GB, more than {MOST_BYTES / 1e9:.0f}: lower recipe.resolution, or take other "
                "features.strides"
            )
        mean_k, scale_k = _standard(vectors)
        if self.network is not None:
            n_features = self.network.standard.shape[1]
            mean_k[:n_features], scale_k[:n_features] = self.network.standard.cpu()
        network = None if self.network is None else copy.deepcopy(self.network).cpu()
        starts = range(0, len(vectors), BATCH)

        def batches() -> Iterator[Tensor]:
            for start in starts:
                yield (torch.from_numpy(vectors[start : start + BATCH].astype(np.float32)) - mean_k) / scale_k

        normal = NormalMaps(batches, self._grid, len(vectors), network, self.config.training.seed)
        return FittedScores.fit(mean_k, scale_k, normal, self._n_fields)

    @property
    def backbone(self) -> Backbone:
        """The frozen network: of a loaded detector only where something else than its graph is asked for."""
        if self._backbone is None and self._saved is not None:
            self._backbone = restore_backbone(self.config.features, *self._saved)
        elif self._backbone is None:
            self._backbone = load_backbone(self.config.features)
        return self._backbone

    @property
    def seeing(self) -> Seeing:
        """The frozen network and, if there is one, the discriminator over its maps."""
        return Seeing(self.backbone.network, self.discriminator)

    @property
    def _origin(self) -> Mapping[str, str]:
        return self.backbone.origin if self._saved is None else self._saved[1]

    def _graph(self) -> bytes:
        if isinstance(self._engine, CompiledEngine):
            return self._engine.graph
        return self._exported()

    def _exported(self) -> bytes:
        if self.config.recipe.input_px is None:
            raise ValueError("recipe.input_px is open: let `Detector.fit` decide it, or `DetectorConfig.fitted_to`")
        return export(self.seeing, *self.config.recipe.input_px)

    def _new_engine(self, graph: bytes | None = None) -> Engine:
        if self.device.type == "cpu":
            return CompiledEngine(self._exported() if graph is None else graph)
        return TorchEngine(self.seeing, self.device)

    def _started_engine(self) -> Engine:
        if self._engine is None:
            self._engine = self._new_engine()
        return self._engine

    def _seen(self, image_hwc: NDArray[np.uint8]) -> tuple[NDArray[np.float16], NDArray[np.float32] | None]:
        """Features and roughness of each place of an image, (L, K + G), and what the discriminator says, (h, w)."""
        maps, beyond = self._started_engine().maps(image_hwc), None
        if self.discriminator is not None:
            *maps, beyond = maps
        vectors, self._grid = vectors_of(maps)
        rough = roughness(image_hwc, self._grid)
        self._n_fields = rough.shape[1]
        if self.places is not None:
            rough[self.places.cpu().numpy().ravel() == 0] = 0  # the same on all images: nothing is unusual there
        return np.concatenate([vectors, rough], axis=1), beyond

    def _vectors(self, image_hwc: NDArray[np.uint8]) -> NDArray[np.float16]:
        return self._seen(image_hwc)[0]

    def _for_each_batch(self, work: Callable[[PreparedImages], _Found], images_nhwc: PreparedImages) -> list[_Found]:
        """What the work makes of each batch of images, in order."""
        self._fitted()
        self._started_engine()  # before several threads ask for it
        return on_all_cores(work, self._batches(images_nhwc), self.device)

    def _extracted(self, images_nhwc: PreparedImages) -> StoredVectors:
        if self._store is None:
            shape = self._vectors(images_nhwc[0]).shape
            self._store = FeatureStore(self._vectors, (shape[0], shape[1]), usable_cores())
        return self._store.add(images_nhwc)

    def _forget_discriminator(self) -> None:
        if self.discriminator is not None:
            self.discriminator = self._engine = None

    def _forget_vectors(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store = None

    @staticmethod
    def _batches(images_nhwc: PreparedImages) -> Sequence[PreparedImages]:
        return [images_nhwc[start : start + BATCH] for start in range(0, len(images_nhwc), BATCH)]


def _standard(vectors: StoredVectors) -> tuple[Tensor, Tensor]:
    """Mean and deviation (K,) of each number of the vectors, over all places and images."""
    n, total, squares = 0, 0.0, 0.0
    for start in range(0, len(vectors), BATCH):
        part_nk = vectors[start : start + BATCH].astype(np.float64).reshape(-1, vectors.size)
        n += len(part_nk)
        total = total + part_nk.sum(0)
        squares = squares + np.square(part_nk).sum(0)
    mean = total / n
    deviation = np.sqrt(np.maximum(squares / n - mean**2, 0)) + LEAST_SCALE
    return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()


def _none(raw_n: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.zeros(len(raw_n), dtype=bool)
