"""Scores by how unusual the vector of each place is: of the features, or of what GANomaly fails to reconstruct.

A Gaussian for every place, in units of what is usual there.

The idea is PaDiM's (Defard et al. 2021, arXiv 2011.08785): normal images give each place of a feature map a mean and a
covariance. Two things are done otherwise here. The covariance of a place is drawn towards the mean covariance of all
places, since a few hundred images do not determine it. And each training image is measured by the statistics of all
*others*, in closed form (Sherman and Morrison 1950), so that every image tells how far new normal images lie: a map is
the logarithm of the distance, minus its mean at that place, over its spread there.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.networks.feature_ganomaly import FeatureGANomaly
from ganomaly.scoring.place_units import LEAST, PlaceUnits
from ganomaly.scoring.score import NormalMaps, as_maps, as_vectors

PRIOR = 0.5
"""Images that the mean covariance of all places counts as at each, for each number of a vector."""
NOISE = 0.01
"""Variance that means nothing, of vectors whose numbers have variance 1 over all places and images."""
IMAGES_AT_ONCE = 8
"""In one product, always: with fewer, zeros fill it up, so that a distance depends on no other image."""

Batches = Callable[[], Iterable[Tensor]]
"""Vectors of normal images (B, L, K) in a fixed order, as often as it is called."""


@dataclass(frozen=True)
class Density:
    """A Gaussian for each of L places, with the units of its distances.

    Attributes:
        mean_l1k: float32 (L, 1, K).
        root_lkk: float32 (L, K, K), R with R R^T = inverse covariance.
        units: of its map.
    """

    mean_l1k: Tensor
    root_lkk: Tensor
    units: PlaceUnits

    @classmethod
    def fit(cls, batches: Batches, grid: tuple[int, int]) -> Self:
        """Fit on vectors of normal images.

        Args:
            batches: (B, L, K) each, two images or more in all; gone through twice.
            grid: height and width of the map, L = h * w.

        Raises:
            ValueError: with fewer than two images.
        """
        n_images, mean_lk, outer_lkk = _moments(batches)
        if n_images < 2:
            raise ValueError(f"a density needs at least 2 normal images, got {n_images}")
        prior = PRIOR * mean_lk.shape[1]
        root_lkk = _root(outer_lkk, n_images, prior)
        unfit = cls(mean_lk[:, None], root_lkk, PlaceUnits(torch.zeros(grid), torch.ones(grid)))
        left_out = [_leave_one_out(unfit._squared(x_blk), n_images, prior) for x_blk in batches()]
        return cls(mean_lk[:, None], root_lkk, PlaceUnits.fit(torch.cat(left_out).reshape(-1, *grid)))

    def map(self, x_blk: Tensor) -> Tensor:
        """How unusual each place is, (B, h, w), of vectors (B, L, K): about 0 ± 1 for normal images."""
        return self.units.standardise(self._squared(x_blk).reshape(-1, *self.units.grid))

    def left_out(self, x_blk: Tensor, n_images: int) -> Tensor:
        """The map (B, h, w) of images that were fitted on, as the statistics of all `n_images` others would have it."""
        squared_bl = _leave_one_out(self._squared(x_blk), n_images, PRIOR * x_blk.shape[2])
        return self.units.standardise(squared_bl.reshape(-1, *self.units.grid))

    def _squared(self, x_blk: Tensor) -> Tensor:
        """Squared Mahalanobis distance over K, (B, L)."""
        spare = -len(x_blk) % IMAGES_AT_ONCE
        full_lbk = F.pad(x_blk.transpose(0, 1) - self.mean_l1k, (0, 0, 0, spare))
        starts = range(0, len(x_blk), IMAGES_AT_ONCE)
        few = (full_lbk[:, start : start + IMAGES_AT_ONCE] for start in starts)
        parts = [torch.bmm(d_lbk, self.root_lkk).square().mean(2).T for d_lbk in few]
        return torch.cat(parts)[: len(x_blk)]

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(self.mean_l1k.to(device), self.root_lkk.to(device), self.units.to(device))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The statistics by name; of the roots, which are triangular, the lower half as float16."""
        rows, columns = torch.tril_indices(*self.root_lkk.shape[1:])
        # upper: R = L^-T
        packed = self.root_lkk.cpu().transpose(1, 2)[:, rows, columns]
        return {
            "mean": self.mean_l1k.cpu().numpy(),
            "root": packed.half().numpy(),
            "centre": self.units.centre_hw.cpu().numpy(),
            "spread": self.units.spread_hw.cpu().numpy(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Restore what `to_arrays` gave.

        Raises:
            KeyError: if a statistic is missing.
        """
        mean = torch.from_numpy(arrays["mean"])
        size = mean.shape[2]
        rows, columns = torch.tril_indices(size, size)
        lower = torch.zeros(len(arrays["root"]), size, size)
        lower[:, rows, columns] = torch.from_numpy(arrays["root"].astype(np.float32))
        root = lower.transpose(1, 2).contiguous()
        return cls(mean, root, PlaceUnits(torch.from_numpy(arrays["centre"]), torch.from_numpy(arrays["spread"])))


@dataclass(frozen=True)
class FeatureDensity:
    """A density of the features: does each place look like that place on good parts?

    Attributes:
        density: of the vectors.
    """

    needs_network: ClassVar[bool] = False
    density: Density

    @classmethod
    def fit(cls, normal: NormalMaps) -> Self:
        """See `Score`."""
        return cls(Density.fit(normal.batches, normal.grid))

    def map(self, x_blk: Tensor, network: FeatureGANomaly | None) -> Tensor:  # noqa: ARG002 - asks no network
        """See `Score`."""
        return self.density.map(x_blk)

    def to(self, device: torch.device) -> Self:
        """See `Score`."""
        return type(self)(self.density.to(device))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """See `Score`."""
        return self.density.to_arrays()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """See `Score`."""
        return cls(Density.from_arrays(arrays))


class ResidualDensity(FeatureDensity):
    """A density of x - x_hat: is each place what GANomaly expects of it, given the rest of the part?

    The networks may have been trained on images that the density is fitted on: it then expects new images to be as
    near as those, and its map is a little too high for them, everywhere. The limit comes from images that nothing saw.
    """

    needs_network = True

    @classmethod
    def fit(cls, normal: NormalMaps) -> Self:
        """See `Score`."""
        network = normal.network
        return cls(
            Density.fit(lambda: (_residual(x_blk, normal.grid, network) for x_blk in normal.batches()), normal.grid)
        )

    def map(self, x_blk: Tensor, network: FeatureGANomaly | None) -> Tensor:
        """See `Score`."""
        return self.density.map(_residual(x_blk, self.density.units.grid, network))


def _moments(batches: Batches) -> tuple[int, Tensor, Tensor]:
    """Number of images, mean (L, K) and sum of centred products (L, K, K)."""
    n_images, total, outer = 0, torch.zeros(1, 1), torch.zeros(1, 1, 1)
    for x_blk in batches():
        x_lbk = x_blk.transpose(0, 1)
        n_images += len(x_blk)
        total = total + x_lbk.double().sum(1)
        outer = outer + torch.bmm(x_lbk.transpose(1, 2), x_lbk)  # of standardised vectors: float32 holds it
    mean_lk = (total / max(1, n_images)).float()
    return n_images, mean_lk, outer - n_images * mean_lk[:, :, None] * mean_lk[:, None, :]


def _root(outer_lkk: Tensor, n_images: int, prior: float) -> Tensor:
    """R with R R^T = inverse of the shrunk covariance: (sum of products + prior * their mean) / (n + prior) + noise."""
    size = outer_lkk.shape[1]
    pooled_kk = outer_lkk.mean(0) / max(1, n_images - 1)
    covariance = (outer_lkk + prior * pooled_kk) / (n_images + prior) + NOISE * torch.eye(size)
    lower = torch.linalg.cholesky(covariance)
    identity = torch.eye(size).expand_as(lower)
    root_lkk: Tensor = torch.linalg.solve_triangular(lower, identity, upper=False).transpose(1, 2)
    return root_lkk.half().float().contiguous()  # as it is saved: a detector judges after loading as it was calibrated


def _leave_one_out(squared_bl: Tensor, n_images: int, prior: float) -> Tensor:
    """Squared distances (B, L) of images that were fitted on, as the statistics of all others would have them.

    With B = (n + prior) S and c = n / (n - 1): without x, B becomes B - c d d^T and d becomes c d.
    """
    size = prior / PRIOR
    c = n_images / (n_images - 1)
    q_bl = squared_bl * size / (n_images + prior)
    return (n_images - 1 + prior) * c**2 * q_bl / (1 - c * q_bl).clamp(min=LEAST) / size


def _residual(x_blk: Tensor, grid: tuple[int, int], network: FeatureGANomaly | None) -> Tensor:
    assert network is not None
    with torch.no_grad():
        return as_vectors(network.residual(as_maps(x_blk, grid)))
