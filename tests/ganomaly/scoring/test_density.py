"""Densities of places: the closed form of leaving an image out, and maps in units that hold for new images."""

import numpy as np
import pytest
import torch

from ganomaly.scoring import density
from ganomaly.scoring.density import Density
from ganomaly.scoring.place_units import blur

GRID = (3, 4)
SIZE = 6


def vectors(n: int, seed: int) -> torch.Tensor:
    """Vectors (n, 12, 6) whose covariance differs from place to place."""
    rng = torch.Generator().manual_seed(7)
    mixing = torch.randn(12, SIZE, SIZE, generator=rng)
    drawn = torch.randn(n, 12, SIZE, generator=torch.Generator().manual_seed(seed))
    return torch.einsum("nlk,lkj->nlj", drawn, mixing) + torch.randn(12, SIZE, generator=rng)


def test_an_image_is_left_out_exactly() -> None:
    """Training images would seem nearer than new ones, and every new image unusual."""
    x_nlk = vectors(20, seed=0)
    n, mean, outer = density._moments(lambda: x_nlk.split(7))
    prior = density.PRIOR * SIZE
    root = density._root(outer, n, prior)
    fitted = Density(mean[:, None], root, None)  # type: ignore[arg-type]
    found = density._leave_one_out(fitted._squared(x_nlk), n, prior)
    pooled = outer.mean(0) / (n - 1)
    for left_out in (0, 7, 19):
        others = x_nlk[torch.arange(n) != left_out]
        centred = (others - others.mean(0)).transpose(0, 1)
        noise = density.NOISE * (n + prior) / (n - 1 + prior) * torch.eye(SIZE)
        covariance = (centred.transpose(1, 2) @ centred + prior * pooled) / (n - 1 + prior) + noise
        offset = x_nlk[left_out] - others.mean(0)
        wanted = torch.einsum("lk,lkj,lj->l", offset, torch.linalg.inv(covariance), offset) / SIZE
        torch.testing.assert_close(found[left_out], wanted, rtol=5e-3, atol=1e-3)


def test_maps_of_new_images_lie_where_those_of_left_out_ones_do() -> None:
    """A place would be hot on every new image, or a defect drown at a restless one."""
    x_nlk = vectors(60, seed=1)
    fitted = Density.fit(lambda: x_nlk.split(16), GRID)
    new = fitted.map(vectors(400, seed=2))
    assert abs(float(new.mean())) < 0.15
    assert float(new.std()) == pytest.approx(float(new.mean(0).std() + new.std()), abs=0.2)
    odd = vectors(50, seed=3)
    odd[:, 5] += 8
    assert float(fitted.map(odd)[:, 1, 1].mean()) > float(new[:, 1, 1].mean() + 3 * new[:, 1, 1].std())


def test_what_is_saved_judges_the_same() -> None:
    """A detector would score otherwise after a restart."""
    x_nlk = vectors(30, seed=4)
    fitted = Density.fit(lambda: x_nlk.split(8), GRID)
    arrays = fitted.to_arrays()
    assert arrays["root"].dtype == np.float16
    assert torch.equal(Density.from_arrays(arrays).map(x_nlk), fitted.map(x_nlk))


def test_a_single_image_is_refused() -> None:
    """A covariance of one image would be zero, and every other image infinitely far."""
    with pytest.raises(ValueError, match="at least 2 normal images, got 1"):
        Density.fit(lambda: [vectors(1, seed=0)], GRID)


def test_places_that_never_vary_give_finite_maps() -> None:
    """A black border would divide by zero."""
    x_nlk = vectors(20, seed=5)
    x_nlk[:, 0] = 0
    assert torch.isfinite(Density.fit(lambda: x_nlk.split(8), GRID).map(vectors(5, seed=6))).all()


def test_a_blurred_constant_stays_constant_up_to_the_border() -> None:
    """Borders would look calmer than they are."""
    torch.testing.assert_close(blur(torch.full((2, 5, 7), 3.0), 0.7), torch.full((2, 5, 7), 3.0))
