"""The alarms: surfaces that look rougher than good ones everywhere, and places that look like a drawn defect."""

import numpy as np
import torch
from numpy.typing import NDArray

from ganomaly.scoring.alarms import NOT_JUDGED, DrawnDefects, Grain, alarm, drawn_alarm, roughness

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


def logits(n: int, seed: int) -> torch.Tensor:
    """Of good images, (n, 4, 6): chance everywhere, high at one place of all parts and around it."""
    found = np.random.default_rng(seed).normal(-6, 1, (n, *GRID))
    found[:, 1, 2] += 9
    return torch.from_numpy(found).float()


def drawn_defects() -> DrawnDefects:
    """Fitted on 60 good images, of which 40 were learned from."""
    found = DrawnDefects.fit(logits(60, seed=0).numpy(), np.arange(60) < 40)
    assert found is not None
    return found


def test_what_looks_like_a_defect_on_all_good_parts_is_none_and_elsewhere_it_is() -> None:
    """A letter on the part would be flagged every night, or raise the bar for the whole image."""
    drawn = drawn_defects()
    assert int((drawn_alarm(drawn.deviations(logits(200, seed=1))).flatten(1).amax(1) > 0).sum()) <= 30
    spotted = logits(1, seed=2)
    spotted[0, 3, 5] = 3.0
    found = drawn_alarm(drawn.deviations(spotted))[0]
    assert found.argmax() == 3 * 6 + 5
    assert found[3, 5] > 0
    assert found[1, 2] == 0


def test_a_few_odd_good_images_do_not_deafen() -> None:
    """One scratched part among those that were taken for good would hide small defects on all others."""
    odd = logits(100, seed=0)
    odd[0, 3, 5] = odd[70, 0, 1] = odd[80, 2, 2] = 8.0  # one that was learned from, two that were not
    drawn = DrawnDefects.fit(odd.numpy(), np.arange(100) < 60)
    plain = DrawnDefects.fit(logits(100, seed=0).numpy(), np.arange(100) < 60)
    assert drawn is not None
    assert plain is not None
    spotted = logits(1, seed=2)
    spotted[0, 3, 5] = 3.0
    assert float(drawn.deviations(spotted)[0, 3, 5]) > 0.8 * float(plain.deviations(spotted)[0, 3, 5]) > 0


def test_a_place_that_is_not_judged_raises_no_alarm_and_no_bar() -> None:
    """An ignored area would be flagged, or hide defects elsewhere."""
    masked = logits(60, seed=0)
    masked[:, 0] = NOT_JUDGED
    drawn = DrawnDefects.fit(masked.numpy(), np.arange(60) < 40)
    assert drawn is not None
    spotted = logits(1, seed=2)
    spotted[0, 3, 5], spotted[:, 0] = 3.0, NOT_JUDGED
    found = drawn_alarm(drawn.deviations(spotted))[0]
    assert float(found[0].max()) == 0
    assert found[3, 5] > 0


def test_too_few_other_images_cannot_tell_what_new_ones_reach() -> None:
    """Images that were learned from reach less than new ones: half of these would be flagged."""
    assert DrawnDefects.fit(logits(60, seed=0).numpy(), np.arange(60) < 53) is None
    assert DrawnDefects.fit(logits(60, seed=0).numpy(), np.zeros(60, dtype=bool)) is None


def test_drawn_defects_are_saved() -> None:
    """A loaded detector would judge otherwise."""
    drawn, new = drawn_defects(), logits(5, seed=3)
    assert torch.equal(DrawnDefects.from_arrays(drawn.to_arrays()).deviations(new), drawn.deviations(new))
