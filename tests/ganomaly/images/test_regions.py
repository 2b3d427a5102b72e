"""Regions lie where the heat is, and are as large as it is."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ganomaly.images.regions import Region, RegionRules, Zone, find_regions


def heat(*boxes: tuple[int, int, int, int, float], shape: tuple[int, int] = (80, 120)) -> np.ndarray:
    """A heat map with boxes (x, y, width, height, heat)."""
    map_hw = np.full(shape, 0.4, np.float32)
    for x, y, width, height, value in boxes:
        map_hw[y : y + height, x : x + width] = value
    return map_hw


def test_a_box_is_found_as_it_was_drawn() -> None:
    """A person would be sent to another place, or told another size."""
    (found,) = find_regions(heat((30, 20, 13, 5, 1.5))).regions
    assert found == Region(30, 20, 13, 5, 36.5, 22.5, 65, pytest.approx(np.hypot(12, 4) + 1), 1.5)


def test_the_hottest_comes_first_and_what_touches_is_one() -> None:
    """The list would not begin with what matters, or a crack be many specks."""
    first, second = find_regions(heat((5, 5, 4, 4, 1.2), (9, 9, 4, 4, 1.3), (60, 40, 10, 10, 3.0))).regions
    assert (first.x, first.y, first.heat) == (60, 40, 3.0)
    assert (second.x, second.y, second.width, second.height, second.area_px) == (5, 5, 8, 8, 32)


def test_what_a_strong_defect_warms_is_no_part_of_it() -> None:
    """A speck that is far beyond the limit would be told as large as all that its heat reaches."""
    map_hw = np.zeros((80, 120), np.float32)
    map_hw[40, 60] = 5000.0
    map_hw = cv2.GaussianBlur(map_hw, (0, 0), 8.0)
    assert map_hw.max() > 8
    (found,) = find_regions(map_hw).regions
    assert found.area_px == (map_hw >= map_hw.max() / 2).sum() < (map_hw >= 1).sum() / 2
    weak = map_hw.copy()
    weak[5:9, 5:9] = 1.1
    assert len(find_regions(weak).regions) == 2  # another spot has its own measure


def test_below_the_limit_nothing_is_a_region() -> None:
    """A good image would show regions."""
    assert find_regions(heat((30, 20, 13, 5, 0.99))).regions == ()
    assert len(find_regions(heat((30, 20, 13, 5, 1.0))).regions) == 1


@settings(deadline=None, max_examples=60)
@given(st.floats(20, 60), st.floats(20, 100), st.floats(4, 18), st.floats(4, 18), st.floats(0, 180))
def test_an_ellipse_keeps_area_centre_and_extent(
    row: float, column: float, semi_a: float, semi_b: float, angle: float
) -> None:
    """Area, centre or extent would be off by more than the pixels at the rim."""
    map_hw = np.zeros((80, 120), np.float32)
    centre, axes = (round(column), round(row)), (round(semi_a), round(semi_b))
    cv2.ellipse(map_hw, centre, axes, angle, 0, 360, 2.0, -1)
    inside = map_hw > 0
    (found,) = find_regions(map_hw).regions
    rows, columns = np.nonzero(inside)
    assert found.area_px == inside.sum()
    assert (found.centre_x, found.centre_y) == pytest.approx((columns.mean() + 0.5, rows.mean() + 0.5))
    whole = rows.min() > 0 and columns.min() > 0 and rows.max() < 79 and columns.max() < 119
    if whole:
        assert found.extent_px == pytest.approx(2 * max(axes) + 1, abs=1.5)
        assert found.area_px == pytest.approx(np.pi * (axes[0] + 0.5) * (axes[1] + 0.5), rel=0.2)


def test_outlines_are_drawn_around_and_not_over() -> None:
    """What is wrong with the part would be hidden, or a picture of a good part changed."""
    picture = np.full((300, 400, 3), 90, np.uint8)
    map_hw = heat((100, 100, 60, 40, 2.0), shape=(300, 400))
    drawn = find_regions(map_hw).draw(picture)
    assert (drawn[110:130, 110:150] == 90).all()
    assert (drawn[100:140, 100:160] != 90).any()
    assert (drawn[200:] == 90).all()
    np.testing.assert_array_equal(find_regions(heat(shape=(300, 400))).draw(picture), picture)


SEAL = Zone(name="seal", polygon=((50.0, 30.0), (80.0, 30.0), (80.0, 60.0), (50.0, 60.0)), limit=2.5)


@pytest.mark.parametrize(
    ("rules", "counting"),
    [
        (RegionRules(), [1, 2, 3]),
        (RegionRules(min_area_px=17), [1, 3]),
        (RegionRules(zones=(SEAL,)), [1, 2, 3]),
        (RegionRules(zones=(SEAL.model_copy(update={"limit": 3.5}),)), [2, 3]),
        (RegionRules(min_area_px=101, zones=(SEAL,)), []),
    ],
)
def test_rules_say_which_regions_count_and_are_outlined(rules: RegionRules, counting: list[int]) -> None:
    """A speck would be shown like a hole, or numbers on the picture not be those of the list."""
    map_hw = heat((60, 40, 10, 10, 3.0), (5, 5, 4, 4, 1.3), (90, 10, 10, 10, 1.2))
    found = find_regions(map_hw)
    kept = [r for r in found.regions if rules.counts(r.area_px, r.centre_x, r.centre_y, r.heat)]
    assert [found.regions.index(region) + 1 for region in kept] == counting
    picture = np.full((80, 120, 3), 90, np.uint8)
    drawn = (found.draw(picture, rules) != 90).any(axis=2)
    for number, region in enumerate(found.regions, start=1):
        around = drawn[region.y - 1 : region.y + region.height + 1, region.x - 1 : region.x + region.width + 1]
        assert around.any() == (number in counting)


def test_a_zone_is_not_more_sensitive_than_the_map() -> None:
    """A limit below the map's own would promise what no map holds: nothing below 1 is a region."""
    with pytest.raises(ValidationError):
        SEAL.model_validate(SEAL.model_dump() | {"limit": 0.5})
