"""The scores without a network: against textbook formulas, and on defects that each of them must see."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import oas
from sklearn.metrics import roc_auc_score

from ganomaly.evaluation.baselines import BASELINES, NearestImage, PatchGaussian, PixelGaussian

SPOT_CENTRE = (30, 14)
"""Column and row of the defect that `draw_parts` draws."""
DrawParts = Callable[..., list[np.ndarray]]


def noise(n: int, seed: int, size_px: int = 32, channels: int = 1) -> np.ndarray:
    """Smooth noise, uint8 (n, size_px, size_px, channels)."""
    rng = np.random.default_rng(seed)
    images = [cv2.GaussianBlur(rng.normal(0, 90, (size_px, size_px, channels)), (0, 0), 1.0) for _ in range(n)]
    return np.clip(np.reshape(images, (n, size_px, size_px, channels)) + 128, 0, 255).astype(np.uint8)


def stacked(images: list[np.ndarray]) -> np.ndarray:
    """Images (48, 48) as a baseline's input."""
    return np.stack(images)[..., None]


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_finds_a_spot(name: str, draw_parts: DrawParts) -> None:
    """A baseline would find nothing, and every network look good beside it."""
    fitted = BASELINES[name](stacked(draw_parts(200, seed=1)))
    good, bad = (stacked(draw_parts(40, seed=2 + defect, defect=defect)) for defect in (False, True))
    scores = fitted.raw_scores(np.concatenate([good, bad]))
    assert scores.shape == (80,)
    assert scores.dtype == np.float64
    assert scores.min() >= 0
    assert roc_auc_score([0] * 40 + [1] * 40, scores) > 0.9


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("level", [0, 128, 255])
def test_images_of_one_grey_level_give_finite_scores(name: str, level: int) -> None:
    """A table of the benchmark would have nan in it, or crash on a black border."""
    flat = np.full((5, 32, 32, 1), level, np.uint8)
    with np.errstate(all="raise"):
        alike, fitted = BASELINES[name](flat), BASELINES[name](noise(20, seed=0))
        everything = np.concatenate([flat, 255 - flat, noise(3, seed=1)])
        for scores in (alike.raw_scores(everything), fitted.raw_scores(everything)):
            assert np.isfinite(scores).all()
        assert alike.raw_scores(everything)[-1] >= alike.raw_scores(everything)[0]


@pytest.mark.parametrize("name", BASELINES)
def test_no_images_and_chunks_and_colours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A score would depend on how many images are scored together, or colour images crash."""
    normal, new = noise(30, seed=0, channels=3), noise(7, seed=1, channels=3)
    together = BASELINES[name](normal).raw_scores(new)
    monkeypatch.setattr("ganomaly.evaluation.baselines.IMAGES_AT_ONCE", 4)
    fitted = BASELINES[name](normal)
    np.testing.assert_allclose(fitted.raw_scores(new), together, rtol=1e-4)
    assert fitted.raw_scores(new[:0]).shape == (0,)
    with pytest.raises(ValueError, match="at least 2 normal images, got 1"):
        BASELINES[name](normal[:1])


def test_nearest_image_is_one_minus_the_highest_correlation() -> None:
    """The score would change with brightness, or look at the mean of all images."""
    normal, new = noise(20, seed=0), noise(5, seed=1)
    new[0] = normal[3] // 2 + 30  # the same image, darker and fainter
    expected = [1 - max(np.corrcoef(a.ravel(), b.ravel())[0, 1] for b in normal) for a in new]
    scores = NearestImage.fit(normal).raw_scores(new)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert scores[0] < 0.001


def test_pixel_gaussian_by_hand() -> None:
    """Pixels would not be weighed by how much they vary among normal images."""
    normal, new = noise(20, seed=0), noise(5, seed=1)
    scale = np.sqrt(normal.astype(float).var(0) + 1)
    expected = np.sqrt((((new - normal.astype(float).mean(0)) / scale) ** 2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(PixelGaussian.fit(normal).raw_scores(new), expected, rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_patch_gaussian_is_the_mahalanobis_distance_of_each_patch(channels: int) -> None:
    """Patches would be compared with those of another place, or rows and columns be exchanged."""
    normal, new = noise(40, seed=0, channels=channels), noise(2, seed=1, channels=channels)
    fitted = PatchGaussian.fit(normal)
    distances = fitted._distances(new)
    assert distances.shape == (2, 28 * 28)
    for row, column in [(0, 0), (5, 27), (27, 3)]:
        patches = normal[:, row : row + 5, column : column + 5].reshape(40, -1).astype(float)
        covariance = oas(patches)[0] + np.eye(25 * channels)
        for image, found in zip(new, distances, strict=True):
            patch = image[row : row + 5, column : column + 5].ravel().astype(float)
            expected = mahalanobis(patch, patches.mean(0), np.linalg.inv(covariance)) / np.sqrt(25 * channels)
            assert found[row * 28 + column] == pytest.approx(expected, rel=1e-3)
    worst = np.sort(distances, axis=1)[:, -8:].mean(axis=1)  # 1 % of 784
    np.testing.assert_allclose(fitted.raw_scores(new), worst)


def test_patch_gaussian_sees_what_is_small() -> None:
    """A defect of a few pixels would drown in the mean over the image."""
    normal, new = noise(150, seed=0), noise(40, seed=1)
    new[20:, 10:13, 20:23] = 255 - new[20:, 10:13, 20:23]
    truth = [0] * 20 + [1] * 20
    assert roc_auc_score(truth, PatchGaussian.fit(normal).raw_scores(new)) > 0.9
    assert roc_auc_score(truth, PixelGaussian.fit(normal).raw_scores(new)) < 0.8
