"""The network that learns to find drawn defects, over maps that are made here."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch

from ganomaly.networks.defect_discriminator import (
    DefectDiscriminator,
    Seeing,
    drawn_copies,
    learn_to_find_defects,
    learn_without_folds,
)

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


CPU = torch.device("cpu")
TRIED = np.arange(48) % 6 == 0


def learn(
    images: list[np.ndarray], maps: Callable[[np.ndarray], list[np.ndarray]], judged: np.ndarray | None = None
) -> DefectDiscriminator | None:
    """What is learned from 40 of 48 images and tried on the others."""
    with drawn_copies(images, TRIED.astype(int), maps, 128, 0, judged) as copies:
        return learn_to_find_defects(copies, ~TRIED, TRIED, 0, CPU)


@pytest.fixture(scope="module")
def learned() -> DefectDiscriminator:
    """A network that found what was drawn."""
    found = learn(smooth(48, seed=0), maps_of)
    assert found is not None
    return found


def logits(network: DefectDiscriminator, image: np.ndarray) -> np.ndarray:
    """Logits (h, w) of one image."""
    with torch.no_grad():
        return network([torch.from_numpy(one)[None] for one in maps_of(image)])[0].numpy()


def test_a_small_spot_is_found_where_it_is_and_good_parts_stay_quiet(learned: DefectDiscriminator) -> None:
    """Small defects would be missed, or a line drown in false rejects."""
    good = np.array([logits(learned, image).max() for image in smooth(40, seed=1)])
    spotted = smooth(1, seed=2)[0].copy()
    cv2.circle(spotted, (70, 40), 3, (10, 10, 10), -1)
    found = logits(learned, spotted)
    assert found.shape == (6, 6)
    assert found.max() > good.mean() + 3 * good.std()
    assert np.unravel_index(found.argmax(), found.shape) == (40 // 16, 70 // 16)


def test_where_nothing_can_be_found_there_is_no_network() -> None:
    """Maps that show no defect would add noise to every score."""
    rng = np.random.default_rng(0)

    def blind(_: np.ndarray) -> list[np.ndarray]:
        return [rng.normal(size=(2, SIDE // stride, SIDE // stride)).astype(np.float32) for stride in (8, 16)]

    assert learn(smooth(48, seed=0), blind) is None


def test_too_few_copies_cannot_tell() -> None:
    """A handful of copies would say whether defects are found."""
    with drawn_copies(smooth(48, seed=0), TRIED.astype(int), maps_of, 48, 0) as copies:
        assert learn_to_find_defects(copies, ~TRIED, TRIED, 0, CPU) is None


def test_what_is_learned_without_a_fold_knows_nothing_of_it() -> None:
    """The promise of few parts would not hold."""
    images, fold = smooth(48, seed=0), np.arange(48) % 4
    found = []
    for other in (images[0], smooth(1, seed=9)[0] // 2):  # of fold 0
        with drawn_copies([other, *images[1:]], fold, maps_of, 128, 0) as copies:
            found.append(learn_without_folds(copies, fold, 4, 0, CPU))
    (first, unseen_fn), (second, _) = found
    assert unseen_fn.sum(1).tolist() == [24] * 4
    assert not any((unseen_fn[at] & (fold == at)).any() for at in range(4))
    alike = []
    for one, same in zip(first, second, strict=True):
        assert one is not None
        assert same is not None
        alike.append(np.array_equal(logits(one, images[5]), logits(same, images[5])))
    assert alike[0]
    assert not all(alike)


def test_of_many_images_some_lend_one_copy_each() -> None:
    """Learning would take longer for each image that a line has."""
    with drawn_copies(smooth(100, seed=0), np.zeros(100, int), maps_of, 64, 0) as copies:
        assert len(set(copies.image_m.tolist())) == len(copies.image_m) == 64


def test_places_that_are_not_judged_are_not_asked() -> None:
    """A restless border that no score looks at would hide that defects are found."""
    judged = np.ones((6, 6), dtype=bool)
    judged[:4] = False

    def restless(image: np.ndarray) -> list[np.ndarray]:
        found = maps_of(image)
        noise = np.random.default_rng(int(image.sum()))
        for of_stride in found:
            border = of_stride[:, : 2 * of_stride.shape[1] // 3]
            border += noise.normal(0, 100, border.shape)
        return found

    assert learn(smooth(48, seed=0), restless) is None
    assert learn(smooth(48, seed=0), restless, judged) is not None


def test_it_is_saved_and_repeated(learned: DefectDiscriminator) -> None:
    """A loaded detector would judge otherwise, or a training with the same seed end elsewhere."""
    image = smooth(1, seed=3)[0]
    loaded = DefectDiscriminator.restored(learned.state_dict())
    np.testing.assert_array_equal(logits(loaded, image), logits(learned, image))
    again = learn(smooth(48, seed=0), maps_of)
    assert again is not None
    np.testing.assert_allclose(logits(again, image), logits(learned, image), rtol=1e-3, atol=1e-3)


def test_it_stands_behind_the_frozen_network(learned: DefectDiscriminator) -> None:
    """The engine would give the maps alone, or lose one of them."""

    class Frozen(torch.nn.Module):
        def forward(self, _: torch.Tensor) -> list[torch.Tensor]:
            return [torch.from_numpy(one)[None] for one in maps_of(smooth(1, seed=4)[0])]

    pixels = torch.zeros(1, 3, SIDE, SIDE)
    assert [tuple(one.shape) for one in Seeing(Frozen(), [])(pixels)] == [(1, 2, 12, 12), (1, 2, 6, 6)]
    found = Seeing(Frozen(), [learned, learned])(pixels)
    assert [tuple(one.shape) for one in found] == [(1, 2, 12, 12), (1, 2, 6, 6), (1, 6, 6), (1, 6, 6)]
