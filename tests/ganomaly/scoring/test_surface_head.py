"""Surfaces: told from lines whose parts are aligned, judged by patches from anywhere, saved and scored like others."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from ganomaly import Detector, DetectorConfig
from ganomaly.evaluation.drawn_defects import KINDS, Contrast, draw_defect
from ganomaly.evaluation.metrics import image_auroc
from ganomaly.evaluation.textures import texture
from ganomaly.judges.pixels import ALL_METHODS
from ganomaly.scoring.heads import LEAST_GAIN
from ganomaly.scoring.local_gaussian import LocationMoments
from ganomaly.scoring.surface_patches import (
    KEPT,
    LEAST_USUAL,
    MAX_CANDIDATES,
    SurfacePatches,
    some_patches,
    surface_map,
)

CONFIG = DetectorConfig.model_validate(
    {
        "quality": {"min_sharpness": 0.0},
        "network": {"features": 4, "latent_size": 16},
        "training": {"epochs": 1},
    }
)


def fit(images_nhwc: np.ndarray, held_out_nhwc: np.ndarray) -> Detector:
    """A detector whose networks are hardly trained: no local head needs more to know places from each other."""
    detector = Detector(CONFIG, device="cpu")
    for _ in detector.train(images_nhwc[:64]):
        pass
    detector.calibrate(images_nhwc, held_out_nhwc)
    return detector


def prepared(images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Images as the detector's recipe makes them, uint8 (N, 64, 64, 1)."""
    return np.array([CONFIG.recipe.apply(image) for image in images])


def objects(n: int, seed: int) -> np.ndarray:
    """Discs that lie within a few pixels of the middle, on grainy ground: uint8 (N, 64, 64)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :64]
    middles = rng.normal(32, 2, (n, 2, 1, 1))
    inside = np.hypot(rows - middles[:, 0], columns - middles[:, 1]) < 20
    grain = rng.normal(0, 12, (n, 64, 64))
    return np.clip(np.where(inside, 170, 90) + grain, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def weave() -> tuple[np.ndarray, np.ndarray]:
    """Crops of the left half of a weave to fit on, uint8 (160, 64, 64), and of the right half, (60, 64, 64)."""
    images = texture("weave", side_px=64, train_images=160, test_normal=60, test_abnormal=0).data.images
    return images[:160], images[160:]


@pytest.fixture(scope="module")
def surface(weave: tuple[np.ndarray, np.ndarray]) -> Detector:
    """A detector of a weave; tests only read it."""
    return fit(prepared(weave[0][:120]), prepared(weave[0][120:]))


@pytest.mark.parametrize("n", [16, 120])
def test_surfaces_are_told_from_parts(weave: tuple[np.ndarray, np.ndarray], n: int) -> None:
    """A cell's missing finger would pass because fingers lie elsewhere, or fabric be judged place by place."""
    of_weave = fit(prepared(weave[0][:n]), prepared(weave[0][120:])).judge.heads
    of_objects = fit(prepared(objects(n, seed=0)), prepared(objects(40, seed=1))).judge.heads
    assert of_weave is not None
    assert of_objects is not None
    assert of_weave.is_surface
    assert not of_objects.is_surface
    assert of_weave.gain_by_location is not None
    assert of_objects.gain_by_location is not None
    assert of_weave.gain_by_location < LEAST_GAIN / 2 < 2 * LEAST_GAIN < of_objects.gain_by_location


def test_gain_by_location_is_that_of_known_gaussians() -> None:
    """The limit that decides would be one of some other figure than what it is called."""
    rng = np.random.default_rng(0)
    deviation_l = np.array([0.5, 2.0])

    def moments(n: int) -> LocationMoments:
        found = LocationMoments()
        found.add(torch.from_numpy(rng.normal(size=(n, 3, 1, 2)) * deviation_l))
        return found

    # at the first location, where it is greatest
    shared = (deviation_l**2).mean()
    expected = 0.5 * np.log(shared / deviation_l[0] ** 2) + 0.5 * deviation_l[0] ** 2 / shared - 0.5
    assert moments(20_000).gain_by_location(moments(20_000), 3) == pytest.approx(expected, abs=0.03)  # noise is added
    deviation_l = np.array([1.0, 1.0])
    assert moments(20_000).gain_by_location(moments(20_000), 3) == pytest.approx(0, abs=0.01)
    assert moments(12).gain_by_location(moments(4), 3) > -0.2  # of few images the own covariance would be far worse


def test_defects_on_a_surface_are_found(surface: Detector, weave: tuple[np.ndarray, np.ndarray]) -> None:
    """Fabric, brick and cast metal would be judged no better than by chance."""
    rng = np.random.default_rng(0)
    contrasts: tuple[Contrast, ...] = ("medium", "strong")
    drawn = [
        draw_defect(weave[1][i % 60], kind, rng, size="medium", contrast=contrast)
        for i, (kind, contrast) in enumerate(product(KINDS * 10, contrasts))
    ]
    good, bad = prepared(weave[1]), prepared([defect.image for defect in drawn])
    abnormal = np.repeat([False, True], [len(good), len(bad)])
    scores = np.concatenate([surface.raw_scores(good), surface.raw_scores(bad)])
    assert image_auroc(abnormal, scores) > 0.8
    heat = surface.heat_maps(bad)
    masks = np.array([defect.mask for defect in drawn])
    assert np.mean(heat[masks]) > 2 * np.mean(heat[~masks])


