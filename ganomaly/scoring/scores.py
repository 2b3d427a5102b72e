"""All scores of feature maps, fitted together on the same normal images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.networks.feature_ganomaly import FeatureGANomaly
from ganomaly.saving import below
from ganomaly.scoring.alarms import DrawnDefects, Grain, alarm, drawn_alarm
from ganomaly.scoring.density import FeatureDensity, ResidualDensity
from ganomaly.scoring.patch_memory import PatchMemory
from ganomaly.scoring.score import NormalMaps, Score, worst_places

SCORES: dict[str, type[Score]] = {
    "residual": ResidualDensity,
    "places": FeatureDensity,
    "patches": PatchMemory,
}
"""By the name that tables and saved statistics have for them. A new one needs its file and a line here."""
LARGEST = 1e30
"""Scores are cut there: an infinite one compares, and has margins."""


@dataclass(frozen=True)
class FittedScores:
    """Scores that were fitted on the same images.

    Vectors (B, L, K + G + D) hold K features, the roughness of G fields and D logits of discriminators of each place.

    Attributes:
        mean_k: float32 (K + G,), mean of each feature and field over all places and images.
        scale_k: float32 (K + G,), standard deviation.
        scores: of the features, by name.
        grain: of the roughness.
        drawn: of the logits of one discriminator; None where nothing looks for drawn defects.
        discriminator: which.
    """

    mean_k: Tensor
    scale_k: Tensor
    scores: Mapping[str, Score]
    grain: Grain
    drawn: DrawnDefects | None = None
    discriminator: int = 0

    @classmethod
    def fit(cls, mean_k: Tensor, scale_k: Tensor, normal: NormalMaps, n_fields: int) -> Self:
        """Fit all scores that can be fitted: without networks, those that need none.

        Args:
            mean_k: see `FittedScores`.
            scale_k: see `FittedScores`.
            normal: vectors of features and, last, of roughness.
            n_fields: G.
        """
        kinds = {name: kind for name, kind in SCORES.items() if normal.network is not None or not kind.needs_network}
        features = replace(normal, batches=lambda: (x_blk[..., :-n_fields] for x_blk in normal.batches()))
        with torch.no_grad():
            scores = {name: kind.fit(features) for name, kind in kinds.items()}
            grain = Grain.fit(lambda: (x_blk[..., -n_fields:].contiguous() for x_blk in normal.batches()), normal.grid)
        return cls(mean_k, scale_k, scores, grain)

    @property
    def n_fields(self) -> int:
        """G."""
        return int(self.grain.density.mean_l1k.shape[2])

    @torch.no_grad()
    def maps(self, vectors_blk: Tensor, network: FeatureGANomaly | None) -> dict[str, Tensor]:
        """The map (B, h, w) of each score, by name, of vectors (B, L, K + G + D)."""
        x_blk = self._standardised(vectors_blk)[..., : -self.n_fields]
        return {name: score.map(x_blk, network) for name, score in self.scores.items()}

    @torch.no_grad()
    def deviations(self, vectors_blk: Tensor) -> Tensor:
        """How unusual the roughness of whole images is, (B,), see `Grain`, of vectors (B, L, K + G + D)."""
        return self.grain.deviations(self._standardised(vectors_blk)[..., -self.n_fields :])

    def drawn_deviations(self, vectors_blk: Tensor, grid: tuple[int, int]) -> Tensor | None:
        """How much each place looks like a drawn defect, (B, h, w), see `DrawnDefects`; None where nothing looks."""
        if self.drawn is None:
            return None
        logits_bl = vectors_blk[..., len(self.mean_k) + self.discriminator]
        return self.drawn.deviations(logits_bl.reshape(-1, *grid))

    def _standardised(self, vectors_blk: Tensor) -> Tensor:
        return (vectors_blk[..., : len(self.mean_k)] - self.mean_k) / self.scale_k

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        scores = {name: score.to(device) for name, score in self.scores.items()}
        drawn = None if self.drawn is None else self.drawn.to(device)
        mean_k, scale_k, grain = self.mean_k.to(device), self.scale_k.to(device), self.grain.to(device)
        return type(self)(mean_k, scale_k, scores, grain, drawn, self.discriminator)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What was fitted, by name, as it is saved."""
        arrays = {"standard.mean": self.mean_k.cpu().numpy(), "standard.scale": self.scale_k.cpu().numpy()}
        for name, score in self.scores.items():
            arrays |= {f"{name}.{key}": array for key, array in score.to_arrays().items()}
        arrays |= {f"grain.{key}": array for key, array in self.grain.to_arrays().items()}
        if self.drawn is not None:
            arrays |= {f"drawn.{key}": array for key, array in self.drawn.to_arrays().items()}
            arrays["drawn.discriminator"] = np.array(self.discriminator)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Restore what `to_arrays` gave, see `Score.from_arrays`."""
        others = ("standard.", "grain.", "drawn.")
        names = dict.fromkeys(name.split(".")[0] for name in arrays if not name.startswith(others))
        ordered = [name for name in SCORES if name in names] + [name for name in names if name not in SCORES]
        return cls(
            torch.from_numpy(arrays["standard.mean"]),
            torch.from_numpy(arrays["standard.scale"]),
            {name: SCORES[name].from_arrays(below(f"{name}.", arrays)) for name in ordered},
            Grain.from_arrays(below("grain.", arrays)),
            DrawnDefects.from_arrays(drawn) if (drawn := below("drawn.", arrays)) else None,
            int(drawn.get("discriminator", 0)),
        )


@dataclass(frozen=True)
class FoldScores:
    """Scores of calibration images by cross-fitted statistics, each by the fit that did not see the image.

    Attributes:
        score_n: float64 (n,), ascending.
        fit_n: int64 (n,), the fit that did not see the image.
    """

    score_n: Tensor
    fit_n: Tensor

    @classmethod
    def of(cls, score_n: NDArray[np.float64], fit_n: NDArray[np.intp]) -> Self:
        """Of calibration images in any order."""
        order = np.argsort(score_n, kind="stable")
        return cls(torch.from_numpy(score_n[order]), torch.from_numpy(fit_n[order].astype(np.int64)))

    def joined(self, score_fb: Tensor) -> Tensor:
        """One score (B,) of what all fits say of new images, (F, B), on the scale of the calibration images.

        A new image is compared with each calibration image by the fit that saw neither (CV+, after Barber, Candes,
        Ramdas and Tibshirani 2021, "Predictive inference with the jackknife+"): as many calibration images as it does
        not beat there lie at or above the score that is given. Where it lies between its neighbours of that rank, the
        margins over the last that it beats and the first that it does not say, so that the score has no jumps but
        where two comparisons tie at once. If all fits agree, it is what they say. What is not a number stays so.
        """
        n, score_fb = len(self.score_n), score_fb.clamp(-LARGEST, LARGEST)
        margin_bn = (score_fb[self.fit_n].T - self.score_n).sort(dim=1).values
        unbeaten_b = (margin_bn <= 0).sum(1)
        over_b = margin_bn.gather(1, unbeaten_b.clamp(max=n - 1)[:, None])[:, 0]
        under_b = -margin_bn.gather(1, (unbeaten_b - 1).clamp(min=0)[:, None])[:, 0]
        last_b = self.score_n[(n - 1 - unbeaten_b).clamp(min=0)]
        next_b = self.score_n[(n - unbeaten_b).clamp(max=n - 1)]
        between_b = last_b + (next_b - last_b) * over_b / (over_b + under_b)
        between_b = torch.minimum(between_b, next_b)  # not beyond it by rounding
        outside_b = last_b + over_b  # above all of them, or below
        joined_b = torch.where((unbeaten_b > 0) & (unbeaten_b < n), between_b, outside_b)
        return joined_b + 0 * score_fb.sum(0)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The numbers, by name, as they are saved."""
        return {"score": self.score_n.numpy(), "fit": self.fit_n.numpy()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Restore what `to_arrays` gave, see `Score.from_arrays`."""
        return cls(torch.from_numpy(arrays["score"]), torch.from_numpy(arrays["fit"]))


@dataclass(frozen=True)
class Judged:
    """What F fits say of B images.

    Attributes:
        maps: of each fit the map (B, h, w) of each of its scores, by name.
        deviations: of each fit how unusual the roughness of whole images is, (B,).
        drawn: of each fit how much places look like a drawn defect, (B, h, w); None where nothing looks for them.
        folds: how several fits become one score; None for one fit.
    """

    maps: Sequence[Mapping[str, Tensor]]
    deviations: Sequence[Tensor]
    drawn: Sequence[Tensor | None]
    folds: FoldScores | None = None

    def of(self, places: Tensor | None) -> "Judged":
        """The same on the CPU; `places` (h, w) has 0 where nothing is judged."""
        shown = 1 if places is None else places
        maps = [{name: (map_bhw * shown).cpu() for name, map_bhw in of.items()} for of in self.maps]
        drawn = [None if drawn_bhw is None else drawn_bhw.cpu() for drawn_bhw in self.drawn]
        return Judged(maps, [deviations_b.cpu() for deviations_b in self.deviations], drawn, self.folds)

    @cached_property
    def _map_fbhw(self) -> Tensor:
        # all scores are in the same units: the mean of their maps is the map
        return torch.stack([torch.stack(list(of_fit.values())).mean(0) for of_fit in self.maps])

    @property
    def map_bhw(self) -> NDArray[np.float32]:
        """The heat map of each image, not yet standardised."""
        pairs = zip(self._map_fbhw, self.drawn, strict=True)
        found: NDArray[np.float32] = torch.stack([with_drawn(*pair) for pair in pairs]).mean(0).numpy()
        return found

    @property
    def score_b(self) -> NDArray[np.float64]:
        """Scores (B,) above and below 0: of each fit the worst places of its map and the alarm of its grain, joined."""
        of_fits = zip(self._map_fbhw, self.deviations, self.drawn, strict=True)
        score_fb = torch.stack([one_score(*of_fit) for of_fit in of_fits]).double()
        assert (len(score_fb) == 1) == (self.folds is None)
        score_b: NDArray[np.float64] = (score_fb[0] if self.folds is None else self.folds.joined(score_fb)).numpy()
        return score_b

    @property
    def raw_b(self) -> NDArray[np.float64]:
        """The same as raw scores."""
        return as_raw(self.score_b)

    def by_method(self) -> dict[str, NDArray[np.float64]]:
        """Raw scores (B,), "fused", and beside them what each score alone says, the mean of the fits, by name."""
        alone = {name: _mean_raw([worst_places(of_fit[name]) for of_fit in self.maps]) for name in self.maps[0]}
        if drawn := [drawn_bhw.flatten(1).amax(1) for drawn_bhw in self.drawn if drawn_bhw is not None]:
            alone["drawn"] = _mean_raw(drawn)
        return {"fused": self.raw_b} | alone | {"grain": _mean_raw(self.deviations)}


def one_score(map_bhw: Tensor, deviations_b: Tensor, drawn_bhw: Tensor | None) -> Tensor:
    """What one fit says of images, (B,), above and below 0.

    Args:
        map_bhw: its map.
        deviations_b: of their grain.
        drawn_bhw: see `Judged`.
    """
    score_b = worst_places(map_bhw) + alarm(deviations_b)
    return score_b if drawn_bhw is None else score_b + drawn_alarm(drawn_bhw).flatten(1).amax(1)


def with_drawn(map_bhw: Tensor, drawn_bhw: Tensor | None) -> Tensor:
    """A map (B, h, w) with what looks like a drawn defect put onto it."""
    return map_bhw if drawn_bhw is None else map_bhw + drawn_alarm(drawn_bhw)


def as_raw(score_b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores above and below 0 as raw scores from 0 up that keep their order: log(1 + e^s)."""
    raw_b: NDArray[np.float64] = np.logaddexp(0.0, score_b)
    return raw_b


def _mean_raw(scores: Sequence[Tensor]) -> NDArray[np.float64]:
    return as_raw(torch.stack(list(scores)).double().mean(0).numpy())
