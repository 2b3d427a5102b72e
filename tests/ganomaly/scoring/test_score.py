"""From a map of places to the score of an image."""

import pytest
import torch

from ganomaly.scoring.score import worst_places


def test_one_place_and_many_places_are_both_heard() -> None:
    """A speck would be diluted by the places around it, or a large stain count no more than a single odd place."""
    usual, speck, stain = torch.zeros(3, 20, 20)
    speck[3, 5] = 8.0
    stain[2:6, 2:6] = 4.0
    scores = worst_places(torch.stack([usual, speck, stain]))
    assert scores.tolist() == pytest.approx([0.0, (8 + 8 / 8) / 2, 4.0])


def test_the_smallest_map_has_a_worst_place() -> None:
    """2 % of a map of few places would be none at all."""
    assert worst_places(torch.tensor([[[1.0, 3.0], [2.0, 0.0]]])).tolist() == [3.0]
