"""One score of two: each is measured against what it says about normal images that fitted nothing, then they compete.

A score that is restless on a line (the local one where cells are grainy, say) has a wide spread there and must shout
louder to be heard: no line has to know which kind of defect it will meet.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
"""(N,)"""
LEAST_SPREAD = 0.01
SMALLEST = 1e-6


@dataclass(frozen=True)
class Units:
    """How the distances of normal images lie that were not fitted on, and the soft maximum that is made of them.

    Attributes:
        centre_s: float64 (V + 1,), medians: of the logarithms of V distances, then of their soft maximum.
        spread_s: float64 (V + 1,), how far the highest quarter of them lies above the median, on average.
    """

    centre_s: NDArray[np.float64]
    spread_s: NDArray[np.float64]

    @classmethod
    def fit(cls, distances_nv: NDArray[np.floating]) -> Self:
        """Fit on distances (N, V) of normal images."""
        logs_nv = _log(distances_nv)
        centre, spread = zip(*(_centre_and_spread(column_n) for column_n in logs_nv.T), strict=True)
        together_n = _soft_maximum((logs_nv - np.array(centre)) / np.array(spread))
        last_centre, last_spread = _centre_and_spread(together_n)
        return cls(np.array([*centre, last_centre]), np.array([*spread, last_spread]))

    def raw_scores(self, distances_nv: NDArray[np.floating]) -> Scores:
        """Raw scores (N,), from 0 up, of distances (N, V): log(1 + e^h) of h, whose median is 0 on normal images.

        The highest quarter of normal images has a mean of h = 1.
        """
        together_n = _soft_maximum((_log(distances_nv) - self.centre_s[:-1]) / self.spread_s[:-1])
        raw: Scores = np.logaddexp(0.0, (together_n - self.centre_s[-1]) / self.spread_s[-1])
        return raw


def _log(distance: NDArray[np.floating]) -> NDArray[np.float64]:
    logarithm: NDArray[np.float64] = np.log(distance.astype(np.float64) + SMALLEST)
    return logarithm


def _soft_maximum(views_nv: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the mean of e^v: near the mean where views agree, near the highest where one stands out."""
    top = views_nv.max(axis=1)
    soft: NDArray[np.float64] = top + np.log(np.exp(views_nv - top[:, None]).mean(axis=1))
    return soft


def _centre_and_spread(values_n: NDArray[np.float64]) -> tuple[float, float]:
    centre = float(np.median(values_n))
    highest = np.sort(values_n)[-max(1, len(values_n) // 4) :]
    return centre, max(float(highest.mean()) - centre, LEAST_SPREAD)
