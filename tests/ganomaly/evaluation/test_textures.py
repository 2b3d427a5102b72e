"""Surfaces as inspection data: halves that never mix, truth that belongs to the images."""

from importlib.util import find_spec

import numpy as np
import pytest

from ganomaly.evaluation import textures
from ganomaly.evaluation.drawn_defects import KINDS
from ganomaly.evaluation.protocols import split
from ganomaly.evaluation.textures import TEXTURES, TextureName, read_texture, texture

needs_photos = pytest.mark.skipif(find_spec("skimage") is None, reason="needs the package scikit-image")


def two_greys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a surface into place whose grey tells the half: below 100 the left one, above it the right one."""
    surface = np.repeat([[40, 160]], 256, axis=1).repeat(512, axis=0)
    rng = np.random.default_rng(0)
    monkeypatch.setattr(
        textures, "read_texture", lambda _: (surface + rng.integers(-9, 9, (512, 512))).astype(np.uint8)
    )


@pytest.mark.parametrize("side_px", [32, 64, 100, 128])
def test_training_never_sees_the_half_that_tests(monkeypatch: pytest.MonkeyPatch, side_px: int) -> None:
    """The detector would be tested on what it has learned by heart."""
    two_greys(monkeypatch)
    surface = texture("weave", side_px=side_px, train_images=30, test_normal=12, test_abnormal=12)
    images, found = surface.data.images, surface.split
    assert images.shape == (54, side_px, side_px)
    assert np.median(images[found.train], axis=(1, 2)).max() < 100
    assert np.median(images[found.test], axis=(1, 2)).min() > 100
    parts = surface.data.parts
    assert not set(parts[found.train]) & set(parts[found.test])
    assert len(set(parts[found.train])) >= 3  # one of them can calibrate
    np.testing.assert_array_equal(found.abnormal, surface.data.labels[found.test] == "abnormal")
    np.testing.assert_array_equal(found.abnormal, surface.masks_mhw.any(axis=(1, 2)))
    assert surface.masks_mhw.shape == (24, side_px, side_px)


def test_stripes_of_the_half_that_trains_do_not_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reject limit would be set on pixels that trained."""
    rows = np.arange(512, dtype=np.uint16)[:, None].repeat(512, axis=1)
    monkeypatch.setattr(textures, "read_texture", lambda _: rows // 3)  # one grey level is three rows
    monkeypatch.setattr(textures, "BRIGHTNESS", 0.0)
    surface = texture("weave", train_images=60, test_normal=1, test_abnormal=0)
    seen = {part: surface.data.images[surface.data.parts == part] for part in ("left-0", "left-1", "left-2")}
    for above, below in (("left-0", "left-1"), ("left-1", "left-2")):
        assert seen[above].max() <= seen[below].min()
        assert len(np.unique(seen[above][:, 0, 0])) > 3  # places differ


def test_the_general_split_keeps_the_halves_apart_too() -> None:
    """A runner that deals out the data set by its parts would train on the half with defects."""
    data = texture("weave", side_px=64, train_images=60, test_normal=10, test_abnormal=10).data
    found = split(data)
    assert set(data.parts[found.train]) < {f"left-{i}" for i in range(6)}
    assert "right" in set(data.parts[found.test])


def test_every_kind_of_defect_tests_and_the_seed_decides() -> None:
    """A kind would be missing from the figure, or a run not be repeatable."""
    surface, again, other = (
        texture("weave", train_images=3, test_normal=2, test_abnormal=54, seed=seed) for seed in (1, 1, 2)
    )
    assert surface.split.abnormal.sum() == 9 * len(KINDS)
    np.testing.assert_array_equal(surface.data.images, again.data.images)
    assert (surface.data.images != other.data.images).any(axis=(1, 2)).all()


@pytest.mark.parametrize("name", [n if n == "weave" else pytest.param(n, marks=needs_photos) for n in TEXTURES])
def test_surfaces_are_there_and_rough(name: TextureName) -> None:
    """A photo of the package would have gone or changed its form, or the weave be a grey card."""
    surface = read_texture(name)
    assert (surface.shape, surface.dtype) == ((512, 512), np.uint8)
    assert 60 < surface.mean() < 190
    assert surface.std() > 15
    left, right = surface[:, :256], surface[:, 256:]
    assert abs(left.mean() - right.mean()) < 15  # halves look alike: what differs in a test is the defect
    assert 0.7 < left.std() / right.std() < 1.4


def test_mistakes_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without the package would get a traceback of the file system."""
    monkeypatch.setattr(textures, "find_spec", lambda _: None)
    assert read_texture("weave").shape == (512, 512)
    with pytest.raises(FileNotFoundError, match="scikit-image is not installed: pip install scikit-image"):
        read_texture("brick")
    with pytest.raises(ValueError, match="texture = 'sand': must be one of brick, grass, gravel, weave"):
        texture("sand")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="side_px = 200: must lie between 32 and 128"):
        texture("weave", side_px=200)
