"""The two scores against hand computations and the textbook formula."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from ganomaly.scoring.pixel_scores import GaussianScore, describe, paper_score, residual_map


def test_paper_score_by_hand() -> None:
    """Scores would not be those of equation 6: a sum, or a squared distance."""
    z, z_hat = torch.tensor([[0.0, 1, 2, -4], [1, 1, 1, 1]]), torch.tensor([[1.0, 1, 0, 4], [1, 1, 1, 1]])
    assert paper_score(z, z_hat).tolist() == [11 / 4, 0]


def test_description_by_hand() -> None:
    """The Gaussian would look at other figures than the documentation says."""
    x, x_hat = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)
    x_hat[0, 1, 4:8, 8:12] = 0.75  # one field of 4 x 4 px in the second row and third column, in one channel of three
    z, z_hat = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 4.0]])
    described = describe(x, x_hat, z, z_hat)[0]
    assert described[:4].tolist() == [1.0, 2.0, 0.5, -2.0]
    fields = described[4:].reshape(8, 8)
    assert fields[1, 2] == pytest.approx(0.25)
    assert fields.sum() == pytest.approx(0.25)
    assert residual_map(x, x_hat).shape == (1, 32, 32)


def test_gaussian_score_is_the_mahalanobis_distance() -> None:
    """Directions in which normal images vary little would weigh too little, or scales be mixed up."""
    rng = np.random.default_rng(0)
    mixing = np.array([[3.0, 0, 0], [2, 0.1, 0], [0, 0, 1e-3]])
    features = rng.normal(size=(200_000, 3)) @ mixing.T + [5, -5, 0]
    new = features[:5] + np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1e-3], [1, 1, 1]])
    fitted = GaussianScore.fit(features)
    inverse = np.linalg.inv(mixing @ mixing.T)
    expected = [mahalanobis(row, [5, -5, 0], inverse) / np.sqrt(3) for row in new]
    np.testing.assert_allclose(fitted.score(new), expected, rtol=0.05)


def test_precision_root_is_the_root_of_the_shrunk_precision() -> None:
    """The score would not be the distance that its docstring promises, for the small samples that lines have."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 6))
    fitted = GaussianScore.fit(features)
    standardised = (features - features.mean(0)) / features.std(0)
    empirical = standardised.T @ standardised / 40
    shrunk = (1 - fitted.shrinkage) * empirical + fitted.shrinkage * np.trace(empirical) / 6 * np.eye(6)
    root = fitted.precision_root_ff
    np.testing.assert_allclose(root.T @ root, np.linalg.inv(shrunk), rtol=1e-9, atol=1e-12)
    assert 0 < fitted.shrinkage < 1
    np.testing.assert_allclose(fitted.score(features).mean(), 1, atol=0.2)


def test_more_features_than_images_and_constant_features_are_fine() -> None:
    """A small line, or a dead unit of the network, would crash the calibration."""
    features = np.random.default_rng(2).normal(size=(20, 50))
    features[:, 7] = 3.0
    scores = GaussianScore.fit(features).score(np.vstack([features, features[:1] + 10]))
    assert np.isfinite(scores).all()
    assert scores[-1] > scores[:-1].max()


@pytest.mark.parametrize("n", [2, 20])
def test_images_all_alike_give_finite_scores(n: int) -> None:
    """A camera that sends one picture again and again would end the training in a message about matrices."""
    alike = np.full((n, 6), 0.3)
    for features in (alike, alike + np.arange(n)[:, None] % 2):
        scores = GaussianScore.fit(features).score(np.vstack([features, features[:1] + 10]))
        assert np.isfinite(scores).all()
        assert scores[-1] > scores[:-1].max()


def test_rows_are_scored_alike_alone_and_together() -> None:
    """A score would change in its last digits with the number of images beside it."""
    features = np.random.default_rng(3).normal(size=(100, 30))
    fitted = GaussianScore.fit(features)
    assert fitted.score(features)[57] == fitted.score(features[57:58])[0]


def test_one_image_is_no_distribution() -> None:
    """Every image would lie at a distance of nan."""
    with pytest.raises(ValueError, match="at least 2 normal images, got 1"):
        GaussianScore.fit(np.zeros((1, 3)))
