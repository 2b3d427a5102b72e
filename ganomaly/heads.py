"""The two heads of a detector and their fusion: fitted on normal images batch by batch, saved as plain arrays."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.fusion import Fusion
from ganomaly.global_head import FORMAT_3_GROUPS, GROUPS, NearestNeighbours
from ganomaly.local_head import VIEWS, LocationGaussian, LocationMoments, image_scores, location_map
from ganomaly.models.base import Judgement

FOLDS = 4
UNSAMPLED = -1


@dataclass(frozen=True)
class Heads:
    """Local head, global head, and how their distances lie on new normal images."""

    local: tuple[LocationGaussian, ...]
    neighbours: NearestNeighbours
    fusion: Fusion

    @property
    def sizes(self) -> tuple[int, int]:
        """How many distances the local and the global head give for an image, V and G."""
        return len(self.local), len(self.neighbours.kept)

    def examine(self, judged: Judgement, map_px: int | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the heads say about B images.

        Returns:
            Distances of the local views (B, V), of the groups of global features (B, G) and, where a side is given, the
            local head's map (B, side, side).
        """
        return _examine(self.local, self.neighbours, judged, map_px)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return type(self)(tuple(view.to(device) for view in self.local), self.neighbours.to(device), self.fusion)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The statistics by name, as they are saved."""
        arrays: dict[str, NDArray[Any]] = {
            "fusion.centre": self.fusion.centre_s,
            "fusion.spread": self.fusion.spread_s,
        }
        for name, view in zip(VIEWS, self.local, strict=True):
            arrays[f"local.{name}.mean"] = view.mean_l1k.cpu().numpy()
            arrays[f"local.{name}.root"] = view.root_lkk.cpu().numpy()
        for name, kept in zip(self.neighbours.groups, self.neighbours.kept, strict=True):
            arrays[f"global.{name}.kept"] = kept.cpu().numpy()
        return arrays

    @staticmethod
    def are_in(arrays: Mapping[str, NDArray[Any]]) -> bool:
        """Whether saved statistics hold those of the heads."""
        return "fusion.centre" in arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Restore what `to_arrays` gave.

        Raises:
            KeyError: if a statistic is missing.
        """
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        local = tuple(LocationGaussian(tensors[f"local.{v}.mean"], tensors[f"local.{v}.root"]) for v in VIEWS)
        groups = FORMAT_3_GROUPS if "global.discriminator.kept" in arrays else GROUPS
        kept = tuple(tensors[f"global.{g}.kept"] for g in groups)
        fusion = Fusion(arrays["fusion.centre"], arrays["fusion.spread"])
        return cls(local, NearestNeighbours(kept, groups), fusion)


class HeadsFitting:
    """Fits the heads on normal images, batch by batch, and finds out how their distances lie on others.

    For that a sample of the images is dealt into folds; the images of each fold are measured by heads that were fitted
    without it. (The networks may have been trained on them: a few held-out images would be free of that, but too few to
    tell how far the highest quarter lies above the median.)
    """

    def __init__(self) -> None:
        self._moments = tuple(LocationMoments() for _ in VIEWS)
        self._of_folds = [tuple(LocationMoments() for _ in VIEWS) for _ in range(FOLDS)]
        self._appearances: list[dict[str, Tensor]] = []
        self._folds: list[NDArray[np.int_]] = []

    def add(self, judged: Judgement, fold_b: NDArray[np.int_]) -> None:
        """Take in B images, each in one of `FOLDS` folds or `UNSAMPLED`."""
        for moments, view_bkhw in zip(self._moments, judged.local_views, strict=True):
            moments.add(view_bkhw)
        for fold, of_fold in enumerate(self._of_folds):
            inside = torch.from_numpy(np.flatnonzero(fold_b == fold)).to(judged.x_hat_bchw.device)
            if not len(inside):  # most batches of many images: adding nothing would still touch every covariance
                continue
            for moments, view_bkhw in zip(of_fold, judged.local_views, strict=True):
                moments.add(view_bkhw[inside])
        self._appearances.append({name: judged.appearance[name].cpu() for name in GROUPS})
        self._folds.append(fold_b)

    def heads(self, folds: Iterable[Iterable[Judgement]]) -> Heads:
        """The heads, fitted on all images; given the images of each fold once more, batch by batch."""
        groups = {name: torch.cat([features[name] for features in self._appearances]) for name in GROUPS}
        fold_n = torch.from_numpy(np.concatenate(self._folds))
        held_out: list[tuple[Tensor, ...]] = []
        for fold, judgements in enumerate(folds):
            pairs = zip(self._moments, self._of_folds[fold], strict=True)
            local = tuple(everything.without(part).gaussian() for everything, part in pairs)
            neighbours = NearestNeighbours.fit({name: group_nf[fold_n != fold] for name, group_nf in groups.items()})
            held_out += [_examine(local, neighbours, judged, None)[:2] for judged in judgements]
        local = tuple(moments.gaussian() for moments in self._moments)
        distances = (torch.cat(column).cpu().numpy() for column in zip(*held_out, strict=True))
        return Heads(local, NearestNeighbours.fit(groups), Fusion.fit(*distances))


def _examine(
    local: tuple[LocationGaussian, ...], neighbours: NearestNeighbours, judged: Judgement, map_px: int | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    device = judged.x_hat_bchw.device
    distances = [view.to(device).distance(v) for view, v in zip(local, judged.local_views, strict=True)]
    global_bg = neighbours.to(device).distances(judged.appearance)
    return image_scores(distances), global_bg, None if map_px is None else location_map(distances, map_px)
