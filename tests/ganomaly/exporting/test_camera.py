"""Gate and recipe as matrices do what they do with OpenCV."""

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ganomaly.exporting.camera import GateGraph, RecipeGraph, full_range
from ganomaly.images.quality import QualityGate
from ganomaly.images.recipe import Recipe


def photo(height: int, width: int, dtype: type = np.uint8, seed: int = 0) -> NDArray:
    """Shapes and noise, RGB over the full range."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.uniform(0.1, 0.9, (6, 9, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    texture = rng.normal(0, 0.1, (max(height, width) // 4, max(height, width) // 4, 1))
    fine = cv2.resize(texture, (width, height), interpolation=cv2.INTER_NEAREST)[:, :, None]
    image = coarse + fine + rng.normal(0, 0.02, (height, width, 3))
    return (np.clip(image, 0, 1) * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((300, 300), {}),
        ((300, 300), {"input_px": (320, 320)}),  # both ways larger
        ((768, 512), {"input_px": (384, 256)}),  # whole multiples
        ((200, 600), {"input_px": (224, 512)}),  # one way larger, the other smaller
        ((300, 300), {"roi": (20, 30, 200, 240)}),
        ((300, 300), {"illumination": "local_contrast", "window": 0.1}),
        ((300, 300), {"illumination": "local_contrast", "clip": 2.0, "noise_level": 0.05}),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_input_is_that_of_the_recipe(size: tuple[int, int], settings: dict, dtype: type) -> None:
    """An export would see other pixels than the detector was calibrated on."""
    recipe = Recipe.model_validate({"keep_aspect": True, "channels": 3, "illumination": "none", **settings})
    image = photo(*size, dtype)
    wanted = recipe.apply(image).astype(np.float32)
    pixels = torch.from_numpy(image.astype(np.float32))
    found = RecipeGraph(recipe, *size, int(np.iinfo(dtype).max))(pixels)[0].permute(1, 2, 0).numpy()
    off = np.abs(found - wanted)
    assert off.max() <= 1  # a tie that is rounded the other way
    assert (off > 0).mean() < 0.001


def test_few_bits_fill_the_range() -> None:
    """An export would see a 12-bit camera as dark."""
    recipe = Recipe(bits=12)
    image = photo(64, 64, np.uint16) >> 4
    found = full_range(torch.from_numpy(image.astype(np.float32)), recipe, 65535)
    np.testing.assert_array_equal(found.numpy(), recipe.full_range(image).astype(np.float32))


@pytest.mark.parametrize("side", [200, 700])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_gate_refuses_what_the_gate_refuses(side: int, dtype: type) -> None:
    """An export would call an image good that shows nothing."""
    white = int(np.iinfo(dtype).max)
    good = photo(side, side, dtype)
    grey = cv2.cvtColor(good, cv2.COLOR_RGB2GRAY)
    images = {
        "good": good,
        "grey": cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB),
        "dark": (good * 0.05).astype(dtype),
        "bright": np.maximum(good, int(0.99 * white)),
        "blank": np.full_like(good, white // 2),
        "blurred": cv2.GaussianBlur(good, (0, 0), side / 30),
    }
    gate = QualityGate()
    graph = GateGraph(gate, side, side, white)
    seen = set()
    for name, image in images.items():
        fault = gate.judge(gate.measure(image))
        number = int(graph(torch.from_numpy(image.astype(np.float32))))
        found = GateGraph.REASONS[number - 1] if number else None
        assert found == (fault.reason if fault else None), name
        seen.add(found)
    assert seen == {None, *GateGraph.REASONS}


def test_figures_at_a_limit_are_near_those_of_the_gate() -> None:
    """The test above would pass for a graph that is right by a wide margin only."""
    image = photo(300, 420)
    figures = QualityGate().measure(image)
    pixels = torch.from_numpy(image.astype(np.float32))
    for setting, figure, reason in (
        ("min_brightness", figures.brightness, "underexposed"),
        ("min_contrast", figures.contrast, "blank"),
        ("min_sharpness", figures.sharpness, "blurred"),
    ):
        for factor, expected in ((0.98, 0), (1.02, 1 + GateGraph.REASONS.index(reason))):
            gate = QualityGate.model_validate({setting: factor * figure})
            assert int(GateGraph(gate, 300, 420, 255)(pixels)) == expected, setting
