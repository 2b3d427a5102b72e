"""The recipe: region, channels, size and illumination do what the settings say."""

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from ganomaly.errors import ImageError
from ganomaly.images.preparation import prepare_image
from ganomaly.images.quality import QualityGate
from ganomaly.images.recipe import Recipe
from ganomaly.images.recipe_fitting import fit_recipe


@pytest.fixture
def texture() -> np.ndarray:
    """A grey image of 128 x 96 px."""
    return np.random.default_rng(0).integers(40, 200, (96, 128), dtype=np.uint8)


@pytest.mark.parametrize("illumination", ["none", "local_contrast"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(96, 128), (96, 128, 3), (20, 300), (1, 1), (64, 64)])
def test_output_always_has_the_networks_shape(illumination: str, channels: int, dtype: type, shape: tuple) -> None:
    """Some kind of camera image would reach the network with a wrong shape or type."""
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
    pixels = Recipe(channels=channels, illumination=illumination).apply(image)
    assert pixels.shape == (64, 64, channels)
    assert pixels.dtype == np.uint8


def test_none_keeps_grey_values() -> None:
    """Black, white and grey would be shifted, or 16 bits scaled to another white than 8."""
    recipe = Recipe(illumination="none")
    steps = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None], 64, axis=0)
    np.testing.assert_array_equal(recipe.apply(steps)[..., 0], steps)
    np.testing.assert_array_equal(recipe.apply(steps.astype(np.uint16) * 257)[..., 0], steps)


def test_roi_is_x_y_width_height(texture: np.ndarray) -> None:
    """Rows and columns would be exchanged and another place of the part inspected."""
    recipe = Recipe(roi=(50, 10, 64, 64), illumination="none")
    np.testing.assert_array_equal(recipe.apply(texture)[..., 0], texture[10:74, 50:114])
    np.testing.assert_array_equal(recipe.crop(texture), texture[10:74, 50:114])


def test_roi_may_touch_the_border_but_not_cross_it(texture: np.ndarray) -> None:
    """An image of another size would be cut silently at a wrong place, or a region at the border refused."""
    assert Recipe(roi=(64, 32, 64, 64)).apply(texture).shape == (64, 64, 1)
    with pytest.raises(ImageError, match=r"roi x 65\.\.129.*128 x 96") as caught:
        Recipe(roi=(65, 32, 64, 64)).apply(texture)
    assert caught.value.reason == "roi_outside"


def test_colour_becomes_luminance_and_grey_becomes_three_equal_channels() -> None:
    """Red and blue would be weighted wrongly, or a grey image given a tint."""
    recipe = Recipe(illumination="none")
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        image = np.zeros((64, 64, 3), np.uint8)
        image[..., channel] = 200
        assert recipe.apply(image)[0, 0, 0] == round(200 * weight)
    colour = Recipe(illumination="none", channels=3).apply(np.full((64, 64), 77, np.uint8))
    assert (colour == 77).all()


def test_shrinking_averages_all_pixels() -> None:
    """A fine pattern would alias into waves that look like defects."""
    board = np.indices((640, 48)).sum(axis=0) % 2 * 255
    pixels = Recipe(illumination="none").apply(board.astype(np.uint8))
    assert np.abs(pixels.astype(int) - 128).max() <= 1  # one axis shrinks, the other grows


def test_without_resize_another_size_is_refused(texture: np.ndarray) -> None:
    """Images of mixed size would be stretched although the line said never to."""
    recipe = Recipe(resize=False, illumination="none")
    np.testing.assert_array_equal(recipe.apply(texture[:64, :64])[..., 0], texture[:64, :64])
    with pytest.raises(ImageError, match=r"128 x 96 px.*64 x 64 px") as caught:
        recipe.apply(texture)
    assert caught.value.reason == "wrong_size"


@pytest.mark.parametrize(
    "image", [np.zeros((64, 64), np.float32), np.zeros((64, 64, 4), np.uint8), np.zeros(64, np.uint8)]
)
def test_other_arrays_are_refused(image: np.ndarray) -> None:
    """An array in [0, 1] would be taken for a black image."""
    with pytest.raises(ImageError, match="must be uint8 or uint16") as caught:
        Recipe().apply(image)
    assert caught.value.reason == "unsupported"


def test_local_contrast_ignores_lamp_brightness_and_shading(texture: np.ndarray) -> None:
    """A weaker lamp or an uneven one would be taken for a defect."""
    image = np.kron(np.random.default_rng(1).integers(80, 160, (64, 64)), np.ones((2, 2)))
    shade = np.linspace(0.5, 1.5, 128)[None, :]
    plain, shaded, dimmed = (
        Recipe().apply(x.astype(np.uint8)).astype(int) for x in (image, image * shade, image * 0.5)
    )
    assert np.abs(plain - shaded).mean() < 5
    assert np.abs(plain - dimmed).mean() < 3
    unlit = Recipe(illumination="none").apply((image * 0.5).astype(np.uint8)).astype(int)
    assert np.abs(Recipe(illumination="none").apply(image.astype(np.uint8)) - unlit).mean() > 40


def test_local_contrast_matches_its_formula() -> None:
    """The window, the clip or the noise level would mean something else than documented."""
    image = np.random.default_rng(2).integers(0, 65536, (64, 64), dtype=np.uint16)
    pixels = Recipe(window=0.25, clip=1.5, noise_level=0.01).apply(image)[..., 0]
    unit = image / 65535
    window = unit[20:37, 22:39]  # 17 x 17 round (28, 30)
    contrast = (unit[28, 30] - window.mean()) / (window.std() + 0.01)
    assert abs(pixels[28, 30] - (128 + 127 / 1.5 * np.clip(contrast, -1.5, 1.5))) <= 0.51
    assert pixels.min() == 1
    assert pixels.max() == 255


