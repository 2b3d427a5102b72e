"""The quality gate: real production images pass, what nobody could judge does not."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from ganomaly.images.decoding import decode_image
from ganomaly.images.preparation import fit_to_line, prepare_image
from ganomaly.images.quality import QualityFigures, QualityGate
from ganomaly.images.recipe import Recipe

GATE = QualityGate()
# darkest, flattest, softest and brightest of all 2,624 cells
EXTREME_CELLS = {"cell1836", "cell1896", "cell0051", "cell0052", "cell0639", "cell0649"}


@pytest.fixture(scope="module")
def cells() -> list[np.ndarray]:
    """Every tenth electroluminescence image of ELPV, and the extreme ones."""
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or found.origin is None:
        pytest.skip("needs the package elpv-dataset")
    files = sorted((Path(found.origin).parent / "data" / "images").glob("*.png"))
    chosen = {*files[::10], *(file for file in files if file.stem in EXTREME_CELLS)}
    return [decode_image(file.read_bytes()) for file in sorted(chosen)]


@pytest.fixture
def part() -> np.ndarray:
    """A part with straight edges, a round hole and fine grain."""
    image = np.full((400, 300), 60, np.uint8)
    cv2.rectangle(image, (40, 50), (260, 350), 150, -1)
    cv2.circle(image, (150, 200), 60, 30, -1)
    return np.clip(image + np.random.default_rng(0).normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def reason(image: np.ndarray, gate: QualityGate = GATE) -> str | None:
    """Why the gate refuses the image, None if it does not."""
    fault = gate.judge(gate.measure(image))
    return None if fault is None else fault.reason


def test_real_cells_pass_dark_and_soft_ones_too(cells: list[np.ndarray]) -> None:
    """Dead cells, the defects that matter most, would be hidden as unusable images."""
    assert [reason(cell) for cell in cells] == [None] * len(cells)


@pytest.mark.parametrize("sigma_px", [4, 6, 9])
def test_real_cells_out_of_focus_are_blurred(cells: list[np.ndarray], sigma_px: int) -> None:
    """A lens out of focus would pass every defect as ok."""
    blurred = [cv2.GaussianBlur(cell, (0, 0), sigma_px) for cell in cells]
    assert {reason(cell) for cell in blurred} == {"blurred"}


def test_sensor_noise_does_not_hide_blur(cells: list[np.ndarray]) -> None:
    """Noise, which comes after the lens, would pass as sharpness."""
    rng = np.random.default_rng(0)
    soft = [cv2.GaussianBlur(cell, (0, 0), 5) + rng.normal(0, 1, cell.shape) for cell in cells]
    refused = [reason(np.clip(cell, 0, 255).round().astype(np.uint8)) == "blurred" for cell in soft]
    assert np.mean(refused) > 0.99


def test_overexposed_cells_are_refused(cells: list[np.ndarray]) -> None:
    """A burnt-out image would be judged although its defects are white like everything else."""
    bright = [cell for cell in cells if cell.mean() > 100]
    burnt = [np.clip(cell * 4.0, 0, 255).astype(np.uint8) for cell in bright]
    assert {reason(cell) for cell in burnt} == {"overexposed"}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("noise", [0, 1])
@pytest.mark.parametrize(
    ("level", "expected"),
    [(0, "underexposed"), (5, "underexposed"), (60, "blank"), (200, "blank"), (255, "overexposed")],
)
def test_frames_without_a_picture(level: int, expected: str, noise: int, dtype: type) -> None:
    """A lamp that is off, a closed shutter or an empty conveyor would be scored as a part."""
    grey = np.clip(np.random.default_rng(0).normal(level, noise, (300, 300)).round(), 0, 255).astype(np.uint8)
    assert reason(grey.astype(dtype) * (257 if dtype == np.uint16 else 1)) == expected


def test_sharp_part_passes_and_its_defocused_twin_does_not(part: np.ndarray) -> None:
    """Blur would be found on solar cells only."""
    assert reason(part) is None
    assert reason(cv2.GaussianBlur(part, (0, 0), 6)) == "blurred"


def test_figures_do_not_depend_on_depth_colour_or_resolution(part: np.ndarray) -> None:
    """A limit would have to be found again for every camera."""
    small = GATE.measure(part)
    large = cv2.resize(part, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    for other in (part.astype(np.uint16) * 257, np.dstack([part] * 3), large):
        figures = GATE.measure(other)
        assert (figures.height_px, figures.width_px) == other.shape[:2]
        for name in ("brightness", "contrast", "sharpness"):
            assert getattr(figures, name) == pytest.approx(getattr(small, name), rel=0.05), name


def test_figures_of_a_known_image() -> None:
    """Brightness, contrast and saturation would have other units than documented."""
    image = np.zeros((100, 100), np.uint8)
    image[:, :50] = 255
    figures = GATE.measure(image)
    assert figures.brightness == 1.0
    assert figures.contrast == pytest.approx(0.5)
    assert figures.saturated_fraction == pytest.approx(0.5)
    assert GATE.measure(np.full((100, 100), 51, np.uint8)).brightness == pytest.approx(0.2)


def test_small_images_are_too_small() -> None:
    """A thumbnail or an empty array would be stretched and scored, or crash the gate."""
    assert reason(np.zeros((0, 5), np.uint8)) == "too_small"
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (1, 4000), (31, 500), (2, 2, 3)):
        assert reason(rng.integers(0, 256, shape, dtype=np.uint8)) == "too_small"
    assert reason(rng.integers(0, 256, (32, 500), dtype=np.uint8)) is None


@pytest.mark.parametrize(
    ("figures", "named"),
    [
        (QualityFigures(20, 400, 0.5, 0.2, 0, 0.3), "20 px"),
        (QualityFigures(400, 400, 0.01, 0.2, 0, 0.3), "0.010"),
        (QualityFigures(400, 400, 1, 0.2, 0.9, 0.3), "90.0%"),
        (QualityFigures(400, 400, 0.5, 0.001, 0, 0.3), "0.0010"),
        (QualityFigures(400, 400, 0.5, 0.2, 0, 0.05), "0.050"),
    ],
)
def test_a_fault_names_the_figure_and_the_limit(figures: QualityFigures, named: str) -> None:
    """The operator would learn that an image is unusable, but not how far off it is."""
    fault = GATE.judge(figures)
    assert fault is not None
    assert named in fault.detail
    assert "needed" in fault.detail or "allowed" in fault.detail


def test_every_check_can_be_switched_off() -> None:
    """A line whose parts are smooth or whose background is white could not be inspected."""
    gate = QualityGate(min_side_px=1, min_brightness=0, max_saturated_fraction=1, min_contrast=0, min_sharpness=0)
    for image in (np.zeros((9, 9), np.uint8), np.full((99, 99), 255, np.uint8)):
        assert reason(image, gate) is None


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("min_side_px", 0),
        ("min_brightness", 2),
        ("max_saturated_fraction", -1),
        ("min_contrast", 1),
        ("min_sharpness", -1),
    ],
)
def test_settings_out_of_range_are_named(setting: str, value: float) -> None:
    """A limit that no image can reach would make a night unusable without a word."""
    with pytest.raises(ValidationError, match=setting):
        QualityGate(**{setting: value})
    with pytest.raises(ValidationError, match="min_sharpnes"):
        QualityGate(min_sharpnes=1)


def figures_with(**changed: float) -> QualityFigures:
    """Figures of a usual image, but for some."""
    return replace(QualityFigures(400, 400, 0.5, 0.2, 0.0, 0.3), **changed)


def test_a_line_of_smooth_parts_is_not_called_blurred() -> None:
    """Every good image of a polished part would be unusable: the limit was found on solar cells."""
    smooth = [figures_with(sharpness=0.08 + 0.0005 * n) for n in range(60)]
    gate = GATE.fitted_to(smooth)
    assert gate.min_sharpness == pytest.approx(0.0474, abs=0.001)
    assert [gate.judge(one) for one in smooth] == [None] * 60
    blurred = gate.judge(figures_with(sharpness=0.04))
    assert blurred is not None
    assert blurred.reason == "blurred"


def test_a_line_before_a_white_screen_is_not_called_overexposed() -> None:
    """Small parts on a light table would all be unusable; a frame that is white all over still is."""
    gate = GATE.fitted_to([figures_with(saturated_fraction=0.9)] * 20)
    assert gate.judge(figures_with(saturated_fraction=0.92)) is None
    white = gate.judge(figures_with(saturated_fraction=1.0))
    assert white is not None
    assert white.reason == "overexposed"


def test_limits_stay_where_most_good_images_pass_and_where_somebody_stated_them() -> None:
    """A few blurred images among good ones would open the gate for all that come, and a setting would do nothing."""
    few = [figures_with()] * 9 + [figures_with(sharpness=0.01)]
    assert GATE.fitted_to(few) == GATE
    lamp_off = [figures_with(sharpness=0.15)] * 6 + [figures_with(brightness=0.0, contrast=0.0, sharpness=0.0)] * 4
    assert GATE.fitted_to(lamp_off) == GATE
    assert GATE.fitted_to([]) == GATE
    dark = [figures_with(brightness=0.01, contrast=0.001)] * 20
    assert GATE.fitted_to(dark) == GATE
    stated = QualityGate(min_sharpness=0.102)
    assert stated.fitted_to([figures_with(sharpness=0.05)] * 20) == stated


def test_the_gate_is_fitted_to_what_the_camera_filled(part: np.ndarray) -> None:
    """White of 12 bits would look dark while the gate is fitted, and all images would be overexposed afterwards."""
    before_white = np.full((300, 300), 255, np.uint16)
    before_white[120:180, 120:180] = cv2.resize(part, (60, 60))
    frames = [np.roll(before_white, 5 * n, axis=1) * 16 + 15 for n in range(10)]
    recipe, gate = fit_to_line(Recipe(), GATE, frames)
    assert recipe.bits == 12
    assert gate.max_saturated_fraction > GATE.max_saturated_fraction
    assert [prepare_image(one, recipe, gate).reason for one in frames] == [None] * 10
