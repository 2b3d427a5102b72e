"""Scores of images by what GANomaly's networks make of their pixels, higher for less normal.

- paper: the distance between the two latent vectors (equation 6)
- local: every place against that place on normal images (`ganomaly.scoring.local_gaussian`)
- global: the whole against the nearest normal images (`ganomaly.scoring.global_neighbours`)
- fused, the default: the more alarmed of local and global, each in units of its own spread (`ganomaly.scoring.fusion`)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ganomaly.networks.ganomaly import Pass
from ganomaly.scoring.fusion import Scores, Units
from ganomaly.scoring.global_neighbours import GROUPS, NearestNeighbours, appearance
from ganomaly.scoring.local_gaussian import (
    VIEWS,
    LocationGaussian,
    LocationMoments,
    image_scores,
    local_views,
    location_map,
)

Method = Literal["fused", "local", "global", "paper"]
METHODS: tuple[Method, ...] = get_args(Method)
FOLDS = 4
UNSAMPLED = -1


class ScoreConfig(BaseModel):
    """Which score a detector of pixels flags with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = Field(
        "fused",
        description="fused: the more alarmed of local and global; local: every place against that place on normal "
        "images; global: the whole against the nearest normal images; paper: mean |z - z_hat|",
    )


def paper_score(z_bd: Tensor, z_hat_bd: Tensor) -> Tensor:
    """A(x) = ||z - z_hat||_1 / D (equation 6), (B,): latent vectors (B, D) in, the mean over D out."""
    return (z_bd - z_hat_bd).abs().mean(1)


@dataclass(frozen=True)
class PixelScores:
    """Statistics of normal images that the scores compare with.

    Attributes:
        local: one Gaussian per location for each local view.
        neighbours: normal images to compare whole images with.
        local_units: of the distances of the local views.
        global_units: of the distances to the neighbours.
    """

    local: tuple[LocationGaussian, ...]
    neighbours: NearestNeighbours
    local_units: Units
    global_units: Units

    def measure(self, seen: Pass) -> "Measured":
        """Measure a batch of images, which went through the networks, by these statistics."""
        return Measured(self, seen)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        local = tuple(view.to(device) for view in self.local)
        return type(self)(local, self.neighbours.to(device), self.local_units, self.global_units)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The statistics by name, as they are saved."""
        arrays: dict[str, NDArray[Any]] = {
            f"{name}.{what}": array
            for name, units in (("local", self.local_units), ("global", self.global_units))
            for what, array in (("centre", units.centre_s), ("spread", units.spread_s))
        }
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
            ValueError: if units are of another number of distances.
        """
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        local = tuple(LocationGaussian(tensors[f"local.{v}.mean"], tensors[f"local.{v}.root"]) for v in VIEWS)
        kept = tuple(tensors[f"global.{g}.kept"] for g in GROUPS)
        units = []
        for name, count in (("local", len(VIEWS)), ("global", len(GROUPS))):
            units.append(Units(arrays[f"{name}.centre"], arrays[f"{name}.spread"]))
            if units[-1].centre_s.shape != (count + 1,) or units[-1].spread_s.shape != (count + 1,):
                raise ValueError(f"{name}.centre and {name}.spread must have {count + 1} numbers each")
        return cls(local, NearestNeighbours(kept, GROUPS), *units)


