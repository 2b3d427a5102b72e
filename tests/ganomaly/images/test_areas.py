"""Areas that are not looked at: what lies in them moves nothing, what lies beside them moves what it did before."""

import base64

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from ganomaly.errors import ImageError
from ganomaly.images.areas import as_mask, draw_ignored
from ganomaly.images.recipe import Recipe
from ganomaly.images.recipe_fitting import fit_recipe

LEFT = ((0.0, 0.0), (59.0, 0.0), (59.0, 119.0), (0.0, 119.0))
"""The left 60 columns of an image of 160 x 120 px."""


@pytest.fixture
def image() -> np.ndarray:
    """A colour image of 160 x 120 px."""
    return np.random.default_rng(0).integers(40, 200, (120, 160, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """An image file."""
    return cv2.imencode(".png", pixels)[1].tobytes()


def changed_left(image: np.ndarray) -> np.ndarray:
    """The image with other pixels wherever `LEFT` lies."""
    changed = image.copy()
    changed[:, :60] = np.random.default_rng(1).integers(0, 256, (120, 60, 3))
    return changed


RECIPES = {
    "features": {"keep_aspect": True, "channels": 3, "illumination": "none", "input_px": (96, 128)},
    "grown": {"keep_aspect": True, "channels": 3, "illumination": "none", "input_px": (160, 224)},
    "local contrast": {"size_px": 64},
    "a region": {"size_px": 64, "roi": (30, 10, 100, 90)},
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("areas", ["ignore", "include", "mask"])
def test_what_is_ignored_reaches_no_pixel_of_the_input(recipe: dict, areas: str, image: np.ndarray) -> None:
    """A hand in the picture or a counter that runs would move a score, by a bit or by much."""
    right = ((60.0, 0.0), (159.0, 0.0), (159.0, 119.0), (60.0, 119.0))
    mask = np.full((120, 160), 255, np.uint8)
    mask[:, :60] = 0
    setting = {"ignore": (LEFT,), "include": (right,), "mask": as_mask(png(mask))}[areas]
    partial = Recipe(**recipe, **{areas: setting})
    np.testing.assert_array_equal(partial.apply(image), partial.apply(changed_left(image)))
    assert (Recipe(**recipe).apply(image) != Recipe(**recipe).apply(changed_left(image))).any()


def test_what_is_looked_at_comes_through_as_it_is(image: np.ndarray) -> None:
    """A defect beside an ignored area would be blurred or lost."""
    recipe = Recipe(**RECIPES["features"])
    partial = recipe.model_copy(update={"ignore": (LEFT,)})
    whole, found = recipe.apply(image), partial.apply(image)
    np.testing.assert_array_equal(found[:, 49:], whole[:, 49:])  # 60 of 160 columns are 48 of 128
    assert (found[:, :47] == found[0, 0]).all()  # evenly filled ...
    np.testing.assert_allclose(found[0, 0], whole[:, 48:].mean((0, 1)), atol=2)  # ... with the mean of the rest


def test_polygons_keep_their_place_in_images_that_are_decoded_smaller(image: np.ndarray) -> None:
    """Large JPEG files would be ignored elsewhere than small ones."""
    recipe = Recipe(**RECIPES["features"], ignore=(((400.0, 0.0), (799.0, 0.0), (799.0, 1199.0), (400.0, 1199.0)),))
    large = cv2.resize(image, (1600, 1200), interpolation=cv2.INTER_NEAREST)
    half = cv2.resize(large, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    at_once, in_two = recipe.apply(large), recipe.apply(half, (1200, 1600))
    np.testing.assert_allclose(at_once.astype(int), in_two.astype(int), atol=1)


def test_heat_is_zero_where_nothing_is_looked_at(image: np.ndarray) -> None:
    """A region would be reported where nobody wants to know."""
    heat = Recipe(**RECIPES["features"], ignore=(LEFT,)).to_image_pixels(np.ones((12, 16), np.float32), image)
    assert (heat[:, :60] == 0).all()
    assert (heat[:, 61:] == 1).all()


def test_polygons_overlap_and_reach_beyond_the_image() -> None:
    """Where two polygons overlap they would cancel out, or a corner outside would shift the rest."""
    beyond = ((-50.0, -50.0), (40.0, -50.0), (40.0, 40.0), (-50.0, 40.0))
    over = ((20.0, 20.0), (60.0, 20.0), (60.0, 60.0), (20.0, 60.0))
    ignored = Recipe(ignore=(beyond, over)).ignored((100, 100))
    assert ignored is not None
    assert ignored[:41, :41].all()
    assert ignored[20:61, 20:61].all()
    assert ignored.sum() == 41 * 41 + 41 * 41 - 21 * 21


def test_parts_are_brought_into_one_frame_with_areas() -> None:
    """The frame would be learned from what is ignored, or polygons would be laid over shrunk images unscaled."""
    rng = np.random.default_rng(3)
    images = []
    for _ in range(12):
        image = rng.integers(20, 30, (700, 900), dtype=np.uint8)
        x, y = rng.integers(-20, 21, 2)
        cv2.rectangle(image, (300 + x, 200 + y), (600 + x, 500 + y), 180, -1)
        cv2.circle(image, (380 + x, 280 + y), 40, 90, -1)
        image[:, 700:] = rng.integers(0, 256)  # a lamp that is on or off
        images.append(image)
    corners = ((700.0, 0.0), (899.0, 0.0), (899.0, 699.0), (700.0, 699.0))
    recipe = fit_recipe(Recipe(size_px=128, illumination="none", align="shift", ignore=(corners,)), images)
    assert recipe.reference is not None
    aligned = np.stack([recipe.apply(image) for image in images]).astype(int)
    assert aligned[:, 40:80, 50:80].std(0).mean() < 5


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"mask": as_mask(png(np.full((50, 60), 255, np.uint8)))}, "other_size"),
        ({"ignore": (((-1.0, -1.0), (200.0, -1.0), (200.0, 200.0), (-1.0, 200.0)),)}, "all_ignored"),
        ({"include": (((500.0, 500.0), (600.0, 500.0), (600.0, 600.0)),)}, "all_ignored"),
    ],
)
def test_an_image_that_does_not_fit_its_areas_is_unusable(setting: dict, reason: str, image: np.ndarray) -> None:
    """A camera with another resolution would be looked at elsewhere, and nobody told."""
    with pytest.raises(ImageError) as caught:
        Recipe(**setting).apply(image)
    assert caught.value.reason == reason
    assert "160 x 120 px" in caught.value.detail