def test_flat_images_stay_flat() -> None:
    """Sensor noise on an even surface would be blown up to full contrast."""
    for level in (0, 128, 255):
        assert (Recipe().apply(np.full((300, 300), level, np.uint8)) == 128).all()
    noisy = np.random.default_rng(0).normal(128, 1, (300, 300)).round().astype(np.uint8)
    assert Recipe().apply(noisy).std() < 12  # full contrast would be 42


def test_sixteen_bits_keep_their_precision() -> None:
    """Detail below one step of 8 bits would be lost before the contrast is raised."""
    image = (30000 + np.random.default_rng(0).integers(-60, 60, (64, 64))).astype(np.uint16)
    recipe = Recipe(noise_level=0.0001)
    assert recipe.apply(image).std() > 30
    assert recipe.apply((image // 257).astype(np.uint8)).std() < 20


def test_map_returns_to_the_place_it_came_from() -> None:
    """The heat map would point beside the defect."""
    recipe = Recipe(roi=(30, 10, 128, 64), illumination="none")
    image = np.zeros((100, 200), np.uint8)
    image[40:44, 60:64] = 255
    heat = recipe.apply(image)[..., 0]
    placed = recipe.to_image_pixels(heat, np.zeros((100, 200, 3), np.uint8))
    assert placed.shape == (100, 200)
    assert placed.dtype == np.float32
    weights = placed / placed.sum()
    assert (weights * np.arange(100)[:, None]).sum() == pytest.approx(41.5, abs=0.6)
    assert (weights * np.arange(200)[None]).sum() == pytest.approx(61.5, abs=0.6)
    outside = np.ones((100, 200), bool)
    outside[10:74, 30:158] = False
    assert (placed[outside] == 0).all()


def test_map_of_another_shape_or_image_is_refused() -> None:
    """A map of another detector would be drawn over the wrong image."""
    with pytest.raises(ValueError, match="must be \\(H, W\\)"):
        Recipe().to_image_pixels(np.zeros((32, 32, 1)), np.zeros((100, 100), np.uint8))
    with pytest.raises(ImageError, match="roi_outside"):
        Recipe(roi=(0, 0, 50, 50)).to_image_pixels(np.zeros((64, 64)), np.zeros((40, 40), np.uint8))


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("size_px", 16, "32"),
        ("size_px", 72, "multiple of 16"),
        ("channels", 2, "1 or 3"),
        ("roi", (-1, 0, 5, 5), "at least 0"),
        ("roi", (0, 0, 0, 5), "at least 1"),
        ("illumination", "gamma", "'none' or 'local_contrast'"),
        ("window", 0.01, "0.05"),
        ("clip", 0, "1"),
        ("noise_level", 0, "greater than 0"),
    ],
)
def test_settings_out_of_range_are_named(setting: str, value: object, allowed: str) -> None:
    """A typing error in a line's file would train a wrong detector or give a message without field or range."""
    with pytest.raises(ValidationError) as caught:
        Recipe(**{setting: value})
    (mistake,) = caught.value.errors()
    assert mistake["loc"] == (setting,)
    assert mistake["input"] == value
    assert allowed in mistake["msg"]


def test_unknown_settings_are_refused_and_known_ones_survive_json() -> None:
    """A misspelt setting would be ignored, or a saved detector would prepare images in another way."""
    with pytest.raises(ValidationError, match="sise"):
        Recipe(sise=64)
    recipe = Recipe(size_px=128, channels=3, roi=(1, 2, 30, 40), window=0.5)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_the_image_is_left_alone_and_the_result_repeats(texture: np.ndarray) -> None:
    """Preparing an image twice would give two inputs."""
    before = texture.copy()
    np.testing.assert_array_equal(Recipe().apply(texture), Recipe().apply(texture))
    np.testing.assert_array_equal(texture, before)


@pytest.mark.parametrize(("bits", "high"), [(10, False), (12, False), (14, False), (12, True), (16, False)])
def test_cameras_that_fill_fewer_bits(bits: int, high: bool) -> None:
    """All images of a 12-bit camera would be "underexposed", or one that fills the high bits be overexposed."""
    rng = np.random.default_rng(0)
    scene = cv2.resize(rng.uniform(0.1, 0.95, (16, 16)), (96, 96), interpolation=cv2.INTER_CUBIC).clip(0.02, 0.98)
    raw = (scene * ((1 << bits) - 1)).astype(np.uint16) << (16 - bits if high else 0)
    image = np.asarray(raw, np.uint16)
    gate = QualityGate(min_sharpness=0)
    recipe = fit_recipe(Recipe(illumination="none"), [image])
    assert recipe.bits == (16 if high else bits)
    assert recipe.is_open is False
    found = prepare_image(image, recipe, gate)
    assert found.usable
    whole = prepare_image((scene * 255).astype(np.uint8), recipe, gate)
    assert found.pixels is not None
    assert whole.pixels is not None
    assert np.abs(found.pixels.astype(int) - whole.pixels).max() <= 2
    if bits == 10:
        detail = prepare_image(image, Recipe(), gate).detail
        assert detail is not None
        assert f"Its highest value is {image.max()} of 65535" in detail
        assert "set recipe.bits" in detail


def test_the_largest_size_is_a_setting() -> None:
    """A line scan of 150 megapixels would be unusable for ever."""
    png = cv2.imencode(".png", np.random.default_rng(0).integers(60, 200, (100, 100), np.uint8))[1].tobytes()
    refused = prepare_image(png, Recipe(max_megapixels=0.009), QualityGate())
    assert refused.reason == "too_large"
    assert "recipe.max_megapixels" in str(refused.detail)
    assert prepare_image(png, Recipe(max_megapixels=0.01), QualityGate()).usable
