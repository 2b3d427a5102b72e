"""A detector over feature maps as a whole: finds defects, keeps its promise, judges each image alone, travels."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from ganomaly import Detector, DetectorConfig, TrainingDataError
from ganomaly.features.backbone import PACKAGE
from ganomaly.images.recipe_fitting import fit_recipe
from ganomaly.judges import image_vectors
from ganomaly.judges.features import FeatureJudge
from ganomaly.judges.image_vectors import BATCH
from ganomaly.networks.feature_ganomaly import FeatureGANomaly
from ganomaly.scoring import scores
from ganomaly.scoring.calibration import Calibration
from ganomaly.scoring.score import NormalMaps, as_maps
from ganomaly.scoring.scores import FoldScores
from tests.ganomaly.parts_in_colour import CONFIG, HEIGHT, SCRATCH, WIDTH, draw


@pytest.fixture(scope="module")
def trained() -> Detector:
    """A detector of 120 parts, with GANomaly; tests only read it."""
    return Detector.fit(draw(120, seed=1), config=CONFIG, device="cpu")


@pytest.fixture(scope="module")
def of_few() -> Detector:
    """A cross-fitted detector of 24 parts."""
    return Detector.fit(draw(24, seed=1), config=CONFIG, device="cpu")


@pytest.mark.parametrize("which", ["trained", "of_few"])
def test_defects_are_found_where_they_are(which: str, request: pytest.FixtureRequest) -> None:
    """The detector would miss what the eye sees at once, or point beside it."""
    detector: Detector = request.getfixturevalue(which)
    good, bad = draw(40, seed=5), draw(40, seed=6, defect=True)
    judged = detector.score(good + bad)
    assert roc_auc_score([0] * 40 + [1] * 40, [score.raw for score in judged]) > 0.98
    assert sum(score.verdict == "flagged" for score in judged[40:]) > 30
    heat = detector.heat_maps([one.pixels for one in detector.prepare_all(bad)]).mean(0)
    placed = detector.config.recipe.to_image_pixels(heat, bad[0])
    row, column = np.unravel_index(placed.argmax(), placed.shape)
    (left, top), (right, bottom) = SCRATCH
    assert left - 12 <= column <= right + 12
    assert top - 12 <= row <= bottom + 12


def test_a_spot_smaller_than_a_place_is_seen(trained: Detector) -> None:
    """What a person sees at once would drown in edges that move by a pixel."""
    good = draw(40, seed=11)
    spotted = [cv2.circle(image.copy(), (30, 20), 3, (40, 40, 40), -1) for image in good]
    pixels = [one.pixels for one in trained.prepare_all(good + spotted)]
    found = trained.raw_scores_by_method(pixels)
    labels = [0] * 40 + [1] * 40
    assert roc_auc_score(labels, found["drawn"]) > 0.95
    assert roc_auc_score(labels, found["fused"]) > 0.95
    heat = trained.heat_maps(pixels[40:]).mean(0)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert abs(column / heat.shape[1] - 30 / WIDTH) < 0.15
    assert abs(row / heat.shape[0] - 20 / HEIGHT) < 0.2


def test_a_detector_of_few_parts_sees_spots_too(of_few: Detector) -> None:
    """Lines with fewer than 125 parts would miss small defects that larger ones find."""
    good = draw(40, seed=11)
    spotted = [cv2.circle(image.copy(), (30, 20), 3, (40, 40, 40), -1) for image in good]
    found = of_few.raw_scores_by_method([one.pixels for one in of_few.prepare_all(good + spotted)])
    assert roc_auc_score([0] * 40 + [1] * 40, found["drawn"]) > 0.95


def test_a_loaded_detector_that_is_calibrated_again_still_looks_for_drawn_defects(
    trained: Detector, tmp_path: Path
) -> None:
    """The discriminator would be carried along and heard no more."""
    trained.save(tmp_path / "model")
    loaded = Detector.load(tmp_path / "model", device="cpu")
    images = [one.pixels for one in loaded.prepare_all(draw(60, seed=1))]
    loaded.calibrate(images[:40], images[40:])
    assert "drawn" in loaded.raw_scores_by_method(images[:2])


def test_a_judge_that_knows_too_few_other_images_has_no_discriminator() -> None:
    """Images that were learned from would say what new ones reach."""
    detector = Detector(CONFIG.fitted_to(draw(30, seed=1)), device="cpu")
    images = [one.pixels for one in detector.prepare_all(draw(30, seed=1))]
    list(detector.train(images))
    assert isinstance(detector.judge, FeatureJudge)
    assert detector.judge.extractor.discriminators
    detector.judge.fit(images)
    assert not detector.judge.extractor.discriminators
    assert "drawn" not in detector.raw_scores_by_method(images[:2])


def test_ways_of_judging_are_those_that_could_be_fitted(trained: Detector, of_few: Detector) -> None:
    """GANomaly would be left out where it was trained, or asked for where it was not."""
    pixels = [one.pixels for one in trained.prepare_all(draw(3, seed=2))]
    assert set(trained.raw_scores_by_method(pixels)) == {"fused", "residual", "places", "patches", "drawn", "grain"}
    assert set(of_few.raw_scores_by_method(pixels)) == {"fused", "places", "patches", "drawn", "grain"}
    assert trained.calibration is not None
    assert of_few.calibration is not None
    assert trained.calibration.fold_size == 0
    assert of_few.calibration.fold_size > 0
    np.testing.assert_array_equal(trained.raw_scores_by_method(pixels)["fused"], trained.raw_scores(pixels))


@pytest.mark.parametrize("which", ["trained", "of_few"])
def test_an_image_alone_gets_the_score_of_a_batch(which: str, request: pytest.FixtureRequest) -> None:
    """A part's verdict would depend on the parts that happened to be scored beside it."""
    detector: Detector = request.getfixturevalue(which)
    pixels = [one.pixels for one in detector.prepare_all(draw(BATCH + 3, seed=3, defect=True))]
    together = detector.raw_scores(pixels)
    for at in (0, BATCH - 1, BATCH + 2):
        assert detector.raw_scores([pixels[at]])[0] == pytest.approx(together[at], rel=1e-5)
    assert detector.raw_scores([]).shape == (0,)
    flagged = [heat is not None for _, heat in detector.score_and_map(pixels)]
    assert flagged == [score.verdict == "flagged" for score in detector.score_prepared(pixels)]


