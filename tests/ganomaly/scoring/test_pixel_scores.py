"""Local, global and fused score of pixels: known answers, and that what fits them may come in batches."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ganomaly import Detector, DetectorConfig
from ganomaly.networks.ganomaly import GANomaly, Pass
from ganomaly.networks.layers import NetworkConfig, build
from ganomaly.scoring.fusion import Units
from ganomaly.scoring.global_neighbours import GROUPS, MAX_KEPT, NearestNeighbours, appearance
from ganomaly.scoring.local_gaussian import VIEWS, LocationMoments, image_scores, local_views, location_map
from ganomaly.scoring.pixel_scores import METHODS, PixelScores, paper_score


def views_of(n: int, seed: int) -> torch.Tensor:
    """Vectors of 3 numbers at 2 x 2 locations: a sum and what it is of at the first, zeros at the last."""
    view_bkhw = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, 3, 2, 2))).float()
    view_bkhw[:, 2, 0, 0] = view_bkhw[:, 0, 0, 0] + view_bkhw[:, 1, 0, 0]
    view_bkhw[:, :, 1, 1] = 0
    return view_bkhw


def moments_of(*views: torch.Tensor) -> LocationMoments:
    """The sums over several batches."""
    moments = LocationMoments()
    for view_bkhw in views:
        moments.add(view_bkhw)
    return moments


def test_a_location_is_measured_by_its_own_covariance() -> None:
    """A crack along which the usual bond of neighbouring pixels breaks would drown in what varies anyway."""
    gaussian = moments_of(views_of(400, seed=0)).gaussian()
    normal = gaussian.distance(views_of(400, seed=1))
    assert normal.shape == (400, 2, 2)
    assert normal[:, 0, 1].mean() == pytest.approx(1, abs=0.1)
    odd = views_of(1, seed=2)
    odd[0, 2, 0, 0] += 1.5  # a usual value, but not for these neighbours
    odd[0, :, 1, 1] = 0.5
    assert gaussian.distance(odd)[0, 0, 0] > 1.5 * normal[:, 0, 0].max()
    assert gaussian.distance(odd)[0, 1, 1] > 1.5 * normal[:, 1, 1].max()
    assert torch.isfinite(gaussian.distance(odd)).all()


def test_moments_may_come_in_batches_and_be_taken_away() -> None:
    """Statistics of a large line would need all images in memory, or a fold be measured by itself."""
    first, second = views_of(60, seed=0), views_of(40, seed=1)
    whole = moments_of(torch.cat([first, second]))
    for found in (
        moments_of(first, second),
        moments_of(first, second, views_of(30, 2)).without(moments_of(views_of(30, 2))),
    ):
        assert found.n_images == 100
        torch.testing.assert_close(found.gaussian().root_lkk, whole.gaussian().root_lkk, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.gaussian().mean_l1k, whole.gaussian().mean_l1k)
    assert whole.without(moments_of(first[:0])).n_images == 100


def test_few_images_give_finite_statistics() -> None:
    """A line with fewer images than a patch has pixels could not be fitted."""
    gaussian = moments_of(views_of(2, seed=0)).gaussian()
    assert torch.isfinite(gaussian.distance(views_of(5, seed=1))).all()


@pytest.mark.parametrize(("size_px", "channels"), [(32, 1), (64, 3), (80, 1), (128, 1)])
def test_views_and_map_fit_every_size(size_px: int, channels: int) -> None:
    """A size that the networks allow would fail in the head, or the map lie beside the image."""
    x = torch.rand(2, channels, size_px, size_px) * 2 - 1
    views = local_views(x, x / 2, torch.rand(2, 8, size_px // 4, size_px // 4))
    assert len(views) == len(VIEWS)
    distances = [torch.ones(2, *view.shape[2:]) for view in views]
    distances[0][1, 3, 5] = 101  # the patch of rows 6 to 9 and columns 10 to 13
    heat = location_map(distances, size_px)
    assert heat.shape == (2, size_px, size_px)
    assert heat[0].min() == pytest.approx(1)
    assert heat[0].max() == pytest.approx(1)
    hot = heat[1] > 1.001
    assert hot.nonzero().min(0).values.tolist() == [6, 10]
    assert hot.nonzero().max(0).values.tolist() == [9, 13]
    scores = image_scores(distances)
    assert scores.shape == (2, len(VIEWS))
    assert scores[1, 0] > scores[0, 0] == 1


def test_neighbours_are_near_in_any_cluster() -> None:
    """With two kinds of good part, what lies between them would pass for normal."""
    rng = np.random.default_rng(0)
    kinds = np.concatenate([rng.normal(-5, 0.1, (50, 2)), rng.normal(5, 0.1, (50, 2))]).astype(np.float32)
    neighbours = NearestNeighbours.fit(
        {"place": torch.from_numpy(kinds), "still": torch.zeros(100, 1)}, {"place": 5, "still": 1}
    )
    found = neighbours.distances(
        {
            "place": torch.tensor([[-5.0, -5.0], [0.0, 0.0], [5.0, 5.0]]),
            "still": torch.tensor([[0.0], [1.0], [0.0]]),
            "not compared": torch.zeros(3, 1),
        }
    )
    assert found.shape == (3, 2)
    assert found[1, 0] > 20 * max(found[0, 0], found[2, 0])
    assert found[:, 1].tolist() == [0, 1, 0]
    by_hand = np.sort(np.linalg.norm(kinds - np.float32([5, 5]), axis=1))
    assert found[2, 0] == pytest.approx(by_hand[:5].mean(), rel=1e-2)


def test_what_is_kept_is_bounded() -> None:
    """The model of a line with a million images would be as large as its images."""
    images = {"image": torch.zeros(3 * MAX_KEPT + 1, 2)}
    assert len(NearestNeighbours.fit(images, {"image": 1}).kept[0]) <= MAX_KEPT


def test_appearance_of_an_image_of_one_grey_level_is_finite() -> None:
    """A blank image would score not a number."""
    networks = build(lambda: GANomaly(32, 1, NetworkConfig(features=8)), torch.Generator().manual_seed(0)).eval()
    features = appearance(Pass(networks, torch.full((2, 1, 32, 32), 0.3)))
    assert all(torch.isfinite(group).all() for group in features.values())
    assert set(features) == set(GROUPS)
    assert features["residual"].shape == (2, 64)


def test_a_restless_score_must_shout() -> None:
    """A line would have to know which kind of defect it will meet."""
    rng = np.random.default_rng(0)
    calm = Units.fit(np.exp(rng.normal(0, 0.1, (500, 2))))
    restless = Units.fit(np.exp(rng.normal(0, 1.0, (500, 1))))
    usual, odd = calm.raw_scores(np.array([[1.0, 1.0], [2.0, 1.0]]))
    assert odd > restless.raw_scores(np.array([[2.0]]))[0] > usual >= 0
    assert np.isfinite(calm.raw_scores(np.array([[1e30, 1e30], [0.0, 0.0]]))).all()


def test_identical_normal_images_give_a_finite_scale() -> None:
    """A bench that photographs one part again and again would divide by zero."""
    assert np.isfinite(Units.fit(np.zeros((20, 4))).raw_scores(np.ones((1, 4)))).all()


def test_paper_score_by_hand() -> None:
    """Scores would not be those of equation 6: a sum, or a squared distance."""
    z, z_hat = torch.tensor([[0.0, 1, 2, -4], [1, 1, 1, 1]]), torch.tensor([[1.0, 1, 0, 4], [1, 1, 1, 1]])
    assert paper_score(z, z_hat).tolist() == [11 / 4, 0]


def test_the_more_alarmed_score_decides(trained: Detector) -> None:
    """A defect that one of them sees would pass."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 1), dtype=np.uint8)
    found = trained.raw_scores_by_method(pixels)
    assert set(found) == set(METHODS)
    np.testing.assert_array_equal(found["fused"], np.maximum(found["local"], found["global"]))


