"""Groups of near-duplicates: photos of one part are found, different parts stay apart however alike they look."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from ganomaly.images.recipe import Recipe
from ganomaly.parts.near_duplicates import content_ids, find_groups
from tests.ganomaly.photos import Photo, draw_bottles, draw_textures, session

RECIPE = Recipe(size_px=32)


def prepared(photos: Sequence[Photo]) -> NDArray[np.uint8]:
    """Recipe space, uint8 (N, 32, 32, 1)."""
    return np.array([RECIPE.apply(photo) for photo in photos])


def pairs(labels: NDArray[np.intp]) -> set[tuple[int, int]]:
    """All pairs of images with the same label."""
    first, second = np.nonzero(np.triu(labels[:, None] == labels, 1))
    return set(zip(first.tolist(), second.tolist(), strict=True))


def recall_and_precision(groups: NDArray[np.intp], parts: NDArray[np.intp]) -> tuple[float, float]:
    """Share of the true pairs that were found, and share of the found ones that are true."""
    found, true = pairs(groups), pairs(parts)
    return len(found & true) / len(true), len(found & true) / max(1, len(found))


def test_photos_of_a_part_are_one_group() -> None:
    """A part photographed twice would train and calibrate, and the promise be broken by the first new part."""
    photos, parts = session(draw_textures(150, seed=1), 2, seed=2)
    recall, precision = recall_and_precision(find_groups(prepared(photos)), parts)
    assert recall > 0.95
    assert precision > 0.98


@pytest.mark.parametrize(("n_parts", "photos_each"), [(8, 25), (40, 5)])
def test_photos_of_a_few_parts_are_few_groups(n_parts: int, photos_each: int) -> None:
    """Two hundred photos of eight parts would pass for two hundred parts."""
    photos, parts = session(draw_textures(n_parts, seed=3), photos_each, seed=4)
    recall, precision = recall_and_precision(find_groups(prepared(photos)), parts)
    assert recall > 0.9
    assert precision > 0.98


def test_different_parts_on_a_fixture_stay_apart() -> None:
    """A line of well aligned parts would shrink to a handful of groups, and training refuse good data."""
    photos = draw_bottles(400, seed=5)
    vectors = np.array([photo.ravel() for photo in photos[:50]], dtype=np.float64)
    assert np.corrcoef(vectors).min() > 0.98  # what a plain correlation would group
    groups = find_groups(prepared(photos))
    assert groups.max() + 1 >= 396


def test_parts_on_a_fixture_are_told_apart_from_their_second_photo() -> None:
    """Whitening would keep different parts apart by keeping everything apart."""
    photos, parts = session(draw_bottles(200, seed=6), 2, seed=7)
    recall, precision = recall_and_precision(find_groups(prepared(photos)), parts)
    assert recall > 0.7
    assert precision > 0.95


def test_the_order_of_images_does_not_matter() -> None:
    """A bucket listed in another order would give other roles and another detector."""
    photos, _ = session(draw_textures(60, seed=8), 3, seed=9)
    pixels = prepared(photos)
    groups = find_groups(pixels)
    order = np.random.default_rng(0).permutation(len(pixels))
    shuffled = find_groups(pixels[order])
    assert pairs(shuffled) == pairs(groups[order])
    assert shuffled[0] == groups[0] == 0
    np.testing.assert_array_equal(find_groups(pixels), groups)


def test_a_chain_of_small_changes_is_not_one_group() -> None:
    """One belt of slowly changing parts would swallow the line by links from each to the next."""
    corners = [photo.astype(np.float32) for photo in draw_textures(21, seed=10)]
    chain = [
        (corners[i] * np.cos(t) + corners[i + 1] * np.sin(t)).clip(0, 255).astype(np.uint8)
        for i in range(20)
        for t in np.linspace(0, np.pi / 2, 12, endpoint=False)
    ]
    counts = np.bincount(find_groups(prepared(chain)))
    assert 1 < counts.max() <= 24  # at most from one corner to the next on both sides


def test_three_thousand_images() -> None:
    """All pairs would be compared, or neighbours be missed where the search looks around pivots."""
    photos, parts = session(draw_textures(1500, seed=11, size_px=64), 2, seed=12)
    recall, precision = recall_and_precision(find_groups(prepared(photos)), parts)
    assert recall > 0.9
    assert precision > 0.98


def test_exact_copies_are_one_group_and_too_few_images_are_not_guessed_at() -> None:
    """Copies of a file would calibrate, or noise of a handful of images count as likeness."""
    noise = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3), dtype=np.uint8)
    assert find_groups(np.concatenate([noise, noise])).tolist() == [*range(20), *range(20)]
    flat = np.zeros((3, 32, 32, 1), np.uint8) + np.array([0, 9, 0], np.uint8)[:, None, None, None]
    assert find_groups(flat).tolist() == [0, 1, 0]
    assert find_groups(flat[:1]).tolist() == [0]
    assert find_groups(flat[:0]).tolist() == []


def test_content_ids_name_the_pixels() -> None:
    """Two images would share an id, or one image have two."""
    pixels = np.random.default_rng(1).integers(0, 255, (50, 32, 32, 1), dtype=np.uint8)
    ids = content_ids(pixels)
    assert len(set(ids.tolist())) == 50
    np.testing.assert_array_equal(content_ids(pixels[::-1].copy()), ids[::-1])
