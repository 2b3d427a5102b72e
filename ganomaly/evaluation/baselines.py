"""What needs no network: three scores that a network must beat before anybody believes in it.

Each is fitted on normal images in recipe space, uint8 (N, S, S, C), and gives raw scores like a detector's, from 0 up,
higher for less normal. All are matrix products: thousands of images take seconds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

IMAGES_AT_ONCE = 512
NOISE = 1.0
"""Grey levels: what a pixel may vary without meaning anything, also where it never does among normal images."""
WORST_SHARE = 0.01


class Scorer(Protocol):
    """What judges prepared images: a baseline or a detector."""

    def raw_scores(self, images_nhwc: NDArray[np.uint8], /) -> NDArray[np.float64]:
        """Raw scores (N,) of images in recipe space, uint8 (N, S, S, C)."""


@dataclass(frozen=True)
class NearestImage:
    """1 - correlation with the most similar normal image.

    Attributes:
        normal_np: float32 (N, P), the normal images, each with mean 0 and length 1; 0 for an image of one grey level.
    """

    normal_np: NDArray[np.float32]

    @classmethod
    def fit(cls, images_nhwc: NDArray[np.uint8]) -> Self:
        """Keep the normal images."""
        _check_count(images_nhwc)
        return cls(np.concatenate([_standardised(images) for images in _in_chunks(images_nhwc)]))

    def raw_scores(self, images_nhwc: NDArray[np.uint8], /) -> NDArray[np.float64]:
        """Scores (M,) in [0, 2] of images, uint8 (M, S, S, C); 1 for an image of one grey level."""
        nearest = [(_standardised(images) @ self.normal_np.T).max(axis=1) for images in _in_chunks(images_nhwc)]
        scores: NDArray[np.float64] = np.maximum(0.0, 1 - np.concatenate([np.empty(0), *nearest]))
        return scores


@dataclass(frozen=True)
class PixelGaussian:
    """Root mean square of the pixels' deviations from their mean, each in units of its own standard deviation.

    Attributes:
        mean_hwc: float32 (S, S, C), grey levels.
        scale_hwc: float32 (S, S, C), grey levels.
    """

    mean_hwc: NDArray[np.float32]
    scale_hwc: NDArray[np.float32]

    @classmethod
    def fit(cls, images_nhwc: NDArray[np.uint8]) -> Self:
        """Fit mean and standard deviation of each pixel."""
        _check_count(images_nhwc)
        mean = images_nhwc.mean(axis=0, dtype=np.float64)
        squares = np.zeros(mean.shape)
        for images in _in_chunks(images_nhwc):
            squares += ((images - mean) ** 2).sum(axis=0)
        scale = np.sqrt(squares / len(images_nhwc) + NOISE**2)
        return cls(mean.astype(np.float32), scale.astype(np.float32))

    def raw_scores(self, images_nhwc: NDArray[np.uint8], /) -> NDArray[np.float64]:
        """Scores (M,), about 1 for normal images, of images, uint8 (M, S, S, C)."""
        scores = [
            np.sqrt((((images - self.mean_hwc) / self.scale_hwc) ** 2).mean(axis=(1, 2, 3), dtype=np.float64))
            for images in _in_chunks(images_nhwc)
        ]
        return np.concatenate([np.empty(0), *scores])


@dataclass(frozen=True)
class PatchGaussian:
    """A Gaussian over the small patches at each location; an image's score is the mean of its worst 1 % of locations.

    Attributes:
        side_px: side of a patch.
        mean_lp: float32 (L, P), for each location the mean patch, grey levels.
        root_lpp: float32 (L, P, P), R with R R^T = inverse covariance, shrunk by oracle approximation (Chen et al.
            2010, arXiv 0907.4698, equation 23, without its terms 2 / P, as scikit-learn has it).
    """

    side_px: int
    mean_lp: NDArray[np.float32]
    root_lpp: NDArray[np.float32]

    @classmethod
    def fit(cls, images_nhwc: NDArray[np.uint8], side_px: int = 5) -> Self:
        """Fit mean and covariance of the patches at each location, row by row."""
        _check_count(images_nhwc)
        rows = images_nhwc.shape[1] - side_px + 1
        means, roots = zip(*(cls._fit_row(images_nhwc, row, side_px) for row in range(rows)), strict=True)
        return cls(side_px, np.concatenate(means), np.concatenate(roots))

    @staticmethod
    def _fit_row(
        images_nhwc: NDArray[np.uint8], row: int, side_px: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        mean = images_nhwc[:, row : row + side_px].mean(axis=0, dtype=np.float64)[None]
        mean_lp = _patches_of_row(mean, 0, side_px)[:, 0]
        covariance = np.zeros((*mean_lp.shape, mean_lp.shape[1]))
        for images in _in_chunks(images_nhwc):
            centred = _patches_of_row(images, row, side_px) - mean_lp.astype(np.float32)[:, None]
            covariance += np.matmul(centred.transpose(0, 2, 1), centred)
        covariance = _shrunk(covariance / len(images_nhwc), len(images_nhwc))
        # R = L^-T of covariance = L L^T, so that R R^T is the inverse and patch @ R is white
        root = np.linalg.inv(np.linalg.cholesky(covariance)).transpose(0, 2, 1)
        return mean_lp.astype(np.float32), root.astype(np.float32)

    def raw_scores(self, images_nhwc: NDArray[np.uint8], /) -> NDArray[np.float64]:
        """Scores (M,), about 1 for normal images, of images, uint8 (M, S, S, C)."""
        maps = [self._distances(images) for images in _in_chunks(images_nhwc)]
        n_worst = max(1, round(WORST_SHARE * len(self.mean_lp)))
        worst = [np.partition(map_ml, -n_worst, axis=1)[:, -n_worst:].mean(axis=1) for map_ml in maps]
        return np.concatenate([np.empty(0), *worst])

    def _distances(self, images_mhwc: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Mahalanobis distance over sqrt(P) of each location, (M, L)."""
        columns = images_mhwc.shape[2] - self.side_px + 1
        distances = np.empty((len(images_mhwc), len(self.mean_lp)))
        for row in range(images_mhwc.shape[1] - self.side_px + 1):
            here = slice(row * columns, (row + 1) * columns)
            centred = _patches_of_row(images_mhwc, row, self.side_px) - self.mean_lp[here, None]
            white = np.matmul(centred, self.root_lpp[here])
            distances[:, here] = np.sqrt((white**2).mean(axis=2)).T
        return distances


