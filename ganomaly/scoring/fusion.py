"""One score of many: each is measured against what it says about normal images that fitted nothing, then they compete.

A head that is restless on a line (the local head where cells are grainy, say) has a wide spread there and must shout
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
class Fusion:
    """How distances of normal images that fitted nothing lie.

    Attributes:
        centre_s: float64 (V + G + 2,), medians: of the logarithms of the distances of V local views and of G groups of
            global features, then of the local and of the global head made of them.
        spread_s: float64 (V + G + 2,), how far the highest quarter of them lies above the median, on average.
    """

    centre_s: NDArray[np.float64]
    spread_s: NDArray[np.float64]

    @classmethod
    def fit(cls, local_nv: NDArray[np.floating], global_ng: NDArray[np.floating]) -> Self:
        """Fit on distances of normal images, those of the local views (N, V) and of the groups (N, G)."""
        columns_ns = np.concatenate([_log(local_nv), _log(global_ng)], axis=1)
        centre, spread = zip(*(_centre_and_spread(column_n) for column_n in columns_ns.T), strict=True)
        heads = _heads(columns_ns, np.array(centre), np.array(spread), local_nv.shape[1])
        head_centre, head_spread = zip(*(_centre_and_spread(head_n) for head_n in heads), strict=True)
        return cls(np.array([*centre, *head_centre]), np.array([*spread, *head_spread]))

    def raw_scores(self, local_nv: NDArray[np.floating], global_ng: NDArray[np.floating]) -> dict[str, Scores]:
        """Raw scores (N,) of "local", "global" and "fused", of distances (N, V) and (N, G); "local" alone of (N, 0).

        "fused" is the more alarmed of the two heads, both in units in which a normal image's median is 0 and its
        highest quarter 1.
        """
        n_views = local_nv.shape[1]
        if not global_ng.shape[1]:
            local_n = _soft_maximum((_log(local_nv) - self.centre_s[:n_views]) / self.spread_s[:n_views])
            return {"local": _to_raw((local_n - self.centre_s[-2]) / self.spread_s[-2])}
        columns_ns = np.concatenate([_log(local_nv), _log(global_ng)], axis=1)
        heads = _heads(columns_ns, self.centre_s[:-2], self.spread_s[:-2], n_views)
        units = zip(heads, self.centre_s[-2:], self.spread_s[-2:], strict=True)
        local_n, global_n = ((head_n - centre) / spread for head_n, centre, spread in units)
        scores = {"local": local_n, "global": global_n, "fused": np.maximum(local_n, global_n)}
        return {name: _to_raw(score_n) for name, score_n in scores.items()}


def _heads(
    columns_ns: NDArray[np.float64], centre_s: NDArray[np.float64], spread_s: NDArray[np.float64], n_views: int
) -> tuple[Scores, Scores]:
    standardised_ns = (columns_ns - centre_s) / spread_s
    return _soft_maximum(standardised_ns[:, :n_views]), _soft_maximum(standardised_ns[:, n_views:])


def _to_raw(head_n: NDArray[np.float64]) -> NDArray[np.float64]:
    """A head's value, any number, as a raw score from 0 up that keeps its order: log(1 + e^h)."""
    raw: NDArray[np.float64] = np.logaddexp(0.0, head_n)
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
