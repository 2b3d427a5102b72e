"""All scores of feature maps, fitted together on the same normal images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.networks.feature_ganomaly import FeatureGANomaly
from ganomaly.scoring.density import FeatureDensity, ResidualDensity
from ganomaly.scoring.grain import Grain, alarm
from ganomaly.scoring.patch_memory import PatchMemory
from ganomaly.scoring.score import NormalMaps, Score, worst_places

SCORES: dict[str, type[Score]] = {
    "residual": ResidualDensity,
    "places": FeatureDensity,
    "patches": PatchMemory,
}
"""By the name that tables and saved statistics have for them. A new one needs its file and a line here."""


@dataclass(frozen=True)
class FittedScores:
    """Scores that were fitted on the same images.

    Vectors (B, L, K + G) hold K features and the roughness of G fields of each place.

    Attributes:
        mean_k: float32 (K + G,), mean of each number of a vector over all places and images.
        scale_k: float32 (K + G,), standard deviation.
        scores: of the features, by name.
        grain: of the roughness.
    """

    mean_k: Tensor
    scale_k: Tensor
    scores: Mapping[str, Score]
    grain: Grain

    @classmethod
    def fit(cls, mean_k: Tensor, scale_k: Tensor, normal: NormalMaps, n_fields: int) -> Self:
        """Fit all scores that can be fitted: without networks, those that need none.

        Args:
            mean_k: see `FittedScores`.
            scale_k: see `FittedScores`.
            normal: vectors of features and, last, of roughness.
            n_fields: G.
        """
        kinds = {name: kind for name, kind in SCORES.items() if normal.network is not None or not kind.needs_network}
        features = replace(normal, batches=lambda: (x_blk[..., :-n_fields] for x_blk in normal.batches()))
        with torch.no_grad():
            scores = {name: kind.fit(features) for name, kind in kinds.items()}
            grain = Grain.fit(lambda: (x_blk[..., -n_fields:].contiguous() for x_blk in normal.batches()), normal.grid)
        return cls(mean_k, scale_k, scores, grain)

    @property
    def n_fields(self) -> int:
        """G."""
        return int(self.grain.density.mean_l1k.shape[2])

    @torch.no_grad()
    def maps(self, vectors_blk: Tensor, network: FeatureGANomaly | None) -> dict[str, Tensor]:
        """The map (B, h, w) of each score, by name, of vectors (B, L, K) as the frozen network gave them."""
        x_blk = ((vectors_blk - self.mean_k) / self.scale_k)[..., : -self.n_fields]
        return {name: score.map(x_blk, network) for name, score in self.scores.items()}

    @torch.no_grad()
    def deviations(self, vectors_blk: Tensor) -> Tensor:
        """How unusual the roughness of whole images is, (B,), see `Grain`, of vectors (B, L, K + G)."""
        x_blk = (vectors_blk - self.mean_k) / self.scale_k
        return self.grain.deviations(x_blk[..., -self.n_fields :])

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        scores = {name: score.to(device) for name, score in self.scores.items()}
        return type(self)(self.mean_k.to(device), self.scale_k.to(device), scores, self.grain.to(device))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What was fitted, by name, as it is saved."""
        arrays = {"standard.mean": self.mean_k.cpu().numpy(), "standard.scale": self.scale_k.cpu().numpy()}
        for name, score in self.scores.items():
            arrays |= {f"{name}.{key}": array for key, array in score.to_arrays().items()}
        arrays |= {f"grain.{key}": array for key, array in self.grain.to_arrays().items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Restore what `to_arrays` gave.

        Raises:
            KeyError: if something is missing, or a score is none of `SCORES`.
        """
        names = dict.fromkeys(name.split(".")[0] for name in arrays if not name.startswith(("standard.", "grain.")))
        ordered = [name for name in SCORES if name in names] + [name for name in names if name not in SCORES]
        return cls(
            torch.from_numpy(arrays["standard.mean"]),
            torch.from_numpy(arrays["standard.scale"]),
            {name: SCORES[name].from_arrays(below(f"{name}.", arrays)) for name in ordered},
            Grain.from_arrays(below("grain.", arrays)),
        )


@dataclass(frozen=True)
class Judged:
    """What F fits say of B images.

    Attributes:
        maps: of each fit the map (B, h, w) of each of its scores, by name.
        deviations: of each fit how unusual the roughness of whole images is, (B,).
    """

    maps: Sequence[Mapping[str, Tensor]]
    deviations: Sequence[Tensor]

    def of(self, places: Tensor | None) -> "Judged":
        """The same on the CPU; `places` (h, w) has 0 where nothing is judged."""
        shown = 1 if places is None else places
        maps = [{name: (map_bhw * shown).cpu() for name, map_bhw in of.items()} for of in self.maps]
        return Judged(maps, [deviations_b.cpu() for deviations_b in self.deviations])

    @cached_property
    def _map_fbhw(self) -> Tensor:
        # all scores are in the same units: the mean of their maps is the map
        return torch.stack([torch.stack(list(of_fit.values())).mean(0) for of_fit in self.maps])

    @property
    def map_bhw(self) -> NDArray[np.float32]:
        """The heat map of each image, not yet standardised."""
        found: NDArray[np.float32] = self._map_fbhw.mean(0).numpy()
        return found

    @property
    def raw_b(self) -> NDArray[np.float64]:
        """Raw scores (B,): the worst places of each fit's map and the alarm of its grain, of the fits the lowest.

        See `Calibration.guaranteed_rate` for why the lowest.
        """
        pairs = zip(self._map_fbhw, self.deviations, strict=True)
        return _as_raw([one_score(map_bhw, deviations_b) for map_bhw, deviations_b in pairs])

    def by_method(self) -> dict[str, NDArray[np.float64]]:
        """The raw scores (B,), "fused", and beside them what each score alone would say, by name."""
        alone = {name: _as_raw([worst_places(of_fit[name]) for of_fit in self.maps]) for name in self.maps[0]}
        return {"fused": self.raw_b} | alone | {"grain": _as_raw(self.deviations)}


def one_score(map_bhw: Tensor, deviations_b: Tensor) -> Tensor:
    """What one fit says of images, (B,), by its map (B, h, w) and the deviations of their grain: above and below 0."""
    return worst_places(map_bhw) + alarm(deviations_b)


def lowest(scores: Sequence[Tensor]) -> Tensor:
    """Of the scores (B,) of each fit the lowest."""
    return torch.stack(list(scores)).amin(0)


def _as_raw(scores: Sequence[Tensor]) -> NDArray[np.float64]:
    """The lowest of the scores as raw scores from 0 up that keep their order: log(1 + e^s)."""
    raw: NDArray[np.float64] = np.logaddexp(0.0, lowest(scores).double().numpy())
    return raw


def below(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    """What has a name that begins with the prefix, by the rest of the name."""
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
