"""The global score: is there any normal image that looks like this one as a whole?

The mean distance to the nearest normal images in what the networks see of an image. It assumes nothing of how normal
images are distributed: nine kinds of digit or ten modules of solar cells are many clusters, where one Gaussian would
call the space between them normal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor

from ganomaly.networks.ganomaly import Pass

GROUPS: Mapping[str, int] = {
    "image": 1,
    "latent": 1,
    "residual": 1,
    "encoder_first": 5,
    "encoder": 5,
    "discriminator_first": 5,
}
"""The groups of features that images are compared in, and by how many nearest normal images in each."""
IMAGE_SIDE = 16
RESIDUAL_SIDE = 8
IMAGES_AT_ONCE = 4
MAX_KEPT = 8192
"""Normal images kept to compare with, at equal distances in their order: time and file size stay bounded."""


def appearance(seen: Pass) -> dict[str, Tensor]:
    """What images are compared by, groups of features by name, each (B, F_g).

    - image: the image at 16 x 16 px with mean 0 and length 1, so that nearness is correlation
    - latent: z
    - residual: |x - x_hat|, averaged over the channels and in 8 x 8 fields
    - encoder_first, discriminator_first: mean and deviation of each channel of the first layer of G_E and of D
    - encoder: the same of the next two of G_E
    """
    image_bf = F.adaptive_avg_pool2d(seen.x_bchw, IMAGE_SIDE).flatten(1)
    residual_bchw = (seen.x_bchw - seen.x_hat_bchw).abs().mean(1, keepdim=True)
    return {
        "image": F.normalize(image_bf - image_bf.mean(1, keepdim=True), dim=1, eps=1e-3),
        "latent": seen.z_bd,
        "residual": F.adaptive_avg_pool2d(residual_bchw, RESIDUAL_SIDE).flatten(1),
        "encoder_first": _channels(seen.encoded[:1]),
        "encoder": _channels(seen.encoded[1:3]),
        "discriminator_first": _channels([seen.discriminated_bchw]),
    }


def _channels(layers: Sequence[Tensor]) -> Tensor:
    return torch.cat([figures for layer_bchw in layers for figures in _mean_and_deviation(layer_bchw)], dim=1)


def _mean_and_deviation(layer_bchw: Tensor) -> tuple[Tensor, Tensor]:
    """Of each channel of each image, float32 (B, C) each; a few images at a time, which stay in the cache."""
    means, deviations = [], []
    for part_bchw in torch.split(layer_bchw, IMAGES_AT_ONCE):
        numbers_bchw = part_bchw.float()
        mean_bc11 = numbers_bchw.mean((2, 3), keepdim=True)
        means.append(mean_bc11.flatten(1))
        # not std(): it takes ten times as long where channels lie last in memory
        deviations.append((numbers_bchw - mean_bc11).square().mean((2, 3)).sqrt())
    return torch.cat(means), torch.cat(deviations)


@dataclass(frozen=True)
class NearestNeighbours:
    """Normal images to compare with.

    Attributes:
        kept: for each of G groups of features float32 (N, F_g), those of normal images.
        groups: the names of the groups, and how many nearest images count in each.
    """

    kept: tuple[Tensor, ...]
    groups: Mapping[str, int]

    @classmethod
    def fit(cls, features: Mapping[str, Tensor], groups: Mapping[str, int] = GROUPS) -> Self:
        """Keep at most `MAX_KEPT` of N normal images, given as groups of features (N, F_g)."""
        step = -(-len(next(iter(features.values()))) // MAX_KEPT)
        return cls(tuple(features[name][::step].contiguous() for name in groups), groups)

    def distances(self, features: Mapping[str, Tensor]) -> Tensor:
        """Mean distance to the nearest normal images in each group of features, (B, G), of groups (B, F_g)."""
        columns = zip(self.groups.items(), self.kept, strict=True)
        return torch.stack([_mean_to_nearest(features[name], kept_nf, n) for (name, n), kept_nf in columns], dim=1)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(tuple(kept_nf.to(device) for kept_nf in self.kept), self.groups)


def _mean_to_nearest(features_bf: Tensor, kept_nf: Tensor, n: int) -> Tensor:
    squares_bn = features_bf.square().sum(1, keepdim=True) - 2 * features_bf @ kept_nf.T + kept_nf.square().sum(1)
    nearest_bk = squares_bn.topk(min(n, len(kept_nf)), dim=1, largest=False).values
    mean_b: Tensor = nearest_bk.clamp(min=0).sqrt().mean(1)
    return mean_b