BASELINES: dict[str, Callable[[NDArray[np.uint8]], Scorer]] = {
    "nearest_image": NearestImage.fit,
    "patch_gaussian": PatchGaussian.fit,
    "pixel_gaussian": PixelGaussian.fit,
}
"""How to fit each baseline on normal images, uint8 (N, S, S, C), by its name in tables."""


def _check_count(images_nhwc: NDArray[np.uint8]) -> None:
    if len(images_nhwc) < 2:
        raise ValueError(f"a baseline needs at least 2 normal images, got {len(images_nhwc)}")


def _in_chunks(images_nhwc: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(images_nhwc), IMAGES_AT_ONCE):
        yield images_nhwc[start : start + IMAGES_AT_ONCE]


def _standardised(images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images as rows of mean 0 and length 1, float32 (N, P); zeros for an image of one grey level."""
    flat = images_nhwc.reshape(len(images_nhwc), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = np.where(length > NOISE, flat / np.maximum(length, NOISE), np.float32(0))
    return flat.astype(np.float32)


def _patches_of_row(images_nhwc: NDArray[np.generic], row: int, side_px: int) -> NDArray[np.float32]:
    """Patches whose upper edge is the row, float32 (columns, N, P)."""
    band = images_nhwc[:, row : row + side_px].astype(np.float32)
    windows = sliding_window_view(band, side_px, axis=2)  # (N, side, columns, C, side)
    patches = windows.transpose(2, 0, 1, 4, 3)
    return np.ascontiguousarray(patches).reshape(windows.shape[2], len(images_nhwc), -1)


def _shrunk(covariance_lpp: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Covariances (L, P, P) of n samples, pulled towards multiples of the identity, with the noise of a pixel added."""
    identity = np.eye(covariance_lpp.shape[1])
    variance = np.trace(covariance_lpp, axis1=1, axis2=2) / len(identity)
    squares = (covariance_lpp**2).mean(axis=(1, 2))
    distance = (n + 1) * (squares - variance**2 / len(identity))  # from the identity
    weight = np.minimum(1, (squares + variance**2) / np.maximum(distance, np.finfo(np.float64).tiny))
    target = (weight * variance)[:, None, None] * identity
    shrunk: NDArray[np.float64] = (1 - weight)[:, None, None] * covariance_lpp + target + NOISE**2 * identity
    return shrunk
