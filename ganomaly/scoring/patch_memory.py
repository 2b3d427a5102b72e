"""A memory of patches: how far the vector of each place lies from the nearest of normal images, wherever that was.

The idea is PatchCore's (Roth et al. 2022, arXiv 2106.08265): of all vectors of normal images a few that cover them are
kept (greedy k-centres, Sener and Savarese 2018, arXiv 1708.00489). They are whitened first by how vectors vary within
a place, so that a distance counts what normal images do not do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.networks.feature_ganomaly import FeatureGANomaly
from ganomaly.scoring.place_units import PlaceUnits
from ganomaly.scoring.score import NormalMaps

KEPT = 1000
CANDIDATES = 20_000
"""Vectors that the kept ones are chosen from, drawn from all images."""
PROJECTED = 64
"""Numbers of a vector while choosing: a random projection keeps distances (Johnson and Lindenstrauss 1984)."""
WHITENING_NOISE = 0.1
MEASURED = 512
"""Images that tell how far new normal images lie."""


@dataclass(frozen=True)
class PatchMemory:
    """Vectors of normal images that cover all of them.

    Attributes:
        whitening_kk: float32 (K, K), applied to vectors first.
        kept_mk: float32 (M, K), whitened.
        units: of its map.
    """

    needs_network: ClassVar[bool] = False
    whitening_kk: Tensor
    kept_mk: Tensor
    units: PlaceUnits

    @classmethod
    def fit(cls, normal: NormalMaps) -> Self:
        """See `Score`; an image is measured by the kept vectors that are not its own."""
        rng = torch.Generator().manual_seed(normal.seed)
        whitening_kk = _whitening(normal)
        candidates_mk, image_m = _candidates(normal, rng)
        candidates_mk = candidates_mk @ whitening_kk
        kept = greedy_centres(candidates_mk, KEPT, rng)
        unfit = cls(whitening_kk, candidates_mk[kept], PlaceUnits(torch.zeros(normal.grid), torch.ones(normal.grid)))
        units = PlaceUnits.fit(unfit._of_others(normal, image_m[kept]))
        return cls(whitening_kk, candidates_mk[kept], units)

    def map(self, x_blk: Tensor, network: FeatureGANomaly | None) -> Tensor:  # noqa: ARG002 - asks no network
        """See `Score`."""
        white_blk = torch.stack([x_lk @ self.whitening_kk for x_lk in x_blk])  # each image alone
        squared_bl = self._squared(white_blk, self.kept_mk)
        return self.units.standardise(squared_bl.reshape(-1, *self.units.grid))

    def _of_others(self, normal: NormalMaps, image_m: Tensor) -> Tensor:
        """Squared distances (N', h, w) of some of the images, each from what is kept of the others."""
        step, measured, number = -(-normal.n_images // MEASURED), [], 0
        for x_blk in normal.batches():
            for x_lk in x_blk:
                if number % step == 0:
                    kept_mk = self.kept_mk[image_m != number]
                    measured.append(self._squared((x_lk @ self.whitening_kk)[None], kept_mk))
                number += 1
        return torch.cat(measured).reshape(-1, *normal.grid)

    @staticmethod
    def _squared(white_blk: Tensor, kept_mk: Tensor) -> Tensor:
        """Squared distance to the nearest kept vector over K, (B, L)."""
        kept_m = kept_mk.square().sum(1)
        nearest = [
            torch.addmm(kept_m, white_lk, kept_mk.T, alpha=-2).min(1).values + white_lk.square().sum(1)
            for white_lk in white_blk
        ]
        return torch.stack(nearest).clamp(min=0) / white_blk.shape[2]

    def to(self, device: torch.device) -> Self:
        """See `Score`."""
        return type(self)(self.whitening_kk.to(device), self.kept_mk.to(device), self.units.to(device))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """See `Score`."""
        return {
            "whitening": self.whitening_kk.cpu().numpy(),
            "kept": self.kept_mk.cpu().numpy(),
            "centre": self.units.centre_hw.cpu().numpy(),
            "spread": self.units.spread_hw.cpu().numpy(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """See `Score`."""
        tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}
        return cls(tensors["whitening"], tensors["kept"], PlaceUnits(tensors["centre"], tensors["spread"]))


def greedy_centres(points_mk: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Indices of at most n points such that none lies far from all of them: always the farthest one is next.

    Args:
        points_mk: (M, K).
        n: how many.
        rng: draws the projection and the first point.
    """
    size = points_mk.shape[1]
    if size > PROJECTED:
        points_mk = points_mk @ (torch.randn(size, PROJECTED, generator=rng) / PROJECTED**0.5)
    square_m = points_mk.square().sum(1)
    chosen = [int(torch.randint(len(points_mk), (1,), generator=rng))]
    nearest_m = torch.full((len(points_mk),), torch.inf)
    for _ in range(min(n, len(points_mk)) - 1):
        newest = points_mk[chosen[-1]]
        nearest_m = torch.minimum(nearest_m, square_m + newest.square().sum() - 2 * (points_mk @ newest))
        chosen.append(int(nearest_m.argmax()))
    return torch.tensor(chosen)


def _whitening(normal: NormalMaps) -> Tensor:
    """R (K, K) with R R^T = inverse of the covariance within a place, means of all places."""
    n_images, total, outer = 0, torch.zeros(1), torch.zeros(1)
    for x_blk in normal.batches():
        n_images += len(x_blk)
        total = total + x_blk.sum(0)
        outer = outer + x_blk.flatten(0, 1).T @ x_blk.flatten(0, 1)
    centred_kk = outer - total.T @ total / n_images
    covariance_kk = centred_kk / (len(total) * max(1, n_images - 1))
    lower_kk = torch.linalg.cholesky(covariance_kk + WHITENING_NOISE * torch.eye(len(covariance_kk)))
    identity = torch.eye(len(lower_kk))
    whitening_kk: Tensor = torch.linalg.solve_triangular(lower_kk, identity, upper=False).T.contiguous()
    return whitening_kk


def _candidates(normal: NormalMaps, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Vectors (M, K) from random places of all images, and whose they are (M,)."""
    n_places = normal.grid[0] * normal.grid[1]
    each = max(1, min(n_places, CANDIDATES // normal.n_images))
    step = -(-normal.n_images * each // CANDIDATES)
    vectors, images, number = [], [], 0
    for x_blk in normal.batches():
        for x_lk in x_blk:
            here = torch.randperm(n_places, generator=rng)[:each]
            if number % step == 0:
                vectors.append(x_lk[here])
                images.append(torch.full((each,), number))
            number += 1
    return torch.cat(vectors), torch.cat(images)
