"""One way to judge feature maps: what every score offers, and what it may ask of normal images.

A score is one file of this folder and one line of `SCORES` in `ganomaly.scoring.scores`. All scores give maps in the
same units (`ganomaly.scoring.place_units`), so that the mean of their maps is the map of the detector, and the mean of
its worst places the score of the image.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.networks.feature_ganomaly import FeatureGANomaly

WORST_PLACES = 4
"""Places of a map whose mean is the score of the image: a number, not a share. The smallest defect that a map shows is
seen by the few places around it, however many others there are."""


@dataclass(frozen=True)
class NormalMaps:
    """The feature maps of normal images, as often as somebody goes through them.

    Attributes:
        batches: gives vectors (B, L, K) of standardised maps, in a fixed order; L = h * w places, row by row.
        grid: (h, w).
        n_images: of all batches.
        network: the trained networks; None where there are none.
        seed: draws whatever a score draws.
    """

    batches: Callable[[], Iterable[Tensor]]
    grid: tuple[int, int]
    n_images: int
    network: FeatureGANomaly | None
    seed: int


class Score(Protocol):
    """One way to judge feature maps, fitted on normal images."""

    needs_network: ClassVar[bool]
    """Whether it can be fitted only where GANomaly was trained."""

    @classmethod
    def fit(cls, normal: NormalMaps) -> Self:
        """Fit on normal images."""

    def map(self, x_blk: Tensor, network: FeatureGANomaly | None) -> Tensor:
        """How unusual each place is, (B, h, w), of the vectors (B, L, K) of standardised maps.

        About 0 ± 1 for normal images that fitted nothing, whatever the place; higher for less normal.
        """

    def to(self, device: torch.device) -> Self:
        """The same on another device."""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What was fitted, by name, as it is saved."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Restore what `to_arrays` gave.

        Raises:
            KeyError: if something is missing.
        """


def worst_places(map_bhw: Tensor) -> Tensor:
    """The mean of the worst four of a map's places, (B,)."""
    return map_bhw.flatten(1).topk(WORST_PLACES, dim=1).values.mean(1)


def as_maps(x_blk: Tensor, grid: tuple[int, int]) -> Tensor:
    """Vectors (B, L, K) as maps (B, K, h, w)."""
    return x_blk.transpose(1, 2).reshape(len(x_blk), -1, *grid)


def as_vectors(x_bkhw: Tensor) -> Tensor:
    """Maps (B, K, h, w) as vectors (B, L, K)."""
    return x_bkhw.flatten(2).transpose(1, 2)
