"""The units of a map: how large its values are at each place on normal images that fitted nothing."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

LEAST_SPREAD = 0.3
"""Of the spread over all places: what is added to that of a single one."""
UNITS_BLUR = 1.0
MAP_BLUR = 0.7
"""Deviations in places: neighbouring places share their units, and a single odd place is noise."""
LEAST = 1e-6


@dataclass(frozen=True)
class PlaceUnits:
    """Mean and spread of the logarithm of a distance at each place.

    Attributes:
        centre_hw: float32 (h, w), mean over new normal images.
        spread_hw: float32 (h, w), standard deviation.
    """

    centre_hw: Tensor
    spread_hw: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w)."""
        return self.centre_hw.shape[0], self.centre_hw.shape[1]

    @classmethod
    def fit(cls, squared_nhw: Tensor) -> Self:
        """Fit on squared distances (N, h, w) of normal images, each measured without that image's help."""
        log_nhw = _log(squared_nhw)
        variance_hw = log_nhw.var(0, correction=0)
        spread_hw = (blur(variance_hw[None], UNITS_BLUR)[0] + LEAST_SPREAD**2 * variance_hw.mean()).sqrt()
        return cls(blur(log_nhw.mean(0)[None], UNITS_BLUR)[0], spread_hw.clamp(min=1e-3))

    def standardise(self, squared_bhw: Tensor) -> Tensor:
        """Squared distances (B, h, w) as a map (B, h, w): about 0 ± 1 for normal images, whatever the place."""
        return blur((_log(squared_bhw) - self.centre_hw) / self.spread_hw, MAP_BLUR)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(self.centre_hw.to(device), self.spread_hw.to(device))


def blur(map_nhw: Tensor, deviation: float) -> Tensor:
    """A Gaussian blur over places (N, h, w), weighted at the borders by what lies inside."""
    rows, columns = (_blurring(int(side), deviation).to(map_nhw) for side in map_nhw.shape[1:])
    few = (rows.expand(len(map_nhw), -1, -1), columns.T.expand(len(map_nhw), -1, -1))
    return torch.bmm(torch.bmm(few[0], map_nhw), few[1])  # of each map alone: no other changes its rounding


def _blurring(n: int, deviation: float) -> Tensor:
    """The matrix (n, n) that blurs n places in a row."""
    at = torch.arange(n)
    apart = (at[:, None] - at).float()
    reach = max(1, int(3 * deviation + 0.5))
    weights = (-apart.square() / (2 * deviation**2)).exp() * (apart.abs() <= reach)
    return weights / weights.sum(1, keepdim=True)


def _log(squared: Tensor) -> Tensor:
    return (squared + LEAST).log()
