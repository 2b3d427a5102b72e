"""Figures of merit from scores, maps and truth alone: pure functions that know no detector.

The area under the per-region overlap is exact, ties included, and needs no list of thresholds: a defect pixel counts as
found from the false-positive rate at which the threshold has come down to its heat, so that each adds its weight times
what is left of the axis. One sort of the good pixels gives all rates.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

Masks = Sequence[NDArray[np.bool_]] | NDArray[np.bool_]
"""(N, H, W), or N masks (H, W) of various sizes: True where the defect is."""
Maps = Sequence[NDArray[np.floating]] | NDArray[np.floating]
"""(N, H, W), or N maps (H, W) like the masks: higher for less normal."""


def image_auroc(abnormal_n: NDArray[np.bool_], scores_n: NDArray[np.floating]) -> float:
    """Chance that an abnormal image scores higher than a normal one, in [0, 1]; a tie counts half.

    Raises:
        ValueError: if all images are normal, all are abnormal, or a score is not finite.
    """
    if abnormal_n.all() or not abnormal_n.any():
        raise ValueError(f"{abnormal_n.sum()} of {len(abnormal_n)} images are abnormal: AUROC needs both kinds")
    return float(roc_auc_score(abnormal_n, scores_n))


def aupro(masks: Masks, maps: Maps, *, limit: float = 0.3) -> float:
    """Area under the per-region overlap, as MVTec AD has it (Bergmann et al. 2021, IJCV 129), in [0, 1].

    The overlap is the share of a region that lies above the threshold, averaged over all regions, each counting the
    same whatever its size; regions are 8-connected parts of a mask. It is integrated over the false-positive rate of
    all good pixels from 0 to `limit` and divided by `limit`. A map that knows nothing gets `limit` / 2: 0.15.

    Raises:
        ValueError: if no pixel is good or none is a defect, shapes differ, heat is not finite, or for a limit outside
            of (0, 1].
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit = {limit}: must lie above 0 and be at most 1")
    good, heat, weights = _pixels(masks, maps)
    return _area(_rates(good, heat), weights, limit) / limit


def _pixels(masks: Masks, maps: Maps) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.float64]]:
    """Heat of all good pixels; of all defect pixels; their weights: 1 / (regions x pixels of its own). Sorted."""
    good, heat, weights, regions = [], [], [], 0
    for number, (mask, map_hw) in enumerate(zip(masks, maps, strict=True)):
        if mask.shape != map_hw.shape:
            raise ValueError(f"image {number}: mask of {mask.shape}, map of {map_hw.shape}: must have the same shape")
        if not np.isfinite(map_hw).all():
            raise ValueError(f"image {number}: the map has values that are not finite")
        good.append(map_hw[~mask])
        if mask.any():
            count, region_hw = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
            region = region_hw[mask]
            heat.append(map_hw[mask])
            weights.append(1 / np.bincount(region, minlength=count)[region])
            regions += count - 1  # one of them is the good part
    if not heat or not sum(map(len, good)):
        raise ValueError(f"{regions} regions in {len(masks)} masks: the area needs good pixels and defects")
    defects = np.concatenate(heat)
    order = np.argsort(defects)  # neighbours are looked up near each other, which is ten times as fast
    return np.sort(np.concatenate(good)), defects[order], np.concatenate(weights)[order] / regions


def _rates(good_sorted: NDArray[np.floating], heat: NDArray[np.floating]) -> NDArray[np.float64]:
    """False-positive rates (2, P) just before and just after a threshold at each heat; they differ by the ties."""
    above = len(good_sorted) - np.searchsorted(good_sorted, heat, side="right")
    at_least = len(good_sorted) - np.searchsorted(good_sorted, heat, side="left")
    return np.stack([above, at_least]) / len(good_sorted)


def _area(rates_2p: NDArray[np.float64], weights_p: NDArray[np.float64], limit: float) -> float:
    """Area up to the limit under the curve that rises by each weight, linearly between its two rates."""
    before, after = rates_2p
    rising = np.clip(limit - before, 0, after - before)
    triangle = np.divide(rising**2, 2 * (after - before), out=np.zeros_like(rising), where=after > before)
    area = float(weights_p @ (triangle + np.maximum(0, limit - after)))
    return min(area, limit)  # the weights' sum is 1 but for rounding


def aupimo(masks: Masks, maps: Maps, *, lowest: float = 1e-5, highest: float = 1e-4) -> float:
    """Mean area under the per-image overlap of defective images (Bertoldo et al. 2024, arXiv 2401.01984), in [0, 1].

    Thresholds come from good images alone: the false-positive rate is the mean over good images of the share of pixels
    above the threshold. For each defective image the share of its defect above the threshold is averaged over the
    logarithm of that rate from `lowest` to `highest`: what is found while hardly any pixel of a good part is hot.

    Raises:
        ValueError: if there is no good or no defective image.
    """
    good = [map_hw.ravel() for mask, map_hw in zip(masks, maps, strict=True) if not mask.any()]
    bad = [map_hw[mask] for mask, map_hw in zip(masks, maps, strict=True) if mask.any()]
    if not good or not bad:
        raise ValueError(f"{len(good)} good and {len(bad)} defective images: AUPIMO needs both")
    heat = np.concatenate(good)
    weights = np.concatenate([np.full(len(pixels), 1 / (len(pixels) * len(good))) for pixels in good])
    order = np.argsort(-heat)
    rates = np.cumsum(weights[order])
    wanted = np.geomspace(lowest, highest, 50)
    thresholds = heat[order][np.minimum(np.searchsorted(rates, wanted, side="right"), len(heat) - 1)]
    return float(np.mean([[(pixels > threshold).mean() for threshold in thresholds] for pixels in bad]))
