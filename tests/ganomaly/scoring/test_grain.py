"""The alarm for surfaces that look rougher than good ones everywhere."""

import numpy as np
import torch
from numpy.typing import NDArray

from ganomaly.scoring.grain import Grain, alarm, roughness

GRID = (4, 6)


def surface(seed: int, noise: float) -> NDArray[np.uint8]:
    """An image (64, 96, 3) of a part whose left half is smooth and whose right half is rough."""
    rng = np.random.default_rng(seed)
    sides = np.where(np.arange(96) < 48, 2.0, 10.0)
    grey = 120 + noise * sides * rng.normal(size=(64, 96))
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def standardised(images: list[NDArray[np.uint8]]) -> torch.Tensor:
    """Their roughness, (N, 24, 16), by constants of this test."""
    return (torch.from_numpy(np.stack([roughness(image, GRID) for image in images])).float() - 6) / 4


def test_a_field_is_the_deviation_of_its_own_pixels() -> None:
    """Fields would be mixed up between places, and none keep its own statistics."""
    image = surface(0, noise=1.0)
    found = roughness(image, GRID)
    assert found.shape == (24, 16)
    place = image[16:32, 80:96, 0].astype(np.float64)
    for row in range(4):
        for column in range(4):
            field = place[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            np.testing.assert_allclose(found[11, 4 * row + column], np.sqrt(field.var() + 1), rtol=2e-3)


def test_a_surface_that_is_rough_everywhere_is_alarmed_and_a_good_one_is_not() -> None:
    """Grease or wear would pass, or every second good part be flagged by a score that sees nothing."""
    good = standardised([surface(seed, noise=1.0) for seed in range(60)])
    grain = Grain.fit(lambda: good.split(16), GRID)
    new = grain.deviations(standardised([surface(seed, noise=1.0) for seed in range(100, 300)]))
    assert abs(float(new.mean())) < 0.5
    assert 0.7 < float(new.std()) < 1.4
    assert int((alarm(new) > 0).sum()) <= 3
    rough = grain.deviations(standardised([surface(seed, noise=1.4) for seed in range(300, 320)]))
    assert float(alarm(rough).min()) > 0
    assert torch.equal(Grain.from_arrays(grain.to_arrays()).deviations(good), grain.deviations(good))
