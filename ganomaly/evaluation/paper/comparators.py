"""The methods that the paper compares GANomaly with, behind one interface: trained by the same loop, judged in batches.

All are built of the same encoder, decoder and discriminator (`ganomaly.networks.layers`), so that a comparison compares
the methods.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.acceleration.precision import arithmetic, choose_precision
from ganomaly.acceleration.scoring_networks import for_scoring
from ganomaly.config import DetectorConfig
from ganomaly.judges.pixels import scoring_batch
from ganomaly.networks.layers import build
from ganomaly.networks.training import EpochStats, Trainable, to_input, train

FEATURE_WEIGHT = 0.1
"""Lambda, the weight of the feature distance in the scores of AnoGAN and EGBAD."""


class Comparator(Trainable):
    """Networks with the score of their paper."""

    @abstractmethod
    def score(self, x_bchw: Tensor) -> Tensor:
        """Raw scores (B,), from 0 up, of images (B, C, S, S) in [-1, 1], each independent of the others."""


class Trial:
    """A comparator that is trained and judges, as a detector does.

    Args:
        construct: makes the networks.
        config: recipe, sizes of the networks, training.
        device: where they compute.
    """

    def __init__(self, construct: Callable[[], Comparator], config: DetectorConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self._rng = torch.Generator().manual_seed(config.training.seed)
        self.networks = build(construct, self._rng).to(device).eval()
        self.precision = choose_precision(config.network.precision, device)

    def train(self, images_nhwc: NDArray[np.uint8]) -> Iterator[EpochStats]:
        """Train on prepared normal images, uint8 (N, S, S, C), one epoch per value drawn.

        Raises:
            TrainingDivergedError: if a loss is not finite.
        """
        return train(self.networks, images_nhwc, self.config.training, self._rng, self.precision)

    @torch.no_grad()
    def raw_scores(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Raw scores (N,) of prepared images, uint8 (N, S, S, C), in batches of one fixed shape."""
        networks = for_scoring(self.networks, self.precision, self.device)
        size, found = scoring_batch(self.config.recipe.size_px, self.device), [np.empty(0)]
        for start in range(0, len(images_nhwc), size):
            batch_bhwc = images_nhwc[start : start + size]
            padded = np.pad(batch_bhwc, ((0, size - len(batch_bhwc)), (0, 0), (0, 0), (0, 0)))
            with arithmetic(self.precision, self.device):
                score_b = networks.score(to_input(padded, self.device))
            found.append(score_b[: len(batch_bhwc)].double().cpu().numpy())
        return np.concatenate(found)


def weighted_distance(x_bchw: Tensor, x_hat_bchw: Tensor, f_bk: Tensor, f_hat_bk: Tensor) -> Tensor:
    """(1 - lambda) ||x - x_hat||_1 + lambda ||f - f_hat||_1, (B,): sums, not means, or lambda would be another.

    AnoGAN's score (arXiv 1703.05921, equations 3 to 5 and section 2.3), which EGBAD takes over (arXiv 1802.06222,
    section 3).
    """
    residual_b = (x_bchw - x_hat_bchw).abs().flatten(1).sum(1)
    feature_b = (f_bk - f_hat_bk).abs().flatten(1).sum(1)
    return (1 - FEATURE_WEIGHT) * residual_b + FEATURE_WEIGHT * feature_b
