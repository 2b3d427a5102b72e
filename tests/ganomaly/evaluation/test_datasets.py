"""Experiments: who trains and who tests, on drawn labels and on the real data sets where they are at hand."""

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from ganomaly.evaluation.datasets import (
    DataSet,
    Split,
    cifar10,
    elpv,
    mnist,
    recipe_pixels,
    split,
    unite_near_duplicates,
)
from ganomaly.images.recipe import Recipe
from tests.ganomaly.photos import draw_textures, session

DATA = Path(os.environ.get("GANOMALY_DATA", Path(__file__).parents[4] / "shared" / "data"))
needs_mnist = pytest.mark.skipif(
    not (DATA / "MNIST").is_dir(), reason="no MNIST: GANOMALY_DATA names no folder with it"
)
needs_cifar = pytest.mark.skipif(
    not (DATA / "cifar-10-batches-py").is_dir(), reason="no CIFAR-10: GANOMALY_DATA names no folder with it"
)
needs_elpv = pytest.mark.skipif(find_spec("elpv_dataset") is None, reason="needs the package elpv-dataset")


def drawn(n: int, *, views: int = 1) -> DataSet:
    """Labels a, b, c in turn, part by part; each part has as many images as views."""
    labels = np.repeat(np.array(["a", "b", "c"] * n)[:n], views)
    parts = np.repeat(np.arange(n).astype(np.str_), views)
    return DataSet("drawn", np.zeros((n * views, 8, 8), np.uint8), labels, parts)


def check(data: DataSet, found: Split, abnormal: str) -> None:
    """No abnormal image trains, nothing is on both sides or twice, and the truth belongs to the test images."""
    assert abnormal not in set(data.labels[found.train])
    np.testing.assert_array_equal(found.abnormal, data.labels[found.test] == abnormal)
    together = [*found.train, *found.test]
    assert len(set(together)) == len(together)
    assert not set(data.parts[found.train]) & set(data.parts[found.test])


def test_eighty_percent_of_normal_trains_and_the_rest_tests() -> None:
    """An abnormal image would be learned as normal, or the detector be tested on what it has seen."""
    data = drawn(300)
    found = split(data, "b")
    check(data, found, "b")
    assert len(found.train) == 160
    assert (len(found.test), found.abnormal.sum()) == (140, 100)
    assert set(data.labels[found.train]) == {"a", "c"}


def test_parts_stay_on_one_side() -> None:
    """A view of a part that trained would be tested, which makes any method look brilliant."""
    data = drawn(60, views=5)
    found = split(data, "b")
    check(data, found, "b")
    assert len(found.train) == 160
    mixed = DataSet("mixed", data.images, np.where(np.arange(300) % 50 == 0, "b", "a"), data.parts)
    found = split(mixed, "b")
    check(mixed, found, "b")
    assert len(found.test) + len(found.train) == 300


def test_the_seed_shuffles_and_nothing_else_does() -> None:
    """A run could not be repeated, or three seeds be three times the same split."""
    data = drawn(300)
    first, again, other = split(data, "a", seed=1), split(data, "a", seed=1), split(data, "a", seed=2)
    np.testing.assert_array_equal(first.train, again.train)
    np.testing.assert_array_equal(first.test, again.test)
    assert set(first.train) != set(other.train)
    assert (np.diff(first.train) < 0).any()


def test_limits_take_some_of_the_same_images() -> None:
    """A short run would train on images that the full run tests."""
    data = drawn(300)
    full, short = split(data, "c"), split(data, "c", train_images=20, test_normal=7, test_abnormal=5)
    check(data, short, "c")
    assert set(short.train) < set(full.train)
    assert set(short.test) < set(full.test)
    assert (len(short.train), (~short.abnormal).sum(), short.abnormal.sum()) == (20, 7, 5)


def test_mistakes_name_what_is_allowed() -> None:
    """A misspelt class would end in a table of nan."""
    with pytest.raises(ValueError, match=r"abnormal = 'd': drawn has the labels a, b, c"):
        split(drawn(30), "d")
    with pytest.raises(ValueError, match=r"train_fraction = 1: must lie between 0 and 1"):
        split(drawn(30), "a", train_fraction=1)
    with pytest.raises(ValueError, match=r"drawn: 2 normal images to train, 0 to test: too few"):
        split(drawn(3), "a", train_fraction=0.9)


def test_missing_data_sets_say_where_they_were_looked_for(tmp_path: Path) -> None:
    """The user would get torchvision's traceback, or a download that nobody asked for."""
    for load in (mnist, cifar10):
        with pytest.raises(FileNotFoundError, match=rf"is not in {tmp_path}"):
            load(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_near_duplicates_become_one_part() -> None:
    """Another exposure of a part that trained would be tested."""
    photos, parts = session(draw_textures(80, seed=1), 2, seed=2)
    labels = np.array(["abnormal"] * 10 + ["normal"] * 150)
    data = DataSet("cells", photos, labels, np.arange(160).astype(np.str_))
    united = unite_near_duplicates(data, Recipe(size_px=32))
    assert len(set(united.parts)) <= 84
    found = split(united, train_fraction=0.5)
    check(united, found, "abnormal")
    assert len(set(parts[found.train]) & set(parts[found.test])) <= 2


@needs_mnist
def test_mnist_is_pooled() -> None:
    """The paper's protocol pools both halves: training or test images alone give other figures."""
    data = mnist(DATA)
    assert data.images.shape == (70_000, 28, 28)
    assert sorted(set(data.labels)) == [str(digit) for digit in range(10)]
    found = split(data, "2")
    check(data, found, "2")
    assert len(found.train) == round(0.8 * (70_000 - 6_990))
    assert found.abnormal.sum() == 6_990
    pixels = recipe_pixels(data, found.test[:3], Recipe(size_px=32, illumination="none"))
    assert pixels.shape == (3, 32, 32, 1)
    assert pixels.max() > 200


@needs_cifar
def test_cifar10_is_pooled() -> None:
    """The paper's second data set could not be repeated."""
    data = cifar10(DATA)
    assert data.images.shape == (60_000, 32, 32, 3)
    assert split(data, "bird").abnormal.sum() == 6_000


@needs_elpv
@pytest.mark.parametrize(("kind", "normal", "abnormal"), [("mono", 588, 313), ("poly", 920, 402)])
def test_elpv_has_sure_labels_only(kind: str, normal: int, abnormal: int) -> None:
    """Cells that the experts were not sure of would train or test."""
    data = elpv(kind)
    assert (data.labels == "normal").sum() == normal
    assert (data.labels == "abnormal").sum() == abnormal
    assert recipe_pixels(data, np.array([0]), Recipe(size_px=64)).shape == (1, 64, 64, 1)
