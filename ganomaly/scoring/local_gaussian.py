"""The local score: does every place of the image look as that place does on normal images?

Four views of an image, from small patches to the whole, are each described by one Gaussian for every location
(`LocationGaussian`). Whitening by the location's own covariance is what finds a thin crack beside a bright edge: what
varies among normal parts counts little, what never varies counts much.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor

PATCH_PX = 4
PATCH_STEP_PX = 2
FEATURE_SIDE = 16
"""Largest side of the view on the encoder's features: their statistics take side^2 covariances."""
WHOLE_SIDE = 16
WORST_SHARE = 0.01
NOISE = 0.01
"""Variance that means nothing, also where normal images never vary, as a share of a channel's variance over all
locations."""
VIEWS = ("fine", "coarse", "features", "whole")
MAPPED = ("fine", "coarse", "features")
"""The views that say where."""


def local_views(x_bchw: Tensor, x_hat_bchw: Tensor, second_layer_bchw: Tensor) -> tuple[Tensor, ...]:
    """What the local score looks at, each (B, K, side, side) with a vector of K numbers for each location.

    - fine: patches of 4 x 4 px of the image and of x - x_hat, every 2 px
    - coarse: the same at half the resolution
    - features: the second layer of G_E
    - whole: the image at 16 x 16 px as a single vector

    Args:
        x_bchw: images (B, C, S, S) in [-1, 1].
        x_hat_bchw: their reconstructions.
        second_layer_bchw: activations of G_E's second layer for the images, in any precision.
    """
    pair_bchw = torch.cat([x_bchw, x_bchw - x_hat_bchw], dim=1)
    features_bchw = second_layer_bchw
    if features_bchw.shape[-1] > FEATURE_SIDE:
        features_bchw = F.adaptive_avg_pool2d(features_bchw.float(), FEATURE_SIDE)
    return (
        _patches(pair_bchw),
        _patches(F.avg_pool2d(pair_bchw, 2)),
        features_bchw.permute(2, 3, 0, 1).contiguous().float().permute(2, 3, 0, 1),  # each place's together in memory
        F.adaptive_avg_pool2d(x_bchw, WHOLE_SIDE).flatten(1)[:, :, None, None],
    )


def _patches(x_bchw: Tensor) -> Tensor:
    """Patches (B, K, side, side) as `torch.nn.functional.unfold` orders them, each place's together in memory.

    With the images last, a patch is copied in runs of B numbers, and the product for each location needs no other copy.
    """
    n_images, channels, size_px, _ = x_bchw.shape
    x_chwb = x_bchw.permute(1, 2, 3, 0).contiguous()
    by_channel, by_row, by_pixel, _ = x_chwb.stride()
    side, by_patch = (size_px - PATCH_PX) // PATCH_STEP_PX + 1, (PATCH_STEP_PX * by_row, PATCH_STEP_PX * by_pixel)
    windows = x_chwb.as_strided(
        (side, side, channels, PATCH_PX, PATCH_PX, n_images), (*by_patch, by_channel, by_row, by_pixel, 1)
    )
    return windows.reshape(side, side, channels * PATCH_PX**2, n_images).permute(3, 2, 0, 1)


@dataclass(frozen=True)
class LocationGaussian:
    """A Gaussian for each of L = side^2 locations of a view.

    Attributes:
        mean_l1k: float32 (L, 1, K).
        root_lkk: float32 (L, K, K), R with R R^T = inverse covariance.
    """

    mean_l1k: Tensor
    root_lkk: Tensor

    def distance(self, view_bkhw: Tensor) -> Tensor:
        """Mahalanobis distance over sqrt(K), (B, side, side), about 1 for normal images; (B, K, side, side) in."""
        white_lbk = torch.bmm(_by_location(view_bkhw) - self.mean_l1k, self.root_lkk)
        return white_lbk.square().mean(2).sqrt().T.reshape(-1, *view_bkhw.shape[2:])

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(self.mean_l1k.to(device), self.root_lkk.to(device))