def test_where_a_patch_lies_does_not_matter() -> None:
    """Normal texture would be flagged because it was never seen at this place."""
    x = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    candidates = x.unfold(2, 6, 2).unfold(3, 6, 2).reshape(-1, 36)
    head = SurfacePatches.fit(candidates)
    assert len(head.kept_nk) == len(candidates) == 3 * 14**2
    assert (head.usual_n == LEAST_USUAL).all()  # no other patch says what is usual
    assert head.distance(x).shape == (3, 14, 14)
    assert head.distance(x).max() < 0.2
    assert head.distance(x.roll((8, 4), (2, 3)))[:, 5:, 3:].max() < 0.2
    odd = x.clone()
    odd[1, 0, 10:12, 20:22] = 3
    distance = head.distance(odd)
    heat = surface_map(distance, 32)
    assert heat.shape == (3, 32, 32)
    assert heat[1].argmax() // 32 in range(8, 14)
    assert heat[1].argmax() % 32 in range(18, 24)
    assert distance[1].max() > 100 * distance[0].max()
    patch = odd[1, 0, 10:16, 20:26].reshape(1, 36)
    nearest = torch.cdist(patch, candidates).min() / 6
    assert head._to_nearest(patch) == pytest.approx(float(nearest) / LEAST_USUAL, rel=1e-3)


def test_what_is_usual_differs_from_patch_to_patch() -> None:
    """Rough places would hide what a flat place shows."""
    rng = torch.Generator().manual_seed(0)
    flat = torch.randn(4000, 4, generator=rng) * 0.05
    rough = torch.randn(4000, 4, generator=rng) * 0.5 + 5
    head = SurfacePatches.fit(torch.cat([flat, rough]))
    assert head._to_nearest(flat + 0.2).median() > 1.5 * head._to_nearest(rough + 0.2).median()


def test_what_is_kept_is_bounded_and_spread() -> None:
    """A model would grow with its images, or a seam that one patch in a thousand shows be forgotten."""
    rng = torch.Generator().manual_seed(0)
    patches = torch.rand(3 * MAX_CANDIDATES, 4, generator=rng)
    patches[30_000] = 9.0  # an index that every third one hits
    head = SurfacePatches.fit(patches)
    assert head.kept_nk.shape == (KEPT, 4)
    assert head.usual_n.shape == (KEPT,)
    assert (head.kept_nk == 9).all(1).any()
    found = SurfacePatches.fit(patches[:5000])._to_nearest(patches[5000:6000])
    assert found.mean() == pytest.approx(1, abs=0.2)
    x = torch.rand(5, 3, 32, 32)
    assert some_patches(x, rng).shape[1] == 3 * 36


def test_a_surface_is_saved_and_loaded(surface: Detector, weave: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """A surface would be judged otherwise after a restart, or no longer be taken for one."""
    surface.save(tmp_path / "model")
    loaded = Detector.load(tmp_path / "model", device="cpu")
    assert surface.judge.heads is not None
    assert loaded.judge.heads is not None
    assert loaded.judge.heads.is_surface
    assert loaded.judge.heads.summary == surface.judge.heads.summary
    pixels = prepared(weave[1][:9])
    for name, scores in surface.raw_scores_by_method(pixels).items():
        np.testing.assert_array_equal(loaded.raw_scores_by_method(pixels)[name], scores)
    np.testing.assert_array_equal(loaded.heat_maps(pixels), surface.heat_maps(pixels))


def test_a_surface_is_judged_image_by_image(surface: Detector, weave: tuple[np.ndarray, np.ndarray]) -> None:
    """A part's verdict would depend on the others of the night."""
    pixels = prepared(weave[1][:40])
    together = surface.raw_scores(pixels)
    alone = np.concatenate([surface.raw_scores(pixels[i : i + 1]) for i in range(40)])
    np.testing.assert_allclose(alone, together, rtol=1e-5)
    np.testing.assert_allclose(surface.raw_scores(pixels[::-1])[::-1], together, rtol=1e-5)


@pytest.mark.parametrize("method", ALL_METHODS)
def test_of_a_surface_only_what_is_asked_for_is_computed(
    surface: Detector, weave: tuple[np.ndarray, np.ndarray], method: str
) -> None:
    """A score would change with what else is asked for, or networks run that nobody needs."""
    pixels = prepared(weave[1][:5])
    everything = surface.raw_scores_by_method(pixels)
    assert set(everything) == set(ALL_METHODS)
    np.testing.assert_array_equal(everything["fused"], everything["local"])
    evidence, nothing = surface.judge.examine(pixels, (method,)), surface.judge.examine(pixels[:0], (method,))
    np.testing.assert_array_equal(surface.judge._scores_by_method(evidence)[method], everything[method])
    assert surface.judge._scores_by_method(nothing)[method].shape == (0,)
    assert evidence.local_nv.shape[1] == nothing.local_nv.shape[1] == (method in ("fused", "local", "global"))
    n_groups = len(surface.judge.heads.neighbours.groups) if method == "global" else 0
    assert evidence.global_ng.shape[1] == nothing.global_ng.shape[1] == n_groups
