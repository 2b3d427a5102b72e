"""Experiments: who trains and who tests, on drawn labels and on the real data sets where they are at hand."""

import os
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from ganomaly import TrainingDataError
from ganomaly.evaluation.protocols import (
    DataSet,
    Split,
    cifar10,
    elpv,
    from_folders,
    from_table,
    mnist,
    recipe_pixels,
    split,
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


def write(path: Path, level: int = 100) -> Path:
    """A small grey image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((40, 48), level, np.uint8))
    return path


def test_folders_become_a_data_set(tmp_path: Path) -> None:
    """Real inspection data could not be benchmarked, or good and bad be exchanged."""
    for i in range(10):
        write(tmp_path / "cells" / "good" / f"shift-{i % 2}" / f"{i}.png", 10)
    write(tmp_path / "cells" / "bad" / "0.PNG", 200)
    (tmp_path / "cells" / "bad" / "notes.txt").touch()
    data = from_folders(tmp_path / "cells" / "good", tmp_path / "cells" / "bad")
    assert (data.name, data.labels.tolist().count("normal"), len(data.labels)) == ("cells", 10, 11)
    found = split(data)
    check(data, found, "abnormal")
    pixels = recipe_pixels(data, found.test, Recipe(size_px=32, illumination="none"))
    assert pixels.shape == (3, 32, 32, 1)
    assert [int(image.max()) for image in pixels] == [10, 10, 200]
    with pytest.raises(TrainingDataError, match=r"nothing: no images found"):
        from_folders(tmp_path / "cells" / "good", tmp_path / "nothing")


def test_near_duplicates_become_one_part(tmp_path: Path) -> None:
    """Another exposure of a part that trained would be tested."""
    photos, parts = session(draw_textures(80, seed=1), 2, seed=2)
    for i, photo in enumerate(photos):
        path = tmp_path / "data" / ("bad" if i < 10 else "good") / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), photo)
    folders = tmp_path / "data" / "good", tmp_path / "data" / "bad"
    data = from_folders(*folders, recipe=Recipe(size_px=32))
    truth = parts[[int(Path(str(path)).stem) for path in data.images]]
    assert len(set(data.parts)) <= 84
    assert len(set(from_folders(*folders).parts)) == 160
    found = split(data, train_fraction=0.5)
    check(data, found, "abnormal")
    assert len(set(truth[found.train]) & set(truth[found.test])) <= 2


def test_a_table_of_labels_becomes_a_data_set(tmp_path: Path) -> None:
    """Views of one part would be split, or unsure labels train."""
    table = tmp_path / "labels.csv"
    rows = [f"images/{i}.png,{'abnormal' if i == 9 else 'normal'},p{i // 2}" for i in range(10)]
    table.write_text("\n".join(["path,label,part", *rows, "images/10.png,unsure,p9"]))
    data = from_table(table)
    assert len(data.labels) == 10
    assert data.images[3] == tmp_path / "images" / "3.png"
    found = split(data)
    check(data, found, "abnormal")
    assert 8 in found.test  # its part has an abnormal view
    table.write_text("path,label\n1.png,normal\n2.png,abnormal\n")
    assert from_table(table).parts.tolist() == ["1.png", "2.png"]
    table.write_text("file,label\n1.png,normal\n")
    with pytest.raises(TrainingDataError, match=r"labels\.csv: has no column path; it has file, label"):
        from_table(table)
    table.write_text("path,label\n1.png,normal\n")
    with pytest.raises(TrainingDataError, match="no row has the label abnormal"):
        from_table(table)


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
