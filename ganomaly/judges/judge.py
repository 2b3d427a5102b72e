"""The contract between a detector and what judges its prepared images."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.acceleration.precision import Precision
from ganomaly.networks.training import EpochStats

NOT_FITTED = "the detector is not calibrated: call calibrate() or load a calibrated one"

PreparedImages = NDArray[np.uint8] | list[NDArray[np.uint8]]
"""N images as the recipe leaves them, uint8 (N, H, W, C): one array, or a list of images (H, W, C)."""

WorthAMap = Callable[[NDArray[np.float64]], NDArray[np.bool_]]
"""Which of N images, by their raw scores (N,), somebody will look at: (N,)."""


class Judge(Protocol):
    """Learns from prepared normal images, uint8 (N, H, W, C), and gives others raw scores and maps.

    A score depends on no other image: one image alone gets the score that it gets in a batch.
    """

    def train(self, images_nhwc: PreparedImages) -> Iterator[EpochStats]:
        """Train the networks, one epoch per value drawn.

        Raises:
            TrainingDivergedError: if a loss is not finite.
        """

    def fit(self, images_nhwc: PreparedImages) -> None:
        """Fit what the scores compare with; images that trained the networks may be among them."""

    def raw_scores(self, images_nhwc: PreparedImages) -> NDArray[np.float64]:
        """Raw scores (N,), higher for less normal.

        Raises:
            ValueError: before `fit`.
        """

    def raw_scores_by_method(self, images_nhwc: PreparedImages) -> dict[str, NDArray[np.float64]]:
        """The scores (N,) of all ways to judge, by name; the one that `raw_scores` gives is among them."""

    def maps(self, images_nhwc: PreparedImages) -> NDArray[np.float32]:
        """Maps of where the images do not look normal, (N, H', W'): not yet standardised."""

    def raw_scores_and_maps(
        self, images_nhwc: PreparedImages, worth_a_map: WorthAMap
    ) -> list[tuple[float, NDArray[np.float32] | None]]:
        """`raw_scores` and, where it is worth one, the map, of one pass."""

    precision: Precision
    """The arithmetic that scores are computed in."""

    def weights(self) -> dict[str, Tensor]:
        """The networks' weights by name."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Statistics that the scores compare with, by name."""

    def facts(self) -> dict[str, Any]:
        """Entries of the detector's description, JSON types only."""

    def restore(
        self, weights: Mapping[str, Tensor], arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]
    ) -> None:
        """Take up what `weights`, `arrays` and `facts` gave.

        Raises:
            KeyError, RuntimeError, ValueError: if they do not make a judge.
        """

    @property
    def summary(self) -> str | None:
        """The way it looks at this line's parts, in one line for people; None if there is nothing to tell."""
