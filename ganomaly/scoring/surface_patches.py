"""The surface head: does every patch look like a patch of normal images, wherever on them that one lay?

On a surface (fabric, brick, cast metal) an image is a crop from anywhere, no place has a look of its own, and Gaussians
per location describe one mixture again and again. There small patches are compared with normal ones from all places.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor

from ganomaly.scoring.local_gaussian import spread

PATCH_PX = 6
PATCH_STEP_PX = 2
KEPT = 1024
PATCHES_PER_IMAGE = 256
MAX_CANDIDATES = 2**15
DRAWN_BY = 20
"""The usual distance of a kept patch is drawn towards the mean of all, by so many patches."""
LEAST_USUAL = 0.01
"""About a grey level: what means nothing."""
ROWS_AT_ONCE = 4096
"""Patches whose distances are computed together: (4096, 1024) of them stay near the processor."""


@dataclass(frozen=True)
class SurfacePatches:
    """Normal patches that lie far from each other, so that rare ones count as much as frequent ones.

    Attributes:
        kept_nk: float32 (N, K), patches of the images in [-1, 1].
        usual_n: float32 (N,), how far the normal patches that are nearest to each kept one lie from it: flat patches
            resemble each other more than rough ones do.
    """

    kept_nk: Tensor
    usual_n: Tensor

    @classmethod
    def fit(cls, candidates_mk: Tensor) -> Self:
        """Keep `KEPT` of some normal patches (M, K): the first, then always the one farthest from all kept ones."""
        candidates_mk = candidates_mk[:: -(-len(candidates_mk) // MAX_CANDIDATES)]
        square_m = torch.full((len(candidates_mk),), torch.inf)
        nearest_m = torch.zeros(len(candidates_mk), dtype=torch.long)
        kept: list[int] = []
        for number in range(min(KEPT, len(candidates_mk))):
            kept.append(int(square_m.argmax()))
            to_newest_m = (candidates_mk - candidates_mk[kept[-1]]).square().mean(1)
            nearest_m[to_newest_m < square_m] = number
            square_m = torch.minimum(square_m, to_newest_m)
        return cls(candidates_mk[kept], _usual(square_m.sqrt(), nearest_m, len(kept)))

    def distance(self, x_bchw: Tensor) -> Tensor:
        """How far from normal the patches of images (B, C, S, S) in [-1, 1] are: (B, side, side), every 2 px.

        About 1 for normal images. Each is the mean of 3 x 3 neighbouring patches: a single odd one is noise.
        """
        patches_rk = _patches(x_bchw).flatten(0, 1)
        distances = [self._to_nearest(rows_rk) for rows_rk in torch.split(patches_rk, ROWS_AT_ONCE)]
        side = (x_bchw.shape[-1] - PATCH_PX) // PATCH_STEP_PX + 1
        distance_bhw = torch.cat(distances).reshape(-1, side, side)
        return F.avg_pool2d(distance_bhw, 3, stride=1, padding=1, count_include_pad=False)

    def _to_nearest(self, patches_rk: Tensor) -> Tensor:
        """Root mean square difference to the nearest kept patch over what is usual there, (R,)."""
        kept_n = self.kept_nk.square().sum(1)
        nearest = torch.addmm(kept_n, patches_rk, self.kept_nk.T, alpha=-2).min(1)
        mean_square_r = (nearest.values + patches_rk.square().sum(1)) / patches_rk.shape[1]
        return mean_square_r.clamp(min=0).sqrt() / self.usual_n[nearest.indices]

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(self.kept_nk.to(device), self.usual_n.to(device))


def _usual(distance_m: Tensor, nearest_m: Tensor, n_kept: int) -> Tensor:
    """Mean distance of the candidates nearest to each kept patch, itself left out, drawn towards the mean of all."""
    total_n = torch.zeros(n_kept).index_add_(0, nearest_m, distance_m)
    others_n = torch.bincount(nearest_m, minlength=n_kept) - 1
    mean = total_n.sum() / others_n.sum().clamp(min=1)
    usual_n: Tensor = (total_n + DRAWN_BY * mean) / (others_n + DRAWN_BY)
    return usual_n.clamp(min=LEAST_USUAL)


def surface_map(distance_bhw: Tensor, size_px: int) -> Tensor:
    """Distances (B, side, side) brought to the network's input: (B, S, S)."""
    return spread(distance_bhw, size_px, PATCH_PX, PATCH_STEP_PX)[:, 0]


def some_patches(x_bchw: Tensor, rng: torch.Generator) -> Tensor:
    """Patches (N, K) from random places of each image (B, C, S, S), to choose kept ones from."""
    patches_blk = _patches(x_bchw)
    here_n = torch.randint(patches_blk.shape[1], (len(x_bchw) * PATCHES_PER_IMAGE,), generator=rng)
    image_n = torch.arange(len(x_bchw)).repeat_interleave(PATCHES_PER_IMAGE)
    return patches_blk[image_n.to(x_bchw.device), here_n.to(x_bchw.device)].cpu()


def _patches(x_bchw: Tensor) -> Tensor:
    return F.unfold(x_bchw, PATCH_PX, stride=PATCH_STEP_PX).transpose(1, 2)
