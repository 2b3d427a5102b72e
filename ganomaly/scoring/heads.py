"""The heads of a detector and their fusion: fitted on normal images batch by batch, saved as plain arrays."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.networks.model import Judgement
from ganomaly.scoring.fusion import Fusion, Scores
from ganomaly.scoring.global_neighbours import GROUPS, NearestNeighbours
from ganomaly.scoring.local_gaussian import (
    PATCHED,
    VIEWS,
    LocationGaussian,
    LocationMoments,
    image_scores,
    location_map,
)
from ganomaly.scoring.surface_patches import SurfacePatches, some_patches, surface_map

FOLDS = 4
UNSAMPLED = -1
LEAST_GAIN = 0.1
"""Nats per pixel, below which a line is taken for a surface. Crops of four textures had at most 0.04, also with 60
images; solar cells at least 0.54, with 30 images, digits 0.33."""

LocalHead = tuple[LocationGaussian, ...] | SurfacePatches
"""What looks at places: Gaussians of the local views or, where a place says nothing, patches from anywhere."""


@dataclass(frozen=True)
class Heads:
    """Local and global head, and how their distances lie on new normal images.

    Attributes:
        local: one Gaussian per location for each local view; for a surface the patches that take their place.
        neighbours: the global head.
        fusion: the units of their distances.
        gain_by_location: nats per pixel that the place explains of normal images, where it explains most; None for a
            detector that was saved before this was measured.
    """

    local: LocalHead
    neighbours: NearestNeighbours
    fusion: Fusion
    gain_by_location: float | None = None

    @property
    def is_surface(self) -> bool:
        """Whether places say nothing about this line's images; then its patches decide alone."""
        return isinstance(self.local, SurfacePatches)

    @property
    def summary(self) -> str | None:
        """For people: whether the line is taken for a surface, and what follows; None where nobody measured it."""
        if self.gain_by_location is None:
            return None
        explained = f"the place explains {self.gain_by_location:.2f} nats per pixel of good images"
        if self.is_surface:
            return (
                f"yes: {explained}, under {LEAST_GAIN:g}: small patches are compared with good ones from anywhere, and "
                "they alone make score (fused, local) and heat map"
            )
        return f"no: {explained}, {LEAST_GAIN:g} or more: every place is compared with that place on good images"

    @property
    def sizes(self) -> tuple[int, int]:
        """How many distances the local and the global head give for an image, V and G."""
        return 1 if isinstance(self.local, SurfacePatches) else len(self.local), len(self.neighbours.kept)

    def examine(
        self, x_bchw: Tensor, judged: Judgement, map_px: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the heads say about B images (B, C, S, S) in [-1, 1] and what the networks say about them.

        Returns:
            Distances of the local views (B, V), of the groups of global features (B, G) and, where a side is given, the
            local head's map (B, side, side). (B, 0) where the judgement has no global features: a surface needs none.
        """
        return _examine(self.local, self.neighbours, x_bchw, judged, map_px)

    def raw_scores(self, local_nv: NDArray[np.floating], global_ng: NDArray[np.floating]) -> dict[str, Scores]:
        """Raw scores (N,) of "local", "fused" and, of groups (N, G) that are not (N, 0), "global"; see `Fusion`."""
        scores = self.fusion.raw_scores(local_nv, global_ng)
        return scores | {"fused": scores["local"]} if self.is_surface else scores

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(_to(self.local, device), self.neighbours.to(device), self.fusion, self.gain_by_location)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The statistics by name, as they are saved."""
        arrays: dict[str, NDArray[Any]] = {
            "fusion.centre": self.fusion.centre_s,
            "fusion.spread": self.fusion.spread_s,
        }
        if self.gain_by_location is not None:
            arrays["local.gain"] = np.array(self.gain_by_location)
        if isinstance(self.local, SurfacePatches):
            arrays["surface.kept"] = self.local.kept_nk.cpu().numpy()
            arrays["surface.usual"] = self.local.usual_n.cpu().numpy()
        else:
            for name, view in zip(VIEWS, self.local, strict=True):
                arrays[f"local.{name}.mean"] = view.mean_l1k.cpu().numpy()
                arrays[f"local.{name}.root"] = view.root_lkk.cpu().numpy()
        for name, kept in zip(self.neighbours.groups, self.neighbours.kept, strict=True):
            arrays[f"global.{name}.kept"] = kept.cpu().numpy()
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Restore what `to_arrays` gave.

        Raises:
            KeyError: if a statistic is missing.
        """
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        local: LocalHead
        if "surface.kept" in arrays:
            local = SurfacePatches(tensors["surface.kept"], tensors["surface.usual"])
        else:
            local = tuple(LocationGaussian(tensors[f"local.{v}.mean"], tensors[f"local.{v}.root"]) for v in VIEWS)
        kept = tuple(tensors[f"global.{g}.kept"] for g in GROUPS)
        fusion = Fusion(arrays["fusion.centre"], arrays["fusion.spread"])
        gain = float(arrays["local.gain"]) if "local.gain" in arrays else None  # unknown of a single image
        return cls(local, NearestNeighbours(kept, GROUPS), fusion, gain)


class HeadsFitting:
    """Fits the heads on normal images, batch by batch, and finds out how their distances lie on others.

    For that a sample of the images is dealt into folds; the images of each fold are measured by heads that were fitted
    without it. (The networks may have been trained on them: a few held-out images would be free of that, but too few to
    tell how far the highest quarter lies above the median.) The same folds tell whether a place says anything.
    """

    def __init__(self) -> None:
        self._moments = tuple(LocationMoments() for _ in VIEWS)
        self._of_folds = [tuple(LocationMoments() for _ in VIEWS) for _ in range(FOLDS)]
        self._patches: list[list[Tensor]] = [[] for _ in range(FOLDS)]
        self._appearances: list[dict[str, Tensor]] = []
        self._folds: list[NDArray[np.int_]] = []
        self._rng = torch.Generator().manual_seed(0)

    def add(self, x_bchw: Tensor, judged: Judgement, fold_b: NDArray[np.int_]) -> None:
        """Take in B images, each in one of `FOLDS` folds or `UNSAMPLED`."""
        for moments, view_bkhw in zip(self._moments, judged.local_views, strict=True):
            moments.add(view_bkhw)
        for fold, of_fold in enumerate(self._of_folds):
            inside = torch.from_numpy(np.flatnonzero(fold_b == fold)).to(x_bchw.device)
            if not len(inside):  # most batches of many images: adding nothing would still touch every covariance
                continue
            for moments, view_bkhw in zip(of_fold, judged.local_views, strict=True):
                moments.add(view_bkhw[inside])
            self._patches[fold].append(some_patches(x_bchw[inside], self._rng))
        self._appearances.append({name: judged.appearance[name].cpu() for name in GROUPS})
        self._folds.append(fold_b)

    def heads(self, folds: Iterable[Iterable[tuple[Tensor, Judgement]]]) -> Heads:
        """The heads, fitted on all images; given the images of each fold once more, batch by batch."""
        groups = {name: torch.cat([features[name] for features in self._appearances]) for name in GROUPS}
        fold_n = torch.from_numpy(np.concatenate(self._folds))
        gain = self._gain_by_location()
        held_out: list[tuple[Tensor, ...]] = []
        for fold, judgements in enumerate(folds):
            local = self._local(gain, without=fold)
            neighbours = NearestNeighbours.fit({name: group_nf[fold_n != fold] for name, group_nf in groups.items()})
            held_out += [_examine(local, neighbours, x_bchw, judged, None)[:2] for x_bchw, judged in judgements]
        distances = (torch.cat(column).cpu().numpy() for column in zip(*held_out, strict=True))
        return Heads(self._local(gain), NearestNeighbours.fit(groups), Fusion.fit(*distances), gain)

    def _gain_by_location(self) -> float | None:
        """What the place explains of the images of a fold, mean over folds and patches; None of fewer than two images.

        Patches of the image alone: what the networks make of it differs from place to place on any line.
        """
        gains = [
            everything.without(part).gain_by_location(part, everything.numbers // 2)
            for of_fold in self._of_folds
            for view, everything, part in zip(VIEWS, self._moments, of_fold, strict=True)
            if view in PATCHED and 0 < part.n_images < everything.n_images
        ]
        return float(np.mean(gains)) if gains else None

    def _local(self, gain: float | None, without: int | None = None) -> LocalHead:
        """The local head of all images, or of all but those of a fold."""
        if gain is not None and gain < LEAST_GAIN:
            others = [patches for fold, patches in enumerate(self._patches) if fold != without]
            return SurfacePatches.fit(torch.cat([patches_nk for patches in others for patches_nk in patches]))
        if without is None:
            return tuple(moments.gaussian() for moments in self._moments)
        pairs = zip(self._moments, self._of_folds[without], strict=True)
        return tuple(everything.without(part).gaussian() for everything, part in pairs)


def _examine(
    local: LocalHead, neighbours: NearestNeighbours, x_bchw: Tensor, judged: Judgement, map_px: int | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    device = x_bchw.device
    global_bg = x_bchw.new_empty((len(x_bchw), 0))
    if judged.appearance:
        global_bg = neighbours.to(device).distances(judged.appearance)
    if isinstance(local, SurfacePatches):
        distance_bhw = local.to(device).distance(x_bchw)
        return image_scores([distance_bhw]), global_bg, None if map_px is None else surface_map(distance_bhw, map_px)
    distances = [view.to(device).distance(v) for view, v in zip(local, judged.local_views, strict=True)]
    return image_scores(distances), global_bg, None if map_px is None else location_map(distances, map_px)


def _to(local: LocalHead, device: torch.device) -> LocalHead:
    return local.to(device) if isinstance(local, SurfacePatches) else tuple(view.to(device) for view in local)