@pytest.mark.parametrize("which", ["trained", "of_few"])
def test_a_saved_detector_judges_as_before(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A model would change its verdicts by being registered."""
    detector: Detector = request.getfixturevalue(which)
    detector.save(tmp_path / "model")
    loaded = Detector.load(tmp_path / "model", device="cpu")
    images = draw(10, seed=4) + draw(5, seed=4, defect=True)
    assert loaded.score(images) == detector.score(images)
    pixels = [one.pixels for one in detector.prepare_all(images)]
    np.testing.assert_array_equal(loaded.heat_maps(pixels), detector.heat_maps(pixels))
    loaded.save(tmp_path / "again")
    assert Detector.load(tmp_path / "again", device="cpu").score(images) == detector.score(images)
    assert loaded.judge.summary == detector.judge.summary
    assert "Apache-2.0" in str(loaded.judge.summary)


def test_a_model_judges_where_neither_weights_nor_architectures_are_installed(
    trained: Detector, tmp_path: Path
) -> None:
    """A machine that only scores would need what training needs, or a network to fetch it from."""
    trained.save(tmp_path / "model")
    image = draw(1, seed=9, defect=True)[0]
    np.save(tmp_path / "image.npy", image)
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ({PACKAGE!r}, "timm"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
import numpy as np
from ganomaly import Detector
detector = Detector.load({str(tmp_path / "model")!r}, device="cpu")
print(repr(detector.score([np.load({str(tmp_path / "image.npy")!r})])[0].raw))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(trained.score([image])[0].raw, rel=1e-5)


def test_the_same_seed_and_images_give_the_same_detector() -> None:
    """A detector could not be reproduced for an audit."""
    images, new = draw(90, seed=2), draw(5, seed=3)
    first, second = (Detector.fit(images, config=CONFIG, device="cpu") for _ in range(2))
    assert first.score(new) == second.score(new)
    assert isinstance(first.judge, FeatureJudge)
    assert first.judge.network is not None


def test_size_and_aspect_follow_the_images(trained: Detector) -> None:
    """A long part would be squeezed into a square, or a small image blown up."""
    assert trained.config.recipe.input_px == (HEIGHT, WIDTH)
    plain = CONFIG.model_copy(update={"recipe": CONFIG.recipe.model_copy(update={"resolution": None})})
    shapes = [np.zeros((500, 1250, 3), np.uint8), np.zeros((300, 300), np.uint8)]
    found = [fit_recipe(plain.recipe, [image]).input_px for image in shapes]
    assert found == [(256, 608), (288, 288)]
    assert fit_recipe(plain.recipe, []).input_px is None


def test_too_few_parts_are_refused_and_photos_of_a_part_share_its_fold() -> None:
    """A limit would be invented, or a part be judged by statistics that saw another photo of it."""
    with pytest.raises(TrainingDataError, match="too few parts to calibrate"):
        Detector.fit(draw(8, seed=1), config=CONFIG, device="cpu")
    images = draw(24, seed=1)
    parts = [f"p{number // 2}" for number in range(24)]
    detector = Detector.fit(images, parts=parts, config=CONFIG, device="cpu")
    assert detector.calibration is not None
    assert detector.calibration.n_images == 12
    assert "guaranteed is at most" in detector.calibration.promise


def test_cross_fitted_false_rejects_keep_their_bound() -> None:
    """Images that fitted the statistics would set the limit, and every new part be flagged."""
    flagged = []
    for seed in range(4):
        detector = Detector.fit(draw(20, seed=10 + seed), config=CONFIG, device="cpu")
        flagged += [score.verdict == "flagged" for score in detector.score(draw(60, seed=50 + seed))]
    assert detector.calibration is not None
    assert detector.calibration.fold_size == 2
    assert np.mean(flagged) < detector.calibration.guaranteed_rate + 3 * np.sqrt(0.15 * 0.85 / 240)


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(1, 5), st.booleans())
@settings(max_examples=50, deadline=None)
def test_fits_join_to_a_score_that_beats_as_many_calibration_images(seed: int, fits: int, m: int, ties: bool) -> None:
    """The stored score would say another p-value than the comparison fit by fit, or a worse image score lower."""
    rng = np.random.default_rng(seed)
    held_out, new = rng.normal(size=fits * m), rng.normal(size=(fits, 40)) * 1.5
    if ties:
        held_out, new = held_out.round(1), new.round(1)
    fold = rng.permutation(np.arange(fits * m) % fits)
    folds = FoldScores.of(held_out, fold)
    joined = folds.joined(torch.from_numpy(new)).numpy()
    unbeaten = (held_out[:, None] >= new[fold]).sum(0)
    at_or_above = (held_out[:, None] >= joined).sum(0)
    assert (at_or_above >= unbeaten).all()  # more only among calibration images that are tied
    assert ties or (at_or_above == unbeaten).all()
    worse = folds.joined(torch.from_numpy(new + rng.uniform(0, 1, new.shape))).numpy()
    assert (worse >= joined).all()
    nearly = folds.joined(torch.from_numpy(np.where(new <= held_out.max(), new + 1e-9, new))).numpy()
    assert ties or nearly == pytest.approx(joined, abs=1e-5)
    alike = np.repeat(new[:1], fits, axis=0)
    assert folds.joined(torch.from_numpy(alike)).numpy() == pytest.approx(alike[0], abs=1e-12)


def test_few_images_can_beat_nearly_all_others_whatever_the_score() -> None:
    """The guaranteed rate would be a number without a reason: its counting, on relations made to break it."""
    m, folds, a = 3, 7, 2
    fold = np.arange(m * folds) // m
    apart = fold[:, None] != fold
    most, rng = 0, np.random.default_rng(0)
    for strong in range(1, 2 * a + m + 4):
        for _ in range(200):
            first = rng.permutation(len(fold))[:strong] if rng.random() < 0.5 else np.arange(strong)
            beats = rng.random((len(fold), len(fold))) < 0.5
            beats = np.triu(beats, 1) | ~np.triu(beats, 1).T & np.tri(len(fold), k=-1, dtype=bool)
            inside = np.isin(np.arange(len(fold)), first)
            beats[inside[:, None] & ~inside], beats[~inside[:, None] & inside] = True, False
            unbeaten = (~beats & apart).sum(1)
            most = max(most, int((unbeaten <= a).sum()))
    n = len(fold) - m
    calibration = Calibration(np.arange(n, dtype=np.float64), (a + 1) / (n + 1), fold_size=m)
    assert calibration.n_above == a
    assert most <= calibration.guaranteed_rate * len(fold) == pytest.approx(2 * a + m)
    assert most > a + m  # what the lowest of all fits would guarantee


def test_cross_fitted_scores_flag_what_is_promised() -> None:
    """Good parts would be flagged more often, or defects missed for nothing: 600 draws of an unstable score."""
    rng = np.random.default_rng(0)
    n, folds, rate = 20, 10, 0.1
    flagged = 0
    for _ in range(600):
        x = rng.normal(size=n + 1)
        fold = np.arange(n) % folds

        # statistics of few images: distance from the median of the others, over their spread
        def score(value: float, seen: NDArray[np.float64]) -> float:
            return float(abs(value - np.median(seen)) / (np.ptp(seen[:5]) + 0.1))

        held_out = [score(x[i], x[:n][fold != fold[i]]) for i in range(n)]
        new = torch.tensor([[score(x[n], x[:n][fold != k])] for k in range(folds)], dtype=torch.float64)
        calibration = Calibration.fit(held_out, rate, fold_size=n // folds)
        flagged += bool(calibration.flagged(FoldScores.of(np.array(held_out), fold).joined(new).numpy())[0])
    assert calibration.guaranteed_rate == pytest.approx((2 * 1 + 2) / 22)
    assert flagged / 600 == pytest.approx(rate, abs=3 * np.sqrt(0.1 * 0.9 / 600))


@dataclass(frozen=True)
class MeanBrightness:
    """A toy: how far the first number of a place lies from its mean."""

    needs_network: ClassVar[bool] = False
    mean_hw: torch.Tensor

    @classmethod
    def fit(cls, normal: NormalMaps) -> Self:
        """The mean at each place."""
        return cls(torch.cat([as_maps(x_blk, normal.grid)[:, 0] for x_blk in normal.batches()]).mean(0))

    def map(self, x_blk: torch.Tensor, network: FeatureGANomaly | None) -> torch.Tensor:
        """The distance from it."""
        return (as_maps(x_blk, (self.mean_hw.shape[0], self.mean_hw.shape[1]))[:, 0] - self.mean_hw).abs()

    def to(self, device: torch.device) -> Self:
        """On another device."""
        return type(self)(self.mean_hw.to(device))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What is saved."""
        return {"mean": self.mean_hw.numpy()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """What was saved."""
        return cls(torch.from_numpy(arrays["mean"]))


def test_a_new_score_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever adds a way to judge would have to change training, saving, loading and fusion."""
    monkeypatch.setitem(scores.SCORES, "brightness", MeanBrightness)
    detector = Detector.fit(draw(24, seed=1), config=CONFIG, device="cpu")
    detector.save(tmp_path / "model")
    pixels = [one.pixels for one in detector.prepare_all(draw(4, seed=2))]
    found = Detector.load(tmp_path / "model", device="cpu").raw_scores_by_method(pixels)
    assert set(found) == {"fused", "places", "patches", "drawn", "brightness", "grain"}
    np.testing.assert_array_equal(found["brightness"], detector.raw_scores_by_method(pixels)["brightness"])


def test_maps_too_fine_for_the_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolution that was set too high would end with a process killed for memory."""
    monkeypatch.setattr(image_vectors, "MOST_BYTES", 1e6)
    with pytest.raises(TrainingDataError, match=r"a covariance for each of 60 places .* lower recipe.resolution"):
        Detector.fit(draw(24, seed=1), config=CONFIG, device="cpu")


def test_a_recipe_that_is_still_open_says_who_decides_it() -> None:
    """A notebook that trains step by step would end in a bare assertion."""
    detector = Detector(CONFIG, device="cpu")
    with pytest.raises(ValueError, match=r"recipe.input_px is open: let `Detector.fit` decide it"):
        list(detector.train(draw(3, seed=1)))


@pytest.mark.parametrize("n_good", [90, 30])
def test_unlabelled_defects_are_trimmed(n_good: int, tmp_path: Path) -> None:
    """A few defects among the good images would set the limit, and defects like them pass for good."""
    n_bad = n_good // 15
    images = draw(n_good, seed=1) + draw(n_bad, seed=6, defect=True)
    settings = CONFIG.model_dump(exclude_unset=True)
    settings["calibration"] = {"false_reject_rate": 0.1, "trim": 0.12}
    config = DetectorConfig.model_validate(settings)
    detector = Detector(config.fitted_to(images), device="cpu")
    prepared = list(detector.prepare_all(images))
    plan = detector.plan(prepared, [f"p{n}" for n in range(len(images))])
    assert set(range(n_good, len(images))) <= set(plan.suspects)
    assert len(plan.suspects) == round(0.12 * len(images))
    assert (plan.roles[list(plan.suspects)] == "").all()
    assert f"{len(plan.suspects)} left out as suspects" in plan.summary
    for _ in detector.learn(prepared, plan):
        pass
    assert detector.calibration is not None
    assert detector.calibration.trimmed_share == pytest.approx(len(plan.suspects) / len(images))
    detector.save(tmp_path / "model")
    loaded = Detector.load(tmp_path / "model").calibration
    assert loaded is not None
    assert loaded.promise == detector.calibration.promise
    trusting = Detector.fit(images, config=CONFIG, device="cpu")
    bad = draw(30, seed=8, defect=True)
    found, missed = (sum(one.verdict == "flagged" for one in of.score(bad)) for of in (detector, trusting))
    assert found >= 27
    assert missed < found


def test_pixels_are_not_trimmed() -> None:
    """A setting would do nothing."""
    with pytest.raises(ValueError, match=r"has no use for calibration\.trim"):
        DetectorConfig.model_validate({"input": "pixels", "calibration": {"trim": 0.1}})


def test_what_is_ignored_changes_no_score_by_a_bit(trained: Detector) -> None:
    """A hand, a lamp or a counter in the picture would move scores, or a defect beside it be missed."""
    corner = ((0.0, 0.0), (70.0, 0.0), (70.0, 40.0), (0.0, 40.0))
    config = CONFIG.model_copy(update={"recipe": CONFIG.recipe.model_copy(update={"ignore": (corner,)})})
    detector = Detector.fit(draw(120, seed=1), config=config, device="cpu")
    good, bad = draw(20, seed=5), draw(20, seed=6, defect=True)
    disturbed = [image.copy() for image in good + bad]
    for number, image in enumerate(disturbed):
        image[: 41 - number % 3, :71] = 6 * number
    assert detector.score(disturbed) == detector.score(good + bad)
    pixels = [[one.pixels for one in detector.prepare_all(images)] for images in (disturbed, good + bad)]
    np.testing.assert_array_equal(*(detector.heat_maps(found) for found in pixels))
    assert trained.score(disturbed) != trained.score(good + bad)
    flagged = [score.verdict == "flagged" for score in detector.score(good + bad)]
    assert sum(flagged[20:]) > 15
    assert sum(flagged[:20]) < 7


def test_a_sure_flag_is_told(trained: Detector) -> None:
    """The score would not say which flags are sure, or a loaded detector forget."""
    raw_n = trained.raw_scores([one.pixels for one in trained.prepare_all(draw(60, seed=8, defect=True))])
    assert trained.calibration is not None
    assert not any(score.sure for score in trained.score(draw(5, seed=8, defect=True)))
    settings = CONFIG.model_dump()
    settings["calibration"] |= {"sure_rate": 0.05}
    detector = Detector.fit(draw(120, seed=1), config=DetectorConfig.model_validate(settings), device="cpu")
    scores = detector.score(draw(60, seed=8, defect=True))
    assert [score.raw for score in scores] == pytest.approx(raw_n.tolist(), rel=0.05)  # fitted anew
    assert 10 < sum(score.sure for score in scores) <= sum(score.verdict == "flagged" for score in scores)
    assert all(score.p_value <= 0.05 for score in scores if score.sure)