class LocationMoments:
    """Sums over normal images from which a `LocationGaussian` follows: memory does not grow with their number."""

    def __init__(self) -> None:
        self.n_images = 0
        self._sum: Tensor | float = 0.0
        self._outer: Tensor | float = 0.0

    def add(self, view_bkhw: Tensor) -> None:
        """Take in the view (B, K, side, side) of further images."""
        vectors_lbk = _by_location(view_bkhw).cpu().double()
        self.n_images += len(view_bkhw)
        self._sum = self._sum + vectors_lbk.sum(1, keepdim=True)
        self._outer = self._outer + torch.bmm(vectors_lbk.transpose(1, 2), vectors_lbk)

    def without(self, part: "LocationMoments") -> "LocationMoments":
        """The sums of all images but those of a part of them, which may be none."""
        rest = LocationMoments()
        rest.n_images = self.n_images - part.n_images
        rest._sum, rest._outer = self._sum - part._sum, self._outer - part._outer
        return rest

    def gaussian(self) -> LocationGaussian:
        """Mean and covariance of each location; the covariance is shrunk by oracle approximation.

        Chen et al. 2010 (arXiv 0907.4698, equation 23, without its terms 2 / K), in units of each channel's deviation
        over all locations.
        """
        mean_l1k, covariance_lkk = self._mean_and_covariance()
        variance_k = covariance_lkk.diagonal(dim1=1, dim2=2).clamp(min=0).mean(0)
        scale_k = (variance_k + 1e-8).sqrt()
        shrunk_lkk = _shrunk(covariance_lkk / scale_k[:, None] / scale_k, self.n_images)
        # R = L^-T of covariance = L L^T, so that R R^T is the inverse and vector @ R is white
        lower_lkk = torch.linalg.cholesky(shrunk_lkk)
        root_lkk = torch.linalg.inv(lower_lkk).transpose(1, 2) / scale_k[:, None]
        return LocationGaussian(mean_l1k.float(), root_lkk.float().contiguous())

    def _mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """(L, 1, K) and (L, K, K)."""
        assert isinstance(self._sum, Tensor)
        assert isinstance(self._outer, Tensor)
        mean_l1k = self._sum / self.n_images
        return mean_l1k, self._outer / self.n_images - mean_l1k.transpose(1, 2) * mean_l1k


def image_scores(distances: Sequence[Tensor]) -> Tensor:
    """The mean of the worst 1 % of locations of each view: (B, V) of V tensors (B, side, side)."""
    return torch.stack([_worst(distance_bhw.flatten(1)) for distance_bhw in distances], dim=1)


def location_map(distances: Sequence[Tensor], size_px: int) -> Tensor:
    """Distances of the views that say where, averaged and brought to the network's input: (B, S, S)."""
    fine_bhw, coarse_bhw, features_bhw = distances[: len(MAPPED)]
    coarse_bchw = _spread(coarse_bhw, size_px // 2)
    maps = (_spread(fine_bhw, size_px), _enlarged(coarse_bchw, size_px), _enlarged(features_bhw[:, None], size_px))
    return torch.stack(maps).mean(0)[:, 0]


def _by_location(view_bkhw: Tensor) -> Tensor:
    return view_bkhw.flatten(2).permute(2, 0, 1)


def _worst(distance_bl: Tensor) -> Tensor:
    n_worst = max(1, round(WORST_SHARE * distance_bl.shape[1]))
    return distance_bl.topk(n_worst, dim=1).values.mean(1)


def _spread(distance_bhw: Tensor, size_px: int) -> Tensor:
    """Each pixel gets the mean of the patches that cover it, (B, 1, S, S)."""
    patch = distance_bhw.new_ones(1, 1, PATCH_PX, PATCH_PX)
    total = F.conv_transpose2d(distance_bhw[:, None], patch, stride=PATCH_STEP_PX)
    count = F.conv_transpose2d(torch.ones_like(distance_bhw[:1, None]), patch, stride=PATCH_STEP_PX)
    assert total.shape[-1] == size_px
    return total / count


def _enlarged(map_bchw: Tensor, size_px: int) -> Tensor:
    return F.interpolate(map_bchw, size=(size_px, size_px), mode="bilinear", align_corners=False)


def _shrunk(covariance_lkk: Tensor, n_images: int) -> Tensor:
    """Covariances (L, K, K) of n samples, pulled towards multiples of the identity, with noise added."""
    size = covariance_lkk.shape[1]
    variance_l = covariance_lkk.diagonal(dim1=1, dim2=2).mean(1)
    squares_l = covariance_lkk.square().mean((1, 2))
    distance_l = (n_images + 1) * (squares_l - variance_l.square() / size)  # from the identity
    weight_l = ((squares_l + variance_l.square()) / distance_l.clamp(min=1e-30)).clamp(max=1)
    identity_kk = torch.eye(size, dtype=covariance_lkk.dtype)
    diagonal_l11 = (weight_l * variance_l + NOISE)[:, None, None]
    return (1 - weight_l)[:, None, None] * covariance_lkk + diagonal_l11 * identity_kk
