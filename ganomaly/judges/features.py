"""Judges images by the feature maps of a frozen network: GANomaly over them, and scores that see otherwise."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.acceleration.cores import usable_cores
from ganomaly.acceleration.precision import Precision
from ganomaly.config import DetectorConfig
from ganomaly.features.backbone import Backbone, load_backbone, restore_backbone
from ganomaly.features.engine import CompiledEngine, Engine, TorchEngine, export
from ganomaly.features.extraction import FeatureStore, StoredVectors, vectors_of
from ganomaly.judges.judge import NOT_FITTED, WorthAMap
from ganomaly.networks.feature_ganomaly import FeatureGANomaly
from ganomaly.networks.layers import initialise
from ganomaly.networks.training import EpochStats, train
from ganomaly.scoring.densities import FeatureDensity, ResidualDensity
from ganomaly.scoring.patch_memory import PatchMemory
from ganomaly.scoring.score import NormalMaps, Score, as_maps, worst_places

SCORES: dict[str, type[Score]] = {
    "residual": ResidualDensity,
    "places": FeatureDensity,
    "patches": PatchMemory,
}
"""All ways to judge, by the name that tables and saved statistics have for them. A new one needs its file and a line
here."""
BATCH = 8
"""Images that are judged together, always: smaller batches are padded, so that a score depends on no other image."""
EPOCH = 320
"""Images of an epoch of training, drawn from all."""
WARM_UP = 0.1
LEAST_SCALE = 1e-4
BACKBONE = "backbone."
NETWORK = "network."
GRAPH = "graph"


class FeatureJudge:
    """GANomaly over the feature maps of a frozen network, fused with other scores of the same maps.

    Args:
        config: of the detector; its recipe knows the size of the network's input.
        device: where networks compute.
        rng: draws weights and the order of images.
    """

    precision: Precision = "fp32"

    def __init__(self, config: DetectorConfig, device: torch.device, rng: torch.Generator) -> None:
        self.config = config
        self.device = device
        self._rng = rng
        self._backbone: Backbone | None = None
        self._engine: Engine | None = None
        self._store: FeatureStore | None = None
        self._mean_k = self._scale_k = torch.empty(0)
        self._grid = (0, 0)
        self.network: FeatureGANomaly | None = None
        self.scores: dict[str, Score] = {}

    def train(self, images_nhwc: NDArray[np.uint8]) -> Iterator[EpochStats]:
        """Train GANomaly on the maps of prepared normal images, uint8 (N, H, W, 3), one epoch per value drawn.

        An epoch is `EPOCH` images drawn from all.

        Raises:
            TrainingDivergedError: if a loss is not finite; the weights of the epoch before are kept.
        """
        vectors = self._extracted(images_nhwc)
        self._mean_k, self._scale_k = _standard(vectors)
        with torch.random.fork_rng(devices=[]):
            network = FeatureGANomaly(len(self._mean_k))
        initialise(network, self._rng)
        self.network = network.to(self.device).eval()
        drawn = _Drawn(vectors, self._rng)
        settings = (self.config.training, self._rng, self.precision)
        yield from train(self.network, drawn, *settings, self._as_input, one_cycle)

    def fit(self, images_nhwc: NDArray[np.uint8]) -> None:
        """Fit the scores on prepared normal images, uint8 (N, H, W, 3)."""
        vectors = self._extracted(images_nhwc)
        if not len(self._mean_k):
            self._mean_k, self._scale_k = _standard(vectors)
        network = None if self.network is None else self.network.cpu()
        normal = NormalMaps(
            lambda: (self._standardised(vectors[start : start + BATCH]) for start in range(0, len(vectors), BATCH)),
            self._grid,
            len(vectors),
            network,
            self.config.training.seed,
        )
        with torch.no_grad():
            for name, kind in SCORES.items():
                if kind.needs_network and network is None:
                    continue
                self.scores[name] = kind.fit(normal).to(self.device)
        if self.network is not None:
            self.network.to(self.device)
        assert self._store is not None
        self._store.close()
        self._store = None

    def raw_scores(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Raw anomaly scores (N,) of prepared images, uint8 (N, H, W, 3)."""
        return np.array([raw for raw, _ in self.raw_scores_and_maps(images_nhwc, _none)], dtype=np.float64)

    def raw_scores_by_method(self, images_nhwc: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
        """The scores (N,) of all ways to judge, of prepared images, uint8 (N, H, W, 3), and "fused"."""
        columns: dict[str, list[Tensor]] = {name: [] for name in ("fused", *self.scores)}
        for batch_nhwc in self._batches(images_nhwc):
            maps = self._maps(batch_nhwc)
            columns["fused"].append(worst_places(fused(maps)))
            for name, map_bhw in maps.items():
                columns[name].append(worst_places(map_bhw))
        return {name: _to_raw(torch.cat(parts)) if parts else np.empty(0) for name, parts in columns.items()}

    def maps(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Maps (N, h, w) of prepared images, uint8 (N, H, W, 3)."""
        found = [fused(self._maps(batch_nhwc)) for batch_nhwc in self._batches(images_nhwc)]
        return torch.cat(found).numpy() if found else np.empty((0, *self._grid), np.float32)

    def raw_scores_and_maps(
        self, images_nhwc: NDArray[np.uint8], worth_a_map: WorthAMap
    ) -> list[tuple[float, NDArray[np.float32] | None]]:
        """Raw scores and, of images whose score is worth one, maps (h, w)."""
        judged: list[tuple[float, NDArray[np.float32] | None]] = []
        for batch_nhwc in self._batches(images_nhwc):
            map_bhw = fused(self._maps(batch_nhwc))
            raw_b = _to_raw(worst_places(map_bhw))
            rows = zip(raw_b.tolist(), map_bhw.numpy(), worth_a_map(raw_b), strict=True)
            judged += [(raw, map_hw if keep else None) for raw, map_hw, keep in rows]
        return judged

    @torch.no_grad()
    def _maps(self, images_bhwc: NDArray[np.uint8]) -> dict[str, Tensor]:
        """The map (B, h, w) of each score, by name."""
        if not self.scores:
            raise ValueError(NOT_FITTED)
        vectors = np.stack([self._vectors(image_hwc) for image_hwc in images_bhwc])
        missing = BATCH - len(vectors)
        x_blk = self._standardised(np.pad(vectors, ((0, missing), (0, 0), (0, 0)))).to(self.device)
        return {name: score.map(x_blk, self.network)[: len(vectors)].cpu() for name, score in self.scores.items()}

    @property
    def batch_size(self) -> int:
        """How many images are best judged together."""
        return BATCH

    @contextmanager
    def scored_by_threads(self) -> Iterator[None]:
        """For threads that score at the same time: those that begin in this block compute on one core each."""
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def weights(self) -> dict[str, Tensor]:
        """The frozen network's weights, its compiled form, and GANomaly's weights, by name."""
        backbone = self._loaded_backbone()
        weights = {BACKBONE + name: tensor.cpu() for name, tensor in backbone.network.state_dict().items()}
        weights[GRAPH] = torch.frombuffer(bytearray(self._graph()), dtype=torch.uint8)
        if self.network is not None:
            weights |= {NETWORK + name: tensor.cpu() for name, tensor in self.network.state_dict().items()}
        return weights

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the scores compare with, by name."""
        arrays: dict[str, NDArray[Any]] = {
            "standard.mean": self._mean_k.numpy(),
            "standard.scale": self._scale_k.numpy(),
        }
        for name, score in self.scores.items():
            arrays |= {f"{name}.{key}": array for key, array in score.to_arrays().items()}
        return arrays

    def facts(self) -> dict[str, Any]:
        """What the detector's description says of this judge: whose weights it looks through, and its scores."""
        return {"backbone": dict(self._loaded_backbone().origin), "scores": list(self.scores), "grid": list(self._grid)}

    def restore(
        self, weights: Mapping[str, Tensor], arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
    ) -> None:
        """Take up what `weights`, `arrays` and `facts` gave.

        Raises:
            KeyError, RuntimeError, ValueError: if they do not make a judge.
        """
        self._backbone_weights = _below(BACKBONE, weights)
        self._backbone = restore_backbone(self.config.features, self._backbone_weights, facts["backbone"])
        self._engine = self._started_engine(weights[GRAPH].numpy().tobytes())
        self._grid = (int(facts["grid"][0]), int(facts["grid"][1]))
        self._mean_k, self._scale_k = (
            torch.from_numpy(arrays["standard.mean"]),
            torch.from_numpy(arrays["standard.scale"]),
        )
        if network := _below(NETWORK, weights):
            self.network = FeatureGANomaly(len(self._mean_k))
            self.network.load_state_dict(network, strict=True)
            self.network.to(self.device).eval()
        for name in facts["scores"]:
            self.scores[name] = SCORES[name].from_arrays(_below(f"{name}.", arrays)).to(self.device)

    @property
    def summary(self) -> str | None:
        """Whose weights it looks through, and the ways it judges."""
        origin = self._loaded_backbone().origin
        return f"features of {origin['network']} ({origin['licence']}); scores: {', '.join(self.scores) or 'none yet'}"

    def _loaded_backbone(self) -> Backbone:
        if self._backbone is None:
            self._backbone = load_backbone(self.config.features)
        return self._backbone

    def _graph(self) -> bytes:
        if isinstance(self._engine, CompiledEngine):
            return self._engine.graph
        assert self.config.recipe.input_px is not None
        return export(self._loaded_backbone().network, *self.config.recipe.input_px)

    def _started_engine(self, graph: bytes | None = None) -> Engine:
        if self._engine is None:
            backbone = self._loaded_backbone()
            if self.device.type == "cpu":
                self._engine = CompiledEngine(self._graph() if graph is None else graph)
            else:
                self._engine = TorchEngine(backbone.network, self.device)
        return self._engine

    def _vectors(self, image_hwc: NDArray[np.uint8]) -> NDArray[np.float16]:
        vectors, self._grid = vectors_of(self._started_engine().maps(image_hwc))
        return vectors

    def _extracted(self, images_nhwc: NDArray[np.uint8]) -> StoredVectors:
        if self._store is None:
            shape = self._vectors(images_nhwc[0]).shape
            self._store = FeatureStore(self._vectors, (shape[0], shape[1]), usable_cores())
        return self._store.add(images_nhwc)

    def _standardised(self, vectors_blk: NDArray[np.float16]) -> Tensor:
        return (torch.from_numpy(vectors_blk.astype(np.float32)) - self._mean_k) / self._scale_k

    def _as_input(self, vectors_blk: NDArray[np.float16], device: torch.device) -> Tensor:
        return as_maps(self._standardised(vectors_blk).to(device), self._grid)

    @staticmethod
    def _batches(images_nhwc: NDArray[np.uint8]) -> Sequence[NDArray[np.uint8]]:
        return [images_nhwc[start : start + BATCH] for start in range(0, len(images_nhwc), BATCH)]


def one_cycle(done: float) -> float:
    """A step size that grows for a tenth of the training and then shrinks to nothing (Smith 2018, arXiv 1803.09820)."""
    if done < WARM_UP:
        return (0.1 * WARM_UP + done) / (1.1 * WARM_UP)
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


class _Drawn:
    """An epoch of `EPOCH` images drawn from however many there are: training takes as long for 50 as for 50,000."""

    def __init__(self, vectors: StoredVectors, rng: torch.Generator) -> None:
        self._vectors = vectors
        self._rng = rng

    def __len__(self) -> int:
        return EPOCH

    def __getitem__(self, which: NDArray[np.intp], /) -> NDArray[np.float16]:
        rows = torch.randint(len(self._vectors), (len(which),), generator=self._rng)
        return self._vectors[rows.numpy()]


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


def fused(maps: Mapping[str, Tensor]) -> Tensor:
    """The mean of several scores' maps (B, h, w): all are in the same units."""
    return torch.stack(list(maps.values())).mean(0)


def _to_raw(fused_n: Tensor) -> NDArray[np.float64]:
    """A score, any number, as a raw score from 0 up that keeps its order: log(1 + e^s)."""
    raw: NDArray[np.float64] = np.logaddexp(0.0, fused_n.double().numpy())
    return raw


def _below(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}


def _none(raw_n: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.zeros(len(raw_n), dtype=bool)
