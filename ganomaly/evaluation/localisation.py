"""How well a detector finds and points at drawn defects, by kind, size and contrast, in good images it never saw."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ganomaly.config import DetectorConfig
from ganomaly.evaluation.drawn_defects import (
    CONTRASTS,
    KINDS,
    SIZES,
    Contrast,
    DrawnDefect,
    Kind,
    Size,
    draw_defect,
)
from ganomaly.evaluation.metrics import image_auroc, map_figures
from ganomaly.images.preparation import ImageSource, Prepared, prepare_image
from ganomaly.scoring.heatmap import draw_overlay


class MapScorer(Protocol):
    """What scores prepared images and says where they are not normal; higher for less normal."""

    def raw_scores(self, images_nhwc: NDArray[np.uint8], /) -> NDArray[np.float64]:
        """Raw scores (N,) of images in recipe space, uint8 (N, S, S, C)."""

    def heat_maps(self, images_nhwc: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """Heat (N, S, S) of images in recipe space, uint8 (N, S, S, C)."""


class Locator(MapScorer, Protocol):
    """What can be measured: a `Detector`, or a `WithoutNetwork`."""

    @property
    def config(self) -> DetectorConfig:
        """Recipe and quality gate are what matters here."""

    def prepare(self, image: ImageSource) -> Prepared:
        """Decode, judge the quality, apply the recipe."""


@dataclass(frozen=True)
class WithoutNetwork:
    """A baseline that looks at the images of a detector as it does: same gate, same recipe.

    Attributes:
        config: the detector's.
        scorer: a baseline with maps, fitted on images of that recipe.
    """

    config: DetectorConfig
    scorer: MapScorer

    def prepare(self, image: ImageSource) -> Prepared:
        """Decode, judge the quality, apply the recipe."""
        return prepare_image(image, self.config.recipe, self.config.quality)

    def raw_scores(self, images_nhwc: NDArray[np.uint8], /) -> NDArray[np.float64]:
        """The baseline's scores (N,) of prepared images."""
        return self.scorer.raw_scores(images_nhwc)

    def heat_maps(self, images_nhwc: NDArray[np.uint8], /) -> NDArray[np.float32]:
        """The baseline's maps (N, S, S) of prepared images."""
        return self.scorer.heat_maps(images_nhwc)


@dataclass(frozen=True)
class LocalisationRow:
    """What a detector makes of one sort of defect.

    Attributes:
        kind: what was drawn.
        size: its size.
        contrast: its contrast.
        image_auroc: chance that an image with the defect scores higher than one without, in [0, 1].
        pixel_auroc: chance that a defect pixel is hotter than another one of the drawn images, in [0, 1].
        aupro: area under the per-region overlap up to a false-positive rate of 0.3, in [0, 1]; 0.15 knows nothing.
        images: how many images carry the defect; as many without it stand against them.
    """

    kind: Kind
    size: Size
    contrast: Contrast
    image_auroc: float
    pixel_auroc: float
    aupro: float
    images: int


def measure_localisation(
    detector: Locator,
    images: Sequence[NDArray[np.uint8]],
    *,
    kinds: Sequence[Kind] = KINDS,
    sizes: Sequence[Size] = SIZES,
    contrasts: Sequence[Contrast] = CONTRASTS,
    seed: int = 0,
) -> Iterator[LocalisationRow]:
    """Draw each sort of defect into every image and compare heat with truth in camera pixels, one row per value drawn.

    A defect keeps its shape, whatever its contrast. Images that the detector cannot judge, with the defect or without,
    and such in which the defect could not be seen anywhere are left out of a row; a row without images is left out.

    Args:
        detector: trained and calibrated; or a baseline.
        images: good images that it never saw, uint8 (H, W) or (H, W, 3).
        kinds: what to draw.
        sizes: how large.
        contrasts: how strong.
        seed: draws shapes and places.

    Raises:
        ValueError: if the detector is not calibrated, or can judge none of the images.
    """
    good = [detector.prepare(image) for image in images]
    usable = [i for i, prepared in enumerate(good) if prepared.usable]
    if not usable:
        raise ValueError(f"the detector can judge none of {len(images)} images: {good[0].detail if good else 'none'}")
    good_scores = dict(zip(usable, detector.raw_scores(np.array([good[i].pixels for i in usable])), strict=True))
    for kind, size, contrast in product(kinds, sizes, contrasts):
        drawn = {i: _try_to_draw(images[i], i, kind, size, contrast, seed) for i in usable}
        prepared = {i: detector.prepare(defect.image) for i, defect in drawn.items() if defect is not None}
        judged = [i for i, found in prepared.items() if found.usable]
        if not judged:
            continue
        pixels = np.array([prepared[i].pixels for i in judged])
        scores = np.concatenate([[good_scores[i] for i in judged], detector.raw_scores(pixels)])
        defects = [defect for i in judged if (defect := drawn[i]) is not None]
        masks = [defect.mask for defect in defects]
        maps = [
            detector.config.recipe.to_image_pixels(heat, defect.image)
            for defect, heat in zip(defects, detector.heat_maps(pixels), strict=True)
        ]
        figures = map_figures(masks, maps)
        auroc = image_auroc(np.repeat([False, True], len(judged)), scores)
        yield LocalisationRow(kind, size, contrast, auroc, figures.pixel_auroc, figures.aupro, len(judged))


