"""The global head: is there any normal image that looks like this one as a whole?

The mean distance to the nearest normal images in what the networks see of an image. It assumes nothing of how normal
images are distributed: nine kinds of digit or ten modules of solar cells are many clusters, where one Gaussian would
call the space between them normal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor

from ganomaly.scores import mean_residual

GROUPS = ("image", "latent", "residual", "encoder", "discriminator")
IMAGE_SIDE = 16
NEIGHBOURS = 5
MAX_KEPT = 8192
"""Normal images kept to compare with, at equal distances in their order: time and file size stay bounded."""


def appearance(
    x_bchw: Tensor, x_hat_bchw: Tensor, z_bd: Tensor, encoded: Sequence[Tensor], discriminated: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """What the head compares images by, groups of features, each (B, F_g); see `GROUPS`.

    - image: the image at 16 x 16 px with mean 0 and length 1, so that nearness is correlation
    - latent: z
    - residual: the mean residual in 8 x 8 fields
    - encoder, discriminator: mean and deviation of each channel of some layers of G_E and of D
    """
    image_bf = F.adaptive_avg_pool2d(x_bchw, IMAGE_SIDE).flatten(1)
    image_bf = F.normalize(image_bf - image_bf.mean(1, keepdim=True), dim=1, eps=1e-3)
    return (image_bf, z_bd, mean_residual(x_bchw, x_hat_bchw), _channels(encoded), _channels(discriminated))


def _channels(layers: Sequence[Tensor]) -> Tensor:
    figures = [figure for a in layers for figure in (a.mean((2, 3)), a.flatten(2).std(2, correction=0))]
    return torch.cat(figures, dim=1)


@dataclass(frozen=True)
class NearestNeighbours:
    """Normal images to compare with.

    Attributes:
        kept: for each of G groups of features float32 (N, F_g), those of normal images.
    """

    kept: tuple[Tensor, ...]

    @classmethod
    def fit(cls, groups: Sequence[Tensor]) -> Self:
        """Keep at most `MAX_KEPT` of N normal images, given as groups of features (N, F_g)."""
        step = -(-len(groups[0]) // MAX_KEPT)
        return cls(tuple(group_nf[::step].contiguous() for group_nf in groups))

    def distances(self, groups: Sequence[Tensor]) -> Tensor:
        """Mean distance to the nearest normal images in each group of features, (B, G), of groups (B, F_g)."""
        return torch.stack([_mean_to_nearest(*pair) for pair in zip(groups, self.kept, strict=True)], dim=1)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(tuple(kept_nf.to(device) for kept_nf in self.kept))


def _mean_to_nearest(features_bf: Tensor, kept_nf: Tensor) -> Tensor:
    squares_bn = features_bf.square().sum(1, keepdim=True) - 2 * features_bf @ kept_nf.T + kept_nf.square().sum(1)
    nearest_bk = squares_bn.topk(min(NEIGHBOURS, len(kept_nf)), dim=1, largest=False).values
    mean_b: Tensor = nearest_bk.clamp(min=0).sqrt().mean(1)
    return mean_b
