"""Localisation of drawn defects: by a small trained detector, and by maps whose quality is known."""

from collections.abc import Callable

import numpy as np
import pytest

from ganomaly import Detector
from ganomaly.evaluation.baselines import PatchGaussian
from ganomaly.evaluation.drawn_defects import KINDS
from ganomaly.evaluation.localisation import (
    WithoutNetwork,
    draw_into,
    draw_sheet,
    mean_by_kind,
    measure_localisation,
)


@pytest.fixture(scope="module")
def parts(draw_parts: Callable[..., list[np.ndarray]]) -> list[np.ndarray]:
    """Good parts that the detector never saw, uint8 (48, 48)."""
    return draw_parts(12, seed=77)


def test_a_trained_detector_points_at_dark_patches(trained: Detector, parts: list[np.ndarray]) -> None:
    """The table would say that a detector is blind which is not: maps beside their masks, good and drawn exchanged."""
    (faint, strong) = measure_localisation(
        trained, parts, kinds=["dark_patch"], sizes=["large"], contrasts=["faint", "strong"]
    )
    assert (strong.kind, strong.size, strong.contrast, strong.images) == ("dark_patch", "large", "strong", 12)
    assert strong.pixel_auroc > 0.8
    assert strong.aupro > 0.5
    assert strong.image_auroc > 0.8
    assert strong.pixel_auroc > faint.pixel_auroc


def test_maps_meet_their_masks_in_camera_pixels(
    trained: Detector, parts: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heat of one image would be compared with the mask of another, or turned; these maps know the good image."""
    wide = [np.hstack([part, part[:, ::-1]]) for part in parts]  # 48 x 96 px: rows and columns cannot be exchanged
    good = trained.stack(list(trained.prepare_all(wide)), np.ones(len(wide), dtype=bool)).astype(np.float32)

    def differences(_: Detector, pixels: np.ndarray) -> np.ndarray:
        return np.abs(pixels - good)[..., 0]

    monkeypatch.setattr(Detector, "heat_maps", differences)
    dark = np.zeros((48, 96), np.uint8)  # cannot be judged: numbers of images and of maps differ
    [row] = measure_localisation(
        trained, [dark, *wide], kinds=["dark_patch"], sizes=["large"], contrasts=["strong"], seed=5
    )
    assert row.images == 12
    assert row.pixel_auroc > 0.97
    assert row.aupro > 0.9


def test_rows_come_in_order_and_again(trained: Detector, parts: list[np.ndarray]) -> None:
    """A sort of defect would be missing, or the table not be repeatable."""
    rows = list(measure_localisation(trained, parts[:3], sizes=["medium"], contrasts=["medium", "strong"], seed=3))
    assert [(row.kind, row.contrast) for row in rows] == [(k, c) for k in KINDS for c in ("medium", "strong")]
    only = list(
        measure_localisation(trained, parts[:3], kinds=["spot"], sizes=["medium"], contrasts=["strong"], seed=3)
    )
    assert only == [row for row in rows if (row.kind, row.contrast) == ("spot", "strong")]
    assert [*mean_by_kind(rows)] == [*KINDS]
    a, b = (row for row in rows if row.kind == "crack")
    assert mean_by_kind(rows)["crack"][2] == pytest.approx((a.aupro + b.aupro) / 2)


def test_a_defect_keeps_its_shape_when_it_gets_stronger(parts: list[np.ndarray]) -> None:
    """Faint and strong would differ by luck of the place."""
    faint, strong = (draw_into(parts[0], 4, "crack", "large", contrast, 0) for contrast in ("faint", "strong"))
    np.testing.assert_array_equal(faint.mask, strong.mask)
    assert (draw_into(parts[0], 5, "crack", "large", "faint", 0).mask != faint.mask).any()


def test_images_that_cannot_be_judged_are_left_out(trained: Detector, parts: list[np.ndarray]) -> None:
    """One dark photo would end the table, or count as a good image."""
    dark = np.zeros((48, 48), np.uint8)
    [row] = measure_localisation(trained, [dark, *parts[:4]], kinds=["spot"], sizes=["large"], contrasts=["strong"])
    assert row.images == 4
    with pytest.raises(ValueError, match="can judge none of 1 images: "):
        next(measure_localisation(trained, [dark]))


def test_sheets_show_image_outline_and_heat(trained: Detector, parts: list[np.ndarray]) -> None:
    """People would look at the wrong picture: the outline must surround the defect, the heat lie where the map is."""
    sheet = draw_sheet(trained, parts, "dark_patch", cases=[("large", "strong"), ("large", "faint")], tile_px=96)
    assert (sheet.shape, sheet.dtype) == ((288, 192, 3), np.uint8)
    plain, outlined, heat = np.split(sheet, 3)
    green = (outlined != plain).any(axis=2)
    assert 0.01 < green.mean() < 0.2
    rows, columns = np.nonzero(green[:, :96])
    mask = draw_into(parts[0], 0, "dark_patch", "large", "strong", 0).mask
    middle = 2 * np.argwhere(mask).mean(axis=0)
    assert abs(rows.mean() - middle[0]) < 8
    assert abs(columns.mean() - middle[1]) < 8
    assert (heat[:, :96] != plain[:, :96]).any()


def test_baselines_are_measured_on_the_same_pictures(
    trained: Detector, parts: list[np.ndarray], draw_parts: Callable[..., list[np.ndarray]]
) -> None:
    """A network would be compared with a baseline that saw other defects, another recipe or another gate."""
    normal = list(trained.prepare_all(draw_parts(100, seed=1)))
    fitted = PatchGaussian.fit(trained.stack(normal, np.ones(100, dtype=bool)))
    baseline = WithoutNetwork(trained.config, fitted)
    dark = np.zeros((48, 48), np.uint8)
    [row] = measure_localisation(baseline, [dark, *parts], kinds=["spot"], sizes=["large"], contrasts=["strong"])
    assert row.images == 12
    assert row.pixel_auroc > 0.8
    pixels = trained.stack(list(trained.prepare_all(parts)), np.ones(12, dtype=bool))
    np.testing.assert_array_equal(baseline.raw_scores(pixels), fitted.raw_scores(pixels))
