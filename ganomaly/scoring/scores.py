"""All scores of feature maps, fitted together on the same normal images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.networks.feature_ganomaly import FeatureGANomaly
from ganomaly.scoring.density import FeatureDensity, ResidualDensity
from ganomaly.scoring.patch_memory import PatchMemory
from ganomaly.scoring.score import NormalMaps, Score

SCORES: dict[str, type[Score]] = {
    "residual": ResidualDensity,
    "places": FeatureDensity,
    "patches": PatchMemory,
}
"""By the name that tables and saved statistics have for them. A new one needs its file and a line here."""


@dataclass(frozen=True)
class FittedScores:
    """Scores that were fitted on the same images.

    Attributes:
        mean_k: float32 (K,), mean of each number of a vector over all places and images.
        scale_k: float32 (K,), standard deviation.
        scores: by name.
    """

    mean_k: Tensor
    scale_k: Tensor
    scores: Mapping[str, Score]

    @classmethod
    def fit(cls, mean_k: Tensor, scale_k: Tensor, normal: NormalMaps) -> Self:
        """Fit all scores that can be fitted: without networks, those that need none."""
        kinds = {name: kind for name, kind in SCORES.items() if normal.network is not None or not kind.needs_network}
        with torch.no_grad():
            return cls(mean_k, scale_k, {name: kind.fit(normal) for name, kind in kinds.items()})

    @torch.no_grad()
    def maps(self, vectors_blk: Tensor, network: FeatureGANomaly | None) -> dict[str, Tensor]:
        """The map (B, h, w) of each score, by name, of vectors (B, L, K) as the frozen network gave them."""
        x_blk = (vectors_blk - self.mean_k) / self.scale_k
        return {name: score.map(x_blk, network) for name, score in self.scores.items()}

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        scores = {name: score.to(device) for name, score in self.scores.items()}
        return type(self)(self.mean_k.to(device), self.scale_k.to(device), scores)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What was fitted, by name, as it is saved."""
        arrays = {"standard.mean": self.mean_k.cpu().numpy(), "standard.scale": self.scale_k.cpu().numpy()}
        for name, score in self.scores.items():
            arrays |= {f"{name}.{key}": array for key, array in score.to_arrays().items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Restore what `to_arrays` gave.

        Raises:
            KeyError: if something is missing, or a score is none of `SCORES`.
        """
        names = dict.fromkeys(name.split(".")[0] for name in arrays if not name.startswith("standard."))
        ordered = [name for name in SCORES if name in names] + [name for name in names if name not in SCORES]
        return cls(
            torch.from_numpy(arrays["standard.mean"]),
            torch.from_numpy(arrays["standard.scale"]),
            {name: SCORES[name].from_arrays(below(f"{name}.", arrays)) for name in ordered},
        )


def below(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    """What has a name that begins with the prefix, by the rest of the name."""
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
