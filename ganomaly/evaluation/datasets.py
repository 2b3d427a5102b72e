"""Labelled images, and which of them train and test.

Section 4 of arXiv 1805.06725: one class of MNIST or CIFAR-10 is abnormal and unseen, all others are normal. The normal
images of the data set's own training and test halves are pooled; a random 80 % of them train, the other 20 % and all
abnormal images test. `elpv` brings inspection data into the same form.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ganomaly.images.preparation import ImageSource, read_image
from ganomaly.images.recipe import Recipe
from ganomaly.parts.near_duplicates import find_groups
from ganomaly.parts.part_names import unite_parts


@dataclass(frozen=True)
class DataSet:
    """Labelled images.

    Attributes:
        name: for tables.
        images: (N,) paths, or arrays (H, W) or (H, W, 3) RGB as one array (N, H, W[, 3]), uint8.
        labels: (N,) class of each image; inspection data has "normal" and "abnormal".
        parts: (N,) part id of each image; one part never stands on both sides of a split.
    """

    name: str
    images: Sequence[ImageSource] | NDArray[np.uint8]
    labels: NDArray[np.str_]
    parts: NDArray[np.str_]


@dataclass(frozen=True)
class Split:
    """Indices into a data set.

    Attributes:
        train: (K,) normal images to train, fit and calibrate with.
        test: (M,) images that nothing may be chosen on, normal ones first.
        abnormal: (M,) which of them are abnormal.
    """

    train: NDArray[np.intp]
    test: NDArray[np.intp]
    abnormal: NDArray[np.bool_]


def mnist(root: Path, *, download: bool = False) -> DataSet:
    """70,000 handwritten digits, 28 x 28 px: training and test images pooled.

    Args:
        root: the folder that holds ``MNIST/raw``.
        download: fetch them if they are not there.

    Raises:
        FileNotFoundError: if they are not there and may not be fetched.
    """
    return _torchvision("MNIST", root, download)


def cifar10(root: Path, *, download: bool = False) -> DataSet:
    """60,000 small photos of ten classes, 32 x 32 px RGB, as `mnist`; root holds ``cifar-10-batches-py``."""
    return _torchvision("CIFAR10", root, download)


def _torchvision(name: Literal["MNIST", "CIFAR10"], root: Path, download: bool) -> DataSet:
    # here: it takes a second, and only these two data sets need it
    from torchvision import datasets  # noqa: PLC0415

    try:
        halves: list[Any] = [getattr(datasets, name)(root, train=train, download=download) for train in (True, False)]
    except RuntimeError as error:
        raise FileNotFoundError(
            f"{name} is not in {root} ({error}); give the folder that holds it, or let it be downloaded"
        ) from None
    images = np.concatenate([np.asarray(half.data, dtype=np.uint8) for half in halves])
    names = [str(half.classes[target]).split(" - ")[0] for half in halves for target in np.asarray(half.targets)]
    return DataSet(name.lower(), images, np.array(names), np.arange(len(images)).astype(np.str_))


def unite_near_duplicates(data: DataSet, recipe: Recipe) -> DataSet:
    """The same images, but parts of which two images are near-duplicates by the recipe are one.

    Raises:
        ImageError: for an image that cannot be read or that the recipe cannot take.
    """
    groups = find_groups(recipe_pixels(data, np.arange(len(data.labels)), recipe))
    return replace(data, parts=unite_parts(data.parts, groups))


def elpv(kind: Literal["mono", "poly"]) -> DataSet:
    """Solar cells of the package ``elpv-dataset``: defect probability 0 is normal, 1 abnormal, the others are left out.

    Raises:
        FileNotFoundError: if the package is not installed.
    """
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package elpv-dataset is not installed: pip install elpv-dataset")
    folder = Path(spec.origin).parent / "data"
    lines = [line.split() for line in (folder / "labels.csv").read_text(encoding="utf-8").splitlines()]
    cells = [(folder / path, float(probability)) for path, probability, cell in lines if cell == kind]
    sure = [(path, probability) for path, probability in cells if probability in (0.0, 1.0)]
    labels = np.array(["abnormal" if probability else "normal" for _, probability in sure])
    return DataSet(f"elpv-{kind}", [path for path, _ in sure], labels, np.array([path.stem for path, _ in sure]))


def split(
    data: DataSet,
    abnormal: str = "abnormal",
    *,
    train_fraction: float = 0.8,
    seed: int = 0,
    train_images: int | None = None,
    test_normal: int | None = None,
    test_abnormal: int | None = None,
) -> Split:
    """Deal out a data set as the paper does: no abnormal image trains, and no part stands on both sides.

    Args:
        data: all images.
        abnormal: the label that is abnormal; every other one is normal.
        train_fraction: share of the normal parts that trains; a part with an abnormal image only tests.
        seed: shuffles the parts.
        train_images: at most so many train; None for all. A smaller number takes some of the same images.
        test_normal: at most so many normal images test; None for all.
        test_abnormal: at most so many abnormal images test; None for all.

    Raises:
        ValueError: if no image has the label, or no normal image is left to train or to test.
    """
    is_abnormal = data.labels == abnormal
    if not is_abnormal.any():
        raise ValueError(f"abnormal = {abnormal!r}: {data.name} has the labels {', '.join(sorted(set(data.labels)))}")
    if not 0 < train_fraction < 1:
        raise ValueError(f"train_fraction = {train_fraction}: must lie between 0 and 1")
    names, part_n = np.unique(data.parts, return_inverse=True)
    rng = np.random.default_rng(seed)
    good = np.setdiff1d(np.arange(len(names)), part_n[is_abnormal])
    trains = np.zeros(len(names), dtype=bool)
    trains[rng.permutation(good)[: round(train_fraction * len(good))]] = True
    shuffled = rng.permutation(len(data.labels))
    train = shuffled[trains[part_n[shuffled]]][:train_images]
    rest = shuffled[~trains[part_n[shuffled]]]
    normal_test = rest[~is_abnormal[rest]][:test_normal]
    abnormal_test = rest[is_abnormal[rest]][:test_abnormal]
    if not len(train) or not len(normal_test):
        raise ValueError(f"{data.name}: {len(train)} normal images to train, {len(normal_test)} to test: too few")
    test = np.concatenate([normal_test, abnormal_test])
    return Split(train, test, is_abnormal[test])


def recipe_pixels(data: DataSet, chosen: NDArray[np.intp], recipe: Recipe) -> NDArray[np.uint8]:
    """The chosen images as a detector's input, uint8 (K, S, S, C). No quality gate: a protocol tests every image.

    Raises:
        ImageError: for an image that cannot be read or that the recipe cannot take.
    """
    with ThreadPoolExecutor(4, thread_name_prefix="prepare") as pool:
        pixels = list(pool.map(lambda i: recipe.apply(read_image(data.images[i], recipe)), chosen.tolist()))
    return np.array(pixels, dtype=np.uint8).reshape(-1, recipe.size_px, recipe.size_px, recipe.channels)