@pytest.mark.parametrize(
    ("method", "runs"), [("paper", {"z_hat_bd"}), ("local", set()), ("global", {"discriminated_bchw"})]
)
def test_networks_that_a_score_does_not_need_do_not_run(trained: Detector, method: str, runs: set[str]) -> None:
    """A night would compute what nobody asked for."""
    x = torch.rand(2, 1, 32, 32) * 2 - 1
    seen = Pass(trained.judge.model, x)
    trained.judge.statistics.measure(seen).raw_scores(method)
    assert {"z_hat_bd", "discriminated_bchw"} & set(vars(seen)) == runs


def test_statistics_are_saved_and_loaded(trained: Detector, tmp_path: Path) -> None:
    """A detector would score otherwise after a restart."""
    arrays = trained.judge.statistics.to_arrays()
    assert PixelScores.from_arrays(arrays).to_arrays().keys() == arrays.keys()
    trained.save(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 1), dtype=np.uint8)
    loaded = Detector.load(tmp_path / "model", device="cpu").raw_scores_by_method(pixels)
    for name, scores in trained.raw_scores_by_method(pixels).items():
        np.testing.assert_array_equal(loaded[name], scores)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_flags_with_its_own_scores(trained: Detector, method: str) -> None:
    """A setting of a line file would do nothing."""
    config = trained.config.model_copy(update={"score": trained.config.score.model_copy(update={"method": method})})
    detector = Detector(DetectorConfig.model_validate(config.model_dump()), device="cpu")
    detector.judge.model.load_state_dict(trained.judge.model.state_dict())
    rng = np.random.default_rng(1)
    images = rng.integers(100, 156, (60, 32, 32, 1), dtype=np.uint8)
    detector.calibrate(images[:40], images[40:])
    expected = detector.raw_scores_by_method(images[40:])[method]
    np.testing.assert_array_equal(detector.raw_scores(images[40:]), expected)
    assert detector.calibration is not None
    np.testing.assert_allclose(np.sort(expected), detector.calibration.scores_n)
