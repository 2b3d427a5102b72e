"""What counts only where it lies far beyond all good images, and would add nothing but noise below: two alarms.

The grain: grease, wear or another lot changes the roughness of a part a little everywhere. Each place alone stays
usual, and the worst places of a map say nothing. So a density of fine roughness is fitted for every place, and its
*mean* over the image counts.

Drawn defects: `ganomaly.networks.defect_discriminator` learned to find them. What it says of a place is compared with
what it says there on good images: an edge or a letter that resembles a defect on all parts is none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.scoring.density import Batches, Density

FIELD_PX = 4
"""Side of the fields of which each has one number: the deviation of its grey values."""
ROUNDING = 1.0
"""Variance of grey values that means nothing."""
GATE, WEIGHT = 3.0, 4.0
"""Deviations of good images beyond the usual mean at which the grain's alarm begins, and what each further one adds to
the score of the image, in which good images vary by about one."""
DRAWN_GATE, DRAWN_WEIGHT = 2.0, 0.5
"""The same for places that look like a drawn defect: spreads above the median of good images' highest places."""
NEARLY_ALL = 0.98
"""Of the images that were learned from, the share that tells what a place may look like: of 50 and more, a single odd
one does not."""
WITHIN = (0.16, 0.84)
"""Of good images, the middle share that tells their spread, one deviation each way: long tails do not stretch it."""
LEAST_UNSEEN = 8
"""Good images that were not learned from, which tell what new ones reach."""
LEAST_SPREAD = 0.5
"""Of the largest excess of good images: a smaller one is chance."""
NOT_JUDGED = -1e4
"""The logit of a place that is not judged."""


def roughness(image_hwc: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.float16]:
    """Deviations of the grey values in 4 x 4 px, of an image (H, W, 3): float16 (L, G), L = h * w places.

    G = (H / h / 4) * (W / w / 4) fields lie in each place.
    """
    grey = image_hwc.astype(np.float32).mean(axis=2)
    rows, columns = grey.shape[0] // FIELD_PX, grey.shape[1] // FIELD_PX
    size = (columns, rows)
    mean = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.float32)
    square = np.asarray(cv2.resize(np.square(grey), size, interpolation=cv2.INTER_AREA), np.float32)
    deviation = np.sqrt(np.maximum(square - np.square(mean), 0) + ROUNDING)
    height, width = grid
    fields = deviation.reshape(height, rows // height, width, columns // width).transpose(0, 2, 1, 3)
    found: NDArray[np.float16] = fields.reshape(height * width, -1).astype(np.float16)
    return found


def alarm(deviations: Tensor) -> Tensor:
    """What is added to the score of an image for these deviations of its grain: 0 for nearly all good ones."""
    return WEIGHT * (deviations - GATE).clamp(min=0)


def drawn_alarm(deviations: Tensor) -> Tensor:
    """What is added to a place for these deviations of a drawn defect's looks."""
    return DRAWN_WEIGHT * (deviations - DRAWN_GATE).clamp(min=0)


@dataclass(frozen=True)
class Grain:
    """A density of the roughness of every place, and how its mean over an image lies on new good images.

    Attributes:
        density: of the vectors of roughness.
        centre: mean over good images, each measured by the statistics of all others.
        spread: standard deviation.
    """

    density: Density
    centre: float
    spread: float

    @classmethod
    def fit(cls, batches: Batches, grid: tuple[int, int]) -> Self:
        """Fit on standardised roughness (B, L, G) of normal images; see `Density.fit`."""
        density = Density.fit(batches, grid)
        n_images = sum(len(x_blg) for x_blg in batches())
        means_n = torch.cat([density.left_out(x_blg, n_images).flatten(1).mean(1) for x_blg in batches()])
        return cls(density, float(means_n.mean()), float(means_n.std(correction=0)) + 1e-3)

    def deviations(self, x_blg: Tensor) -> Tensor:
        """How many deviations the roughness of images (B, L, G) lies from the usual, (B,)."""
        return (self.density.map(x_blg).flatten(1).mean(1) - self.centre) / self.spread

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(self.density.to(device), self.centre, self.spread)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What was fitted, by name, as it is saved."""
        return self.density.to_arrays() | {"usual": np.array([self.centre, self.spread])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Restore what `to_arrays` gave, see `Score.from_arrays`."""
        centre, spread = arrays["usual"].tolist()
        return cls(Density.from_arrays(arrays), centre, spread)


@dataclass(frozen=True)
class DrawnDefects:
    """How the logits of a discriminator of drawn defects lie on good images.

    Attributes:
        reached_hw: float32 (h, w), what the logit of each place reaches on the images that it learned from, at least 0.
        centre: median over other good images of the largest excess over these in the image.
        spread: half the width of the middle 68 % of them, at least `LEAST_SPREAD`.
    """

    reached_hw: Tensor
    centre: float
    spread: float

    @classmethod
    def fit(cls, logits_nhw: NDArray[np.float32], learned_n: NDArray[np.bool_]) -> "DrawnDefects | None":
        """Fit on logits (N, h, w) of normal images; `learned_n` are those that the discriminator learned from.

        Returns:
            None with too few others to tell, or if it learned from none of them.
        """
        if (~learned_n).sum() < LEAST_UNSEEN or not learned_n.any():
            return None
        reached_hw = np.quantile(logits_nhw[learned_n], NEARLY_ALL, axis=0).clip(min=0).astype(np.float32)
        highest_m = (logits_nhw[~learned_n] - reached_hw).max(axis=(1, 2))
        low, centre, high = np.quantile(highest_m, (WITHIN[0], 0.5, WITHIN[1])).tolist()
        return cls(torch.from_numpy(reached_hw), centre, max((high - low) / 2, LEAST_SPREAD))

    def deviations(self, logits_bhw: Tensor) -> Tensor:
        """Spreads (B, h, w) that the excess of each place lies above the largest of a usual good image."""
        return (logits_bhw - self.reached_hw - self.centre) / self.spread

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(self.reached_hw.to(device), self.centre, self.spread)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What was fitted, by name, as it is saved."""
        return {"reached": self.reached_hw.cpu().numpy(), "usual": np.array([self.centre, self.spread])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Restore what `to_arrays` gave, see `Score.from_arrays`."""
        centre, spread = arrays["usual"].tolist()
        return cls(torch.from_numpy(arrays["reached"]), centre, spread)
