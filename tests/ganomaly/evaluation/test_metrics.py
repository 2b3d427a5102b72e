"""Figures of merit against answers that are known without them."""

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from ganomaly.evaluation.metrics import aupro, image_auroc


def two_regions(n: int = 4, side: int = 40) -> np.ndarray:
    """Masks (n, side, side), each with a small and a large square."""
    masks = np.zeros((n, side, side), dtype=bool)
    masks[:, 2:6, 2:6] = masks[:, 20:36, 20:36] = True
    return masks


def by_thresholds(masks: np.ndarray, maps: np.ndarray, limit: float) -> float:
    """AUPRO as its definition reads: every threshold, every region; each mask holds the regions of `two_regions`."""
    regions = [np.zeros_like(masks) for _ in range(2 * len(masks))]
    for i in range(len(masks)):
        regions[2 * i][i, 2:6, 2:6] = regions[2 * i + 1][i, 20:36, 20:36] = True
    thresholds = np.unique(maps)[::-1]
    rate = np.array([0.0, *((maps[~masks] >= t).mean() for t in thresholds)])
    overlap = np.array([0.0, *(np.mean([(maps[r] >= t).mean() for r in regions]) for t in thresholds)])
    inside = rate < limit
    at_limit = np.interp(limit, rate[np.argmin(inside) - 1 :], overlap[np.argmin(inside) - 1 :])
    return float(np.trapezoid([*overlap[inside], at_limit], [*rate[inside], limit]) / limit)


def test_a_perfect_map_gets_one_and_a_reversed_one_nothing() -> None:
    """The figures could not be compared with published ones."""
    masks = two_regions()
    assert aupro(masks, masks.astype(np.float32)) == pytest.approx(1)
    assert aupro(masks, -masks.astype(np.float32)) == 0


def test_a_map_that_knows_nothing_gets_half_of_the_range() -> None:
    """Noise would look like a finding; a constant map is one tie of all pixels, the diagonal: limit / 2."""
    masks = two_regions(n=40)
    noise = np.random.default_rng(0).normal(size=masks.shape)
    assert aupro(masks, noise) == pytest.approx(0.15, abs=0.02)
    assert aupro(masks, np.zeros(masks.shape)) == pytest.approx(0.15)
    assert aupro(masks, np.zeros(masks.shape), limit=1) == pytest.approx(0.5)


def test_each_region_counts_the_same() -> None:
    """A large defect would outweigh a small one: found alone, each gets half."""
    masks = two_regions()
    for found in (slice(0, 10), slice(10, 40)):
        heat = np.zeros(masks.shape)
        heat[:, found, found] = 2.0 * masks[:, found, found]
        heat[~masks] = np.linspace(0.1, 1, (~masks).sum())  # every good pixel is hotter than the region not found
        assert aupro(masks, heat) == pytest.approx(0.5)


def test_regions_that_touch_by_a_corner_are_one() -> None:
    """A thin diagonal crack would count as dozens of defects."""
    masks = np.eye(20, dtype=bool)[None].copy()
    masks[0, 0:2, 17:19] = True
    heat = np.linspace(0, 1, 400).reshape(1, 20, 20)
    heat[0, 0:2, 17:19] = 9
    heat[0][np.eye(20, dtype=bool)] = -1
    assert aupro(masks, heat) == pytest.approx(0.5)


@pytest.mark.parametrize("levels", [3, 20, 10_000])
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_closed_form_equals_the_definition(levels: int, limit: float) -> None:
    """The areas would be wrong where values tie or the limit falls between two thresholds."""
    rng = np.random.default_rng(levels)
    masks = two_regions(n=2)
    maps = np.floor(rng.uniform(0, levels, masks.shape)) + 0.2 * levels * masks * (rng.uniform(size=masks.shape) < 0.5)
    assert aupro(masks, maps, limit=limit) == pytest.approx(by_thresholds(masks, maps, limit), rel=1e-9)


def test_one_region_per_image_agrees_with_the_partial_roc() -> None:
    """AUPRO would disagree with the ROC curve where both must be the same: a single region."""
    rng = np.random.default_rng(5)
    masks = np.zeros((1, 50, 50), dtype=bool)
    masks[0, 10:30, 10:30] = True
    maps = rng.normal(size=masks.shape) + 0.8 * masks
    rate, found, _ = roc_curve(masks.ravel(), maps.ravel(), drop_intermediate=False)
    grid = np.linspace(0, 0.3, 30_001)
    assert aupro(masks, maps) == pytest.approx(np.trapezoid(np.interp(grid, rate, found), grid) / 0.3, abs=1e-3)


def test_images_may_have_various_sizes_and_no_defect() -> None:
    """A folder of photos of two cameras could not be measured, or good images among them be ignored."""
    masks = [two_regions()[0], np.zeros((10, 30), dtype=bool)]
    maps = [masks[0].astype(np.float32), np.full((10, 30), 2, np.float32)]
    assert aupro(masks, maps) == pytest.approx(1 - 300 / (1600 - 272 + 300) / 0.3)


def test_image_auroc_counts_ties_half() -> None:
    """Scores that tie would count for or against the detector."""
    assert image_auroc(np.array([False, False, True, True]), np.array([0.0, 1.0, 1.0, 2.0])) == pytest.approx(0.875)


def test_mistakes_are_named() -> None:
    """A table would hold nan, or a figure of nothing."""
    masks = two_regions(n=2)
    with pytest.raises(ValueError, match="0 of 3 images are abnormal"):
        image_auroc(np.zeros(3, dtype=bool), np.arange(3.0))
    with pytest.raises(ValueError, match="0 regions in 2 masks"):
        aupro(np.zeros_like(masks), np.zeros(masks.shape))
    with pytest.raises(ValueError, match="the area needs good pixels"):
        aupro(np.ones_like(masks), np.zeros(masks.shape))
    with pytest.raises(ValueError, match=r"image 0: mask of \(40, 40\), map of \(20, 20\)"):
        aupro(masks, np.zeros((2, 20, 20)))
    with pytest.raises(ValueError, match="image 0: the map has values that are not finite"):
        aupro(masks, np.full(masks.shape, np.nan))
    with pytest.raises(ValueError, match=r"limit = 0: must lie above 0"):
        aupro(masks, np.zeros(masks.shape), limit=0)
