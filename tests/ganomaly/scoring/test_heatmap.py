"""Heat maps: 1.0 is a limit that normal images rarely reach, and the overlay shows it without touching the rest."""

import numpy as np
import pytest

from ganomaly.scoring.heatmap import HeatMapStatistics, draw_overlay


@pytest.fixture(scope="module")
def statistics() -> HeatMapStatistics:
    """Statistics of noise that is ten times stronger in the right half."""
    return HeatMapStatistics.fit(noise(200, seed=0), noise(99, seed=1), 0.1)


def noise(n: int, seed: int) -> np.ndarray:
    """Residual maps of normal images, float32 (n, 32, 32)."""
    maps = np.abs(np.random.default_rng(seed).normal(size=(n, 32, 32))).astype(np.float32)
    maps[:, :, 16:] *= 10
    return maps


def test_normal_images_exceed_the_limit_at_the_promised_rate(statistics: HeatMapStatistics) -> None:
    """Overlays of good parts would be full of colour, or defects never reach it."""
    hottest = statistics.heat(noise(500, seed=2)).max(axis=(1, 2))
    assert 0.03 < (hottest > 1).mean() < 0.2
    own = statistics.heat(noise(99, seed=1)).max(axis=(1, 2))
    assert (own > 1 + 1e-5).sum() == 9  # alpha (n + 1) - 1


def test_heat_is_relative_to_what_is_normal_there(statistics: HeatMapStatistics) -> None:
    """Edges of the part, which are never reconstructed well, would outshine every defect."""
    maps = np.stack([noise(200, seed=0).mean(0)] * 2)
    maps[0, 8:12, 4:8] += 3
    maps[1, 8:12, 20:24] += 3
    quiet, loud = statistics.heat(maps)
    assert quiet.max() > 2 * loud.max()
    assert np.unravel_index(quiet.argmax(), quiet.shape)[0] in range(7, 13)
    assert quiet.min() >= 0
    assert quiet.dtype == np.float32


def test_constant_residuals_give_no_division_by_zero() -> None:
    """A part on a black background would fill the map with nan."""
    flat = np.zeros((20, 32, 32), np.float32)
    heat = HeatMapStatistics.fit(flat, flat, 0.1).heat(flat + 1)
    assert np.isfinite(heat).all()
    assert (heat > 1).all()


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_overlay_colours_hot_places_only(shape: tuple[int, ...], dtype: type) -> None:
    """A cold place would be tinted, 16-bit images be black, or red and blue be exchanged."""
    image = np.full(shape, 100 if dtype is np.uint8 else 100 * 257, dtype)
    heat = np.zeros((40, 60), np.float32)
    heat[:10], heat[10:20], heat[20:30] = 0.49, 1.0, 7.0
    drawn = draw_overlay(image, heat)
    assert drawn.shape == (40, 60, 3)
    assert drawn.dtype == np.uint8
    assert (drawn[:10] == 100).all()
    assert (drawn[30:] == 100).all()
    at_limit, hottest = drawn[15, 30].astype(int), drawn[25, 30].astype(int)
    assert at_limit[0] > at_limit[1] > at_limit[2]  # between yellow and orange
    assert hottest[0] > hottest[1] + 50
    assert hottest[1] < at_limit[1]  # redder
    assert (image == image.flat[0]).all()
