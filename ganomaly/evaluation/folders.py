"""A detector with its defaults on anybody's folders of images, beside its own scores and what needs no network.

A folder has the layout of MVTec AD: `train/good`, `test/good`, `test/KIND` and, where the place of defects is known,
masks `ground_truth/KIND/NAME.png` (or `NAME_mask.png`). Nothing is chosen on test images.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from ganomaly.config import DetectorConfig
from ganomaly.detector import Detector
from ganomaly.errors import TrainingDataError
from ganomaly.evaluation.baselines import BASELINES
from ganomaly.evaluation.datasets import elpv, split, unite_near_duplicates
from ganomaly.evaluation.metrics import aupimo, aupro, image_auroc
from ganomaly.images.preparation import ImageSource, Prepared, read_image
from ganomaly.images.quality import QualityGate
from ganomaly.images.recipe import Recipe
from ganomaly.parts.part_names import parts_from_names
from ganomaly.scoring.calibration import Calibration

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp")
MAP_SIDE_PX = 512
"""Longer side at which maps are compared with masks."""
DETECTOR = "detector"
AT_ONCE = 64
"""Test images in memory at a time."""


@dataclass(frozen=True)
class InspectionSet:
    """Images of good parts to learn from, and others with known verdicts.

    Attributes:
        name: for tables.
        train: images of good parts.
        test: (M,) images to judge.
        defective: (M,) which of them are defective.
        masks: (M,) where the defect is; None for a good image and where nobody drew it.
        names: file names of the training images, for their parts; empty where there are none.
    """

    name: str
    train: Sequence[ImageSource]
    test: Sequence[ImageSource]
    defective: NDArray[np.bool_]
    masks: Sequence[Path | None]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class FolderRow:
    """One method on one set with one seed; what a method does not have is None.

    Attributes:
        data: name of the set.
        method: the detector, one of its scores, or a baseline.
        seed: of split, weights and draws.
        train_images: good images to learn from, calibration included.
        auroc: of images, in [0, 1]; an unusable image counts as the most unusual.
        aupro: of maps up to a false-positive rate of 0.3, in [0, 1].
        aupimo: of maps, in [0, 1].
        false_rejects: share of the usable good test images that were flagged.
        promised: the false-reject rate asked for.
        guaranteed: its upper bound, see `Calibration.guaranteed_rate`.
        held: whether the promise lies within, or above, the exact binomial interval (95 %) of what was observed.
        escapes: share of the defective test images that were neither flagged nor unusable.
        sure_good: share of the usable good test images that are sure, see `CalibrationConfig.sure_rate`.
        sure_defective: share of the defective test images that are sure.
        sure_promised: the rate asked for, at most; None where nothing can be sure.
        unusable_good: good test images that could not be judged.
        unusable_defective: defective ones.
        fit_s: seconds from files to a calibrated detector.
        images_per_s: from files to verdicts.
    """

    data: str
    method: str
    seed: int
    train_images: int
    auroc: float
    aupro: float | None = None
    aupimo: float | None = None
    false_rejects: float | None = None
    promised: float | None = None
    guaranteed: float | None = None
    held: bool | None = None
    escapes: float | None = None
    sure_good: float | None = None
    sure_defective: float | None = None
    sure_promised: float | None = None
    unusable_good: int | None = None
    unusable_defective: int | None = None
    fit_s: float | None = None
    images_per_s: float | None = None


def read_folder(folder: Path) -> InspectionSet:
    """Find the images of a folder.

    Raises:
        TrainingDataError: if it has another layout; says what is missing.
    """
    train = _images(folder / "train" / "good")
    kinds = sorted(path for path in (folder / "test").glob("*") if path.is_dir())
    test = [(path, kind.name) for kind in kinds for path in _images(kind)]
    defective = np.array([kind != "good" for _, kind in test], dtype=bool)
    if not train or defective.all() or not defective.any():
        raise TrainingDataError(
            f"{folder}: {len(train)} images in train/good, {int((~defective).sum())} in test/good, "
            f"{int(defective.sum())} in other folders of test: needs some of each (the layout of MVTec AD)"
        )
    masks = [None if kind == "good" else _mask_of(folder, kind, path) for path, kind in test]
    names = tuple(path.name for path in train)
    return InspectionSet(folder.name, train, [path for path, _ in test], defective, masks, names)


def solar_cells(line: str, seed: int) -> InspectionSet:
    """The solar cells of a line, split as `ganomaly.evaluation.datasets` says: near-duplicates on one side.

    Args:
        line: "elpv-mono" or "elpv-poly".
        seed: draws the split.
    """
    data = elpv("mono" if line == "elpv-mono" else "poly")
    dealt = split(unite_near_duplicates(data, Recipe()), "abnormal", seed=seed)
    return InspectionSet(
        line,
        [data.images[at] for at in dealt.train.tolist()],
        [data.images[at] for at in dealt.test.tolist()],
        dealt.abnormal,
        [None] * len(dealt.test),
    )


def few(data: InspectionSet, n: int, seed: int) -> InspectionSet:
    """The set with only n of its training images, drawn by the seed."""
    chosen = np.random.default_rng(seed).permutation(len(data.train))[:n].tolist()
    names = tuple(data.names[at] for at in chosen) if data.names else ()
    return replace(data, train=[data.train[at] for at in chosen], names=names)


def run_set(
    data: InspectionSet,
    config: DetectorConfig,
    seed: int,
    *,
    part_pattern: str | None = None,
    device: str = "auto",
    baselines: bool = True,
) -> Iterator[FolderRow]:
    """Fit a detector on a set and judge its test images: the detector's row, one for each score, one a baseline.

    Raises:
        TrainingDataError: if the images cannot train or calibrate a detector as asked.
    """
    started = time.perf_counter()
    training = config.training.model_copy(update={"seed": seed})
    config = config.model_copy(update={"training": training}).fitted_to(data.train)
    detector = Detector(config, device=device)
    prepared = list(detector.prepare_all(data.train))
    if part_pattern is not None and not data.names:
        raise TrainingDataError(f"{data.name}: has no file names that a part pattern could be searched in")
    parts = None if part_pattern is None else parts_from_names(data.names, part_pattern)
    for _ in detector.learn(prepared, detector.plan(prepared, parts)):
        pass
    fitted = time.perf_counter()
    del prepared
    row = FolderRow(data.name, DETECTOR, seed, len(data.train), 0.0, fit_s=fitted - started)
    yield from _judged(detector, data, row)
    if baselines:
        yield from _baselines(data, config.quality, seed)


def _judged(detector: Detector, data: InspectionSet, row: FolderRow) -> Iterator[FolderRow]:
    calibration = detector.calibrated
    usable = np.zeros(len(data.test), dtype=bool)
    raw: dict[str, list[NDArray[np.float64]]] = {}
    masks, maps, judging_s = [], [], 0.0
    for start in range(0, len(data.test), AT_ONCE):
        began = time.perf_counter()
        prepared = list(detector.prepare_all(data.test[start : start + AT_ONCE]))
        fit = np.array([one.usable for one in prepared])
        usable[start : start + AT_ONCE] = fit
        pixels = detector.stack(prepared, fit)
        for name, found_b in detector.raw_scores_by_method(pixels).items():
            raw.setdefault(name, []).append(found_b)
        judging_s += time.perf_counter() - began
        compared = _maps(detector, data, start, prepared, fit)
        masks += [mask for mask, _ in compared]
        maps += [map_hw for _, map_hw in compared]
    flagging: str = "fused" if detector.config.input == "features" else detector.config.score.method
    scores = {name: np.concatenate(parts) for name, parts in raw.items()}
    flagged = calibration.flagged(scores[flagging])
    good, bad = flagged[~data.defective[usable]], flagged[data.defective[usable]]
    if not len(good):
        raise TrainingDataError(f"{data.name}: none of the good test images can be judged")
    has_masks = any(mask.any() for mask in masks)
    yield replace(
        _with_second_promise(row, calibration, data, scores[flagging], usable),
        auroc=_auroc(data, usable, scores[flagging]),
        aupro=aupro(masks, maps) if has_masks else None,
        aupimo=aupimo(masks, maps) if has_masks else None,
        false_rejects=float(good.mean()),
        promised=calibration.false_reject_rate,
        guaranteed=calibration.guaranteed_rate,
        held=holds(int(good.sum()), len(good), calibration.guaranteed_rate),
        escapes=float((~bad).sum() / data.defective.sum()),
        unusable_good=int((~usable & ~data.defective).sum()),
        unusable_defective=int((~usable & data.defective).sum()),
        images_per_s=len(data.test) / judging_s,
    )
    for name, found_n in scores.items():
        if name != flagging:
            yield FolderRow(data.name, name, row.seed, row.train_images, _auroc(data, usable, found_n))


def _with_second_promise(
    row: FolderRow,
    calibration: Calibration,
    data: InspectionSet,
    raw_n: NDArray[np.float64],
    usable: NDArray[np.bool_],
) -> FolderRow:
    if calibration.sure is None:
        return row
    sure, defective = calibration.is_sure(raw_n), data.defective[usable]
    return replace(
        row,
        sure_good=float(sure[~defective].mean()),
        sure_defective=float(sure[defective].sum() / data.defective.sum()),
        sure_promised=calibration.sure.guaranteed_rate,
    )


def holds(flagged: int, good: int, rate: float) -> bool:
    """Tell whether a promise may be true: it is not below the exact 95 % interval (Clopper and Pearson 1934)."""
    return bool(rate >= binomtest(flagged, good).proportion_ci(0.95, "exact").low)


def _baselines(data: InspectionSet, gate: QualityGate, seed: int) -> Iterator[FolderRow]:
    """Rows of what needs no network, on pixels of the default recipe; an unusable image counts as most unusual."""
    config = DetectorConfig(input="pixels", quality=gate).fitted_to(data.train)
    detector = Detector(config, device="cpu")
    train, test = (list(detector.prepare_all(images)) for images in (data.train, data.test))
    fitting = np.array([one.pixels for one in train if one.pixels is not None])
    usable = np.array([one.usable for one in test])
    judged = np.array([one.pixels for one in test if one.pixels is not None])
    for name, kind in BASELINES.items():
        scores = kind(fitting).raw_scores(judged)
        yield FolderRow(data.name, name, seed, len(data.train), _auroc(data, usable, scores))


def _auroc(data: InspectionSet, usable: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    everything = np.full(len(usable), scores.max() + 1)
    everything[usable] = scores
    return image_auroc(data.defective, everything)


def _maps(
    detector: Detector, data: InspectionSet, start: int, prepared: Sequence[Prepared], fit: NDArray[np.bool_]
) -> list[tuple[NDArray[np.bool_], NDArray[np.float32]]]:
    """Mask and heat map of those images whose mask is known, and of good ones; none where a set has no masks."""
    if not any(data.masks):
        return []
    found = []
    rows = [
        at
        for at in np.flatnonzero(fit).tolist()
        if data.masks[start + at] is not None or not data.defective[start + at]
    ]
    heats = detector.heat_maps(detector.stack(prepared, np.isin(np.arange(len(prepared)), rows)))
    for at, heat in zip(rows, heats, strict=True):
        image = read_image(data.test[start + at], detector.config.recipe)
        map_hw = detector.config.recipe.to_image_pixels(heat, image)
        scale = min(1.0, MAP_SIDE_PX / max(map_hw.shape))
        size = (round(map_hw.shape[1] * scale), round(map_hw.shape[0] * scale))
        path = data.masks[start + at]
        mask = np.zeros(size[::-1], np.uint8)
        if path is not None:
            read = read_image(path)
            drawn = ((read if read.ndim == 2 else read.max(axis=2)) > 0).astype(np.uint8) * 255
            mask = np.asarray(cv2.resize(drawn, size, interpolation=cv2.INTER_AREA))
        shrunk = np.asarray(cv2.resize(map_hw, size, interpolation=cv2.INTER_AREA), np.float32)
        found.append((mask > 0, shrunk))
    return found


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)


def _mask_of(folder: Path, kind: str, image: Path) -> Path | None:
    names = (f"{image.stem}{ending}{suffix}" for suffix in SUFFIXES for ending in ("", "_mask"))
    return next((path for name in names if (path := folder / "ground_truth" / kind / name).is_file()), None)
