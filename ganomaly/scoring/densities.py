"""Scores that are densities of vectors: of the features, and of what GANomaly does not reconstruct of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.networks.feature_ganomaly import FeatureGANomaly
from ganomaly.scoring.density import Density
from ganomaly.scoring.score import NormalMaps, as_maps, as_vectors


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


def _residual(x_blk: Tensor, grid: tuple[int, int], network: FeatureGANomaly | None) -> Tensor:
    assert network is not None
    with torch.no_grad():
        return as_vectors(network.residual(as_maps(x_blk, grid)))
