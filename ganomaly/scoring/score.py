"""One way to judge feature maps: what every score offers, and what it may ask of normal images.

A score is one file of this folder and one line of `SCORES` in `ganomaly.scoring.scores`. All scores give maps in the
same units (`ganomaly.scoring.place_units`), so that the mean of their maps is the map of the detector, and
its worst places (`worst_places`) give the score of the image.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.networks.feature_ganomaly import FeatureGANomaly

WORST_SHARE = 0.02
"""Of a map's places, those that stand for a defect of some size; the worst place alone stands for the smallest."""


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
    """Half the worst of a map's places and half the mean of the worst 2 %, (B,).

    The mean alone dilutes a defect that few places see, the worst place alone hears any noise.
    """
    flat_bl = map_bhw.flatten(1)
    n_worst = max(1, round(WORST_SHARE * int(flat_bl.shape[1])))
    worst_bn = flat_bl.topk(n_worst, dim=1).values
    return (worst_bn[:, 0] + worst_bn.mean(1)) / 2


def as_maps(x_blk: Tensor, grid: tuple[int, int]) -> Tensor:
    """Vectors (B, L, K) as maps (B, K, h, w)."""
    return x_blk.transpose(1, 2).reshape(len(x_blk), -1, *grid)


def as_vectors(x_bkhw: Tensor) -> Tensor:
    """Maps (B, K, h, w) as vectors (B, L, K)."""
    return x_bkhw.flatten(2).transpose(1, 2)