def draw_into(
    image: NDArray[np.uint8], number: int, kind: Kind, size: Size, contrast: Contrast, seed: int
) -> DrawnDefect:
    """The defect that `measure_localisation` draws into the image with this number."""
    rng = np.random.default_rng([seed, number, KINDS.index(kind), SIZES.index(size)])
    return draw_defect(image, kind, rng, size=size, contrast=contrast)


def _try_to_draw(
    image: NDArray[np.uint8], number: int, kind: Kind, size: Size, contrast: Contrast, seed: int
) -> DrawnDefect | None:
    try:
        return draw_into(image, number, kind, size, contrast, seed)
    except ValueError:
        return None


def mean_by_kind(rows: Sequence[LocalisationRow]) -> dict[Kind, tuple[float, float, float]]:
    """Means of image AUROC, pixel AUROC and AUPRO over the sizes and contrasts of each kind."""
    figures: dict[Kind, list[tuple[float, float, float]]] = {}
    for row in rows:
        figures.setdefault(row.kind, []).append((row.image_auroc, row.pixel_auroc, row.aupro))
    means = {kind: np.mean(values, axis=0).tolist() for kind, values in figures.items()}
    return {kind: (image, pixel, overlap) for kind, (image, pixel, overlap) in means.items()}


def draw_sheet(
    detector: Locator,
    images: Sequence[NDArray[np.uint8]],
    kind: Kind,
    *,
    cases: Sequence[tuple[Size, Contrast]] = tuple(product(SIZES, CONTRASTS)),
    tile_px: int = 192,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """A picture to look at: a column for each case, the next image in each; rows: image, outline of the mask, overlay.

    Args:
        detector: trained and calibrated.
        images: as given to `measure_localisation`; the pictures show what it measures.
        kind: what is drawn.
        cases: sizes and contrasts.
        tile_px: side of each picture.
        seed: as given to `measure_localisation`.

    Returns:
        uint8 (3 tiles, columns x tile, 3) RGB. An image that the detector cannot judge has no heat, one in which the
        defect could not be seen anywhere has none.
    """
    columns = []
    for column, (size, contrast) in enumerate(cases):
        number = column % len(images)
        good = DrawnDefect(images[number], np.zeros(images[number].shape[:2], dtype=bool))
        drawn = _try_to_draw(images[number], number, kind, size, contrast, seed) or good
        prepared = detector.prepare(drawn.image)
        heat = np.zeros(drawn.mask.shape, np.float32)
        if prepared.pixels is not None:
            map_ss = detector.heat_maps(prepared.pixels[None])[0]
            heat = detector.config.recipe.to_image_pixels(map_ss, drawn.image)
        plain = draw_overlay(drawn.image, np.zeros_like(heat))
        pictures = (plain, _outlined(plain, drawn.mask), draw_overlay(drawn.image, heat))
        columns.append(np.vstack([cv2.resize(p, (tile_px, tile_px), interpolation=cv2.INTER_AREA) for p in pictures]))
    return np.hstack(columns)


def _outlined(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A green line around the mask, a little off, so that it does not hide what it marks."""
    reach = max(2, round(min(mask.shape) / 60))
    wide = cv2.dilate(mask.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    contours, _ = cv2.findContours(wide, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outlined = cv2.drawContours(picture.copy(), contours, -1, (0, 255, 0), max(1, reach // 3))
    return np.asarray(outlined, np.uint8)
