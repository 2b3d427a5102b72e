"""Defects that are drawn into images of good parts."""

import numpy as np

from ganomaly.images.drawn_defects import with_defects


def picture(seed: int, *, colour: bool) -> np.ndarray:
    """A prepared image with texture, uint8 (64, 96, 3)."""
    rng = np.random.default_rng(seed)
    grey = rng.normal(120, 20, (64, 96, 1)) + (rng.normal(0, 10, (64, 96, 3)) if colour else 0)
    return np.clip(np.broadcast_to(grey, (64, 96, 3)), 0, 255).astype(np.uint8)


def test_what_changed_is_told() -> None:
    """The network would be taught that a defect is none, or that good parts are defective."""
    others = [picture(1, colour=True)]
    shares = []
    for seed in range(40):
        drawn, changed = with_defects(picture(0, colour=True), others, np.random.default_rng(seed))
        assert drawn.dtype == np.uint8
        assert (drawn.shape, changed.shape) == ((64, 96, 3), (64, 96))
        shares.append((changed > 12).mean())
    assert np.mean(np.array(shares) > 0) > 0.8
    assert 0.005 < np.mean(shares) < 0.3  # most of each image is as before


def test_a_grey_image_stays_grey_and_the_seed_draws_it() -> None:
    """A defect would be known by its colour, which no camera of the line can show, or a training not be repeated."""
    image, others = picture(0, colour=False), [picture(1, colour=False)]
    for seed in range(40):
        drawn, changed = with_defects(image, others, np.random.default_rng(seed))
        assert np.ptp(drawn, axis=2).max() <= 1
        again, changed_again = with_defects(image, others, np.random.default_rng(seed))
        np.testing.assert_array_equal(drawn, again)
        np.testing.assert_array_equal(changed, changed_again)