class Measured:
    """A batch of images measured by statistics; what no score asks for is not computed, nor are networks run for it."""

    def __init__(self, statistics: PixelScores, seen: Pass) -> None:
        self._statistics = statistics
        self._seen = seen

    @cached_property
    def local_distances(self) -> list[Tensor]:
        """Of each local view, (B, side, side): about 1 for normal images."""
        views = local_views(self._seen.x_bchw, self._seen.x_hat_bchw, self._seen.encoded[1])
        return [gaussian.distance(view) for gaussian, view in zip(self._statistics.local, views, strict=True)]

    @cached_property
    def local_bv(self) -> NDArray[np.float32]:
        """Distances of the local views, (B, V): each the mean of the worst places."""
        return _to_numpy(image_scores(self.local_distances))

    @cached_property
    def global_bg(self) -> NDArray[np.float32]:
        """Distances to the nearest normal images in each group of features, (B, G)."""
        return _to_numpy(self._statistics.neighbours.distances(appearance(self._seen)))

    def raw_scores(self, method: Method) -> Scores:
        """Raw scores (B,), from 0 up."""
        match method:
            case "paper":
                return _to_numpy(paper_score(self._seen.z_bd, self._seen.z_hat_bd)).astype(np.float64)
            case "local":
                return self._statistics.local_units.raw_scores(self.local_bv)
            case "global":
                return self._statistics.global_units.raw_scores(self.global_bg)
            case "fused":
                return np.maximum(self.raw_scores("local"), self.raw_scores("global"))

    def maps(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Maps (R, S, S) of some of the images, not yet standardised."""
        chosen = torch.from_numpy(rows).to(self._seen.x_bchw.device)
        distances = [distance_bhw[chosen] for distance_bhw in self.local_distances]
        return _to_numpy(location_map(distances, self._seen.x_bchw.shape[-1]))


class PixelScoresFitting:
    """Fits the statistics on normal images, batch by batch, and finds out how distances lie on other normal images.

    For that a sample of the images is dealt into folds; the images of each fold are measured by statistics that were
    fitted without it. (The networks may have been trained on them: a few held-out images would be free of that, but too
    few to tell how far the highest quarter lies above the median.)
    """

    def __init__(self) -> None:
        self._moments = tuple(LocationMoments() for _ in VIEWS)
        self._of_folds = [tuple(LocationMoments() for _ in VIEWS) for _ in range(FOLDS)]
        self._appearances: list[dict[str, Tensor]] = []
        self._folds: list[NDArray[np.int_]] = []

    def add(self, seen: Pass, fold_b: NDArray[np.int_]) -> None:
        """Take in the first images of a batch, as many as folds are given: each of `FOLDS`, or `UNSAMPLED`."""
        n = len(fold_b)
        views = [view[:n] for view in local_views(seen.x_bchw, seen.x_hat_bchw, seen.encoded[1])]
        for moments, view_bkhw in zip(self._moments, views, strict=True):
            moments.add(view_bkhw)
        for fold, of_fold in enumerate(self._of_folds):
            inside = torch.from_numpy(np.flatnonzero(fold_b == fold)).to(seen.x_bchw.device)
            if not len(inside):  # most batches of many images: adding nothing would still touch every covariance
                continue
            for moments, view_bkhw in zip(of_fold, views, strict=True):
                moments.add(view_bkhw[inside])
        self._appearances.append({name: group[:n].cpu() for name, group in appearance(seen).items()})
        self._folds.append(fold_b)

    def fitted(self, folds: Iterable[Iterable[tuple[Pass, int]]], device: torch.device) -> PixelScores:
        """The statistics of all images on a device.

        Args:
            folds: the images of each fold once more: batches, and how many images of each count.
            device: where the batches are.
        """
        groups = {name: torch.cat([features[name] for features in self._appearances]) for name in GROUPS}
        fold_n = torch.from_numpy(np.concatenate(self._folds))
        unknown = Units(np.zeros(1), np.ones(1))
        local, everywhere = [], []
        for fold, batches in enumerate(folds):
            rest = zip(self._moments, self._of_folds[fold], strict=True)
            gaussians = tuple(everything.without(part).gaussian() for everything, part in rest)
            others = {name: group_nf[fold_n != fold] for name, group_nf in groups.items()}
            statistics = PixelScores(gaussians, NearestNeighbours.fit(others), unknown, unknown).to(device)
            for seen, n in batches:
                measured = statistics.measure(seen)
                local.append(measured.local_bv[:n])
                everywhere.append(measured.global_bg[:n])
        gaussians = tuple(moments.gaussian() for moments in self._moments)
        units = (Units.fit(np.concatenate(distances)) for distances in (local, everywhere))
        return PixelScores(gaussians, NearestNeighbours.fit(groups), *units).to(device)


def _to_numpy(tensor: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = tensor.float().cpu().numpy()
    return found
