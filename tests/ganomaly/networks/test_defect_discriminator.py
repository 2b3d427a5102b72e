"""The network that learns to find drawn defects, over maps that are made here."""

import cv2
import numpy as np
import pytest
import torch

from ganomaly.networks.defect_discriminator import DefectDiscriminator, Seeing, learn_to_find_defects

SIDE = 96


def smooth(n: int, seed: int) -> list[np.ndarray]:
    """Good parts: the same soft shading, a little lighter or darker, uint8 (SIDE, SIDE, 3)."""
    rng = np.random.default_rng(seed)
    shade = np.linspace(60, 180, SIDE)[:, None, None]
    return [np.broadcast_to(shade + rng.uniform(-5, 5), (SIDE, SIDE, 3)).astype(np.uint8) for _ in range(n)]


def maps_of(image: np.ndarray) -> list[np.ndarray]:
    """Mean and spread of the grey levels of each place, at strides of 8 and 16."""
    grey = image.astype(np.float32).mean(2)
    found = []
    for stride in (8, 16):
        size = (SIDE // stride, SIDE // stride)
        mean, square = (cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in (grey, grey**2))
        found.append(np.stack([mean, np.sqrt(np.maximum(square - mean**2, 0))]).astype(np.float32))
    return found


@pytest.fixture(scope="module")
def learned() -> DefectDiscriminator:
    """A network that found what was drawn."""
    found = learn_to_find_defects(smooth(48, seed=0), maps_of, 0, torch.device("cpu"))
    assert found is not None
    return found


def deviations(network: DefectDiscriminator, image: np.ndarray) -> np.ndarray:
    """Deviations (h, w) of one image."""
    with torch.no_grad():
        return network([torch.from_numpy(one)[None] for one in maps_of(image)])[0].numpy()


def test_a_small_spot_is_found_where_it_is_and_good_parts_stay_quiet(learned: DefectDiscriminator) -> None:
    """Small defects would be missed, or a line drown in false rejects."""
    assert np.mean([deviations(learned, image).max() > 3 for image in smooth(40, seed=1)]) < 0.1
    spotted = smooth(1, seed=2)[0].copy()
    cv2.circle(spotted, (70, 40), 3, (10, 10, 10), -1)
    found = deviations(learned, spotted)
    assert found.shape == (6, 6)
    assert found.max() > 3
    assert np.unravel_index(found.argmax(), found.shape) == (40 // 16, 70 // 16)


def test_where_nothing_can_be_found_there_is_no_network() -> None:
    """Maps that show no defect would add noise to every score."""
    rng = np.random.default_rng(0)

    def blind(_: np.ndarray) -> list[np.ndarray]:
        return [rng.normal(size=(2, SIDE // stride, SIDE // stride)).astype(np.float32) for stride in (8, 16)]

    assert learn_to_find_defects(smooth(48, seed=0), blind, 0, torch.device("cpu")) is None


def test_too_few_images_cannot_tell() -> None:
    """Three held-out images would say what good parts reach."""
    assert learn_to_find_defects(smooth(24, seed=0), maps_of, 0, torch.device("cpu")) is None


def test_places_that_are_not_judged_are_not_asked() -> None:
    """A restless border that no score looks at would raise what good parts seem to reach."""
    judged = np.ones((6, 6), dtype=bool)
    judged[:2] = False

    def restless(image: np.ndarray) -> list[np.ndarray]:
        found = maps_of(image)
        noise = np.random.default_rng(int(image.sum()))
        for of_stride in found:
            of_stride[:, : of_stride.shape[1] // 3] += noise.normal(
                0, 100, of_stride[:, : of_stride.shape[1] // 3].shape
            )
        return found

    network = learn_to_find_defects(smooth(48, seed=0), restless, 0, torch.device("cpu"), judged)
    assert network is not None
    spotted = smooth(1, seed=2)[0].copy()
    cv2.circle(spotted, (70, 60), 3, (10, 10, 10), -1)
    with torch.no_grad():
        found = network([torch.from_numpy(one)[None].float() for one in restless(spotted)])[0].numpy()
    assert found[2:].max() > 3


def test_it_is_saved_and_repeated(learned: DefectDiscriminator) -> None:
    """A loaded detector would judge otherwise, or a training with the same seed end elsewhere."""
    image = smooth(1, seed=3)[0]
    loaded = DefectDiscriminator.restored(dict(learned.state_dict()))
    np.testing.assert_array_equal(deviations(loaded, image), deviations(learned, image))
    again = learn_to_find_defects(smooth(48, seed=0), maps_of, 0, torch.device("cpu"))
    assert again is not None
    np.testing.assert_allclose(deviations(again, image), deviations(learned, image), rtol=1e-3, atol=1e-3)


def test_it_stands_behind_the_frozen_network(learned: DefectDiscriminator) -> None:
    """The engine would give the maps alone, or lose one of them."""

    class Frozen(torch.nn.Module):
        def forward(self, _: torch.Tensor) -> list[torch.Tensor]:
            return [torch.from_numpy(one)[None] for one in maps_of(smooth(1, seed=4)[0])]

    pixels = torch.zeros(1, 3, SIDE, SIDE)
    assert [tuple(one.shape) for one in Seeing(Frozen(), None)(pixels)] == [(1, 2, 12, 12), (1, 2, 6, 6)]
    found = Seeing(Frozen(), learned)(pixels)
    assert [tuple(one.shape) for one in found] == [(1, 2, 12, 12), (1, 2, 6, 6), (1, 6, 6)]