def test_polygons_hold_for_one_size_of_image(image: np.ndarray) -> None:
    """A camera with another resolution would be looked at elsewhere, and nobody told."""
    recipe = Recipe(ignore=(LEFT,))
    assert recipe.is_open
    fitted = fit_recipe(recipe, [image[:60], image, image])
    assert (fitted.camera_px, fitted.is_open) == ((120, 160), False)
    fitted.apply(image)
    with pytest.raises(ImageError, match=r"160 x 60 px, but the areas.* of images of 160 x 120 px"):
        fitted.apply(image[:60])
    filled = fitted.filled_places
    assert filled is not None
    assert filled.shape == (64, 64)
    assert filled[:, :24].all()
    assert not filled[:, 25:].any()


@pytest.mark.parametrize(
    "setting", [{"ignore": [[[1, 2], [3, 4]]]}, {"mask": "no image"}, {"mask": base64.b64encode(b"text").decode()}]
)
def test_areas_that_are_none_are_refused(setting: dict) -> None:
    """A line would be trained with areas that do nothing."""
    with pytest.raises(ValidationError):
        Recipe.model_validate(setting)


def test_a_recipe_with_areas_is_saved_whole_and_told() -> None:
    """A loaded detector would look elsewhere than the one that was trained."""
    mask = as_mask(png(np.eye(40, dtype=np.uint8) * 255))
    recipe = Recipe(ignore=(LEFT, LEFT[:3]), include=(LEFT,), mask=mask)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert "in 1 polygon without 2 polygons and a mask" in recipe.summary
    assert (Recipe(mask=mask).ignored((40, 40)) == ~np.eye(40, dtype=bool)).all()


def test_stripes_show_what_is_ignored() -> None:
    """An engineer would take an ignored area for one that is fine."""
    picture = np.full((100, 120, 3), 128, np.uint8)
    ignored = np.zeros((100, 120), bool)
    ignored[:, :50] = True
    drawn = draw_ignored(picture, ignored)
    assert (drawn[:, 50:] == 128).all()
    assert {int(grey) for grey in np.unique(drawn[:, :50])} == {87, 165}
    assert draw_ignored(picture, None) is picture


def test_a_region_of_which_nothing_is_left_is_unusable(image: np.ndarray) -> None:
    """A detector would be trained on black images and find all parts alike."""
    for recipe in (Recipe(roi=(0, 0, 40, 100), ignore=(LEFT,)), Recipe(include=(((80.0, 60.0),) * 3,))):
        with pytest.raises(ImageError) as caught:
            recipe.apply(image)
        assert caught.value.reason == "all_ignored"


@pytest.mark.parametrize("times", [2, 4, 8])
def test_ignored_pixels_reach_nothing_whatever_the_size_that_is_decoded(times: int) -> None:
    """Of an image whose sides are no multiple of 8 an ignored column would come through."""
    pixels = np.random.default_rng(0).integers(40, 200, (1001, 1501, 3), dtype=np.uint8)
    recipe = Recipe(**RECIPES["features"], ignore=(((1410.0, 0.0), (1500.0, 0.0), (1500.0, 1000.0), (1410.0, 1000.0)),))
    changed = pixels.copy()
    changed[:, 1410:] = 255
    found = []
    for one in (pixels, changed):
        rows, columns = -(-1001 // times), -(-1501 // times)
        padded = np.pad(one, ((0, rows * times - 1001), (0, columns * times - 1501), (0, 0)), mode="edge")
        decoded = padded.reshape(rows, times, columns, times, 3).mean((1, 3)).round().astype(np.uint8)
        found.append(recipe.apply(decoded, (1001, 1501)))
    np.testing.assert_array_equal(*found)


def test_images_of_another_size_decide_nothing(image: np.ndarray) -> None:
    """The areas would be taken for those of another camera, or a training end in a traceback."""
    large = cv2.resize(image, (320, 240))
    mask = as_mask(png(np.full((120, 160), 255, np.uint8)))
    settings = {"keep_aspect": True, "channels": 3, "align": "auto"}
    by_mask = fit_recipe(Recipe(**settings, mask=mask), [large, large, image])
    assert by_mask.camera_px == (120, 160)
    by_most = fit_recipe(Recipe(**settings, ignore=(LEFT,)), [large, image, image])
    assert (by_most.camera_px, by_most.input_px) == ((120, 160), (128, 160))


def test_a_mask_is_read_as_it_is_meant() -> None:
    """A mask of 16 bits would ignore everything, and one as JPEG look along its edges."""
    wanted = np.zeros((64, 64), np.uint8)
    wanted[:30] = 1
    for kind, pixels in ((".png", wanted), (".png", wanted.astype(np.uint16) * 300), (".jpg", wanted * 255)):
        ignored = Recipe(mask=as_mask(cv2.imencode(kind, pixels)[1].tobytes())).ignored((64, 64))
        assert (ignored == (wanted == 0)).all()
