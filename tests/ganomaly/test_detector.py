"""The detector as a whole: reproducible, independent of the batch, refuses what it cannot learn, finds defects."""

import copy
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from ganomaly import Detector, DetectorConfig, TrainingDataError
from ganomaly.networks.ganomaly import Pass
from ganomaly.networks.training import to_input
from ganomaly.scoring.pixel_scores import paper_score

DrawParts = Callable[..., list[np.ndarray]]


def weights(detector: Detector) -> dict[str, torch.Tensor]:
    """All weights and buffers of the networks."""
    return detector.judge.model.state_dict()


def with_seed(config: DetectorConfig, seed: int) -> DetectorConfig:
    """The configuration with another seed."""
    return config.model_copy(update={"training": config.training.model_copy(update={"seed": seed})})


def test_same_seed_and_images_give_the_same_bits(draw_parts: DrawParts, tiny_config: DetectorConfig) -> None:
    """A detector could not be reproduced for an audit, or a caller's random state would change what it learns."""
    images = draw_parts(70, seed=2)
    first = Detector.fit(images, config=tiny_config, device="cpu")
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the global state is what must not matter
    second = Detector.fit(images, config=tiny_config, device="cpu")
    for name, tensor in weights(first).items():
        assert torch.equal(tensor, weights(second)[name]), name
    assert first.score(images) == second.score(images)
    assert first.calibration is not None
    assert second.calibration is not None
    assert first.calibration.id == second.calibration.id


def test_another_seed_gives_another_detector(draw_parts: DrawParts, tiny_config: DetectorConfig) -> None:
    """The seed would not reach the weights, and "trained with three seeds" would mean three times the same."""
    images = draw_parts(70, seed=2)
    first, second = (Detector.fit(images, config=with_seed(tiny_config, s), device="cpu") for s in (0, 1))
    name = "generator.encoder.to_latent.weight"
    assert not torch.equal(weights(first)[name], weights(second)[name])
    assert first.score(images[:3]) != second.score(images[:3])


def test_fit_leaves_the_global_random_state_alone(draw_parts: DrawParts, tiny_config: DetectorConfig) -> None:
    """Training a detector would change the results of unrelated code in the same process."""
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    Detector.fit(draw_parts(70, seed=2), config=tiny_config, device="cpu")
    assert torch.equal(torch.get_rng_state(), torch_before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


@pytest.mark.parametrize("position", [0, 17, 31, 32, 39])
def test_score_alone_equals_score_in_a_batch(trained: Detector, draw_parts: DrawParts, position: int) -> None:
    """A part's verdict would depend on the parts that happened to be scored beside it."""
    images = draw_parts(39, seed=3)
    wanted = draw_parts(1, seed=4, defect=True)[0]
    images.insert(position, wanted)
    alone, together = trained.score([wanted])[0], trained.score(images)[position]
    assert together.raw == pytest.approx(alone.raw, rel=1e-5)
    assert together.verdict == alone.verdict
    assert not trained.judge.model.training


def test_heat_map_alone_equals_heat_map_in_a_batch(trained: Detector, draw_parts: DrawParts) -> None:
    """The same image would be coloured differently on another night."""
    prepared = list(trained.prepare_all(draw_parts(40, seed=3, defect=True)))
    pixels = trained.stack(prepared, np.ones(40, dtype=bool))
    np.testing.assert_allclose(trained.heat_maps(pixels)[33], trained.heat_maps(pixels[33:34])[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["fused", "global", "paper"])
def test_one_pass_gives_scores_and_the_heat_maps_of_flagged_images(
    trained: Detector, draw_parts: DrawParts, method: str
) -> None:
    """A night's overlay would belong to another image, or differ from what the report draws anew."""
    config = trained.config.model_copy(update={"score": trained.config.score.model_copy(update={"method": method})})
    detector = copy.copy(trained)
    detector.config = config
    images = draw_parts(20, seed=3) + draw_parts(20, seed=4, defect=True)
    pixels = detector.stack(list(detector.prepare_all(images)), np.ones(40, dtype=bool))
    held_out = draw_parts(40, seed=5)
    detector.calibrate(pixels[:20], detector.stack(list(detector.prepare_all(held_out)), np.ones(40, dtype=bool)))
    judged = detector.score_and_map(pixels)
    assert [score for score, _ in judged] == detector.score_prepared(pixels)
    flagged = [score.verdict == "flagged" for score, _ in judged]
    assert any(flagged)
    assert not all(flagged)
    assert [heat is not None for _, heat in judged] == flagged
    for expected, (_, heat) in zip(detector.heat_maps(pixels), judged, strict=True):
        if heat is not None:
            np.testing.assert_allclose(heat, expected, rtol=1e-3, atol=1e-4)
    assert detector.score_and_map(pixels[:0]) == []


def test_defects_score_higher_than_good_parts(trained: Detector, draw_parts: DrawParts) -> None:
    """The detector would detect nothing."""
    good = [score.raw for score in trained.score(draw_parts(60, seed=5))]
    bad = [score.raw for score in trained.score(draw_parts(60, seed=6, defect=True))]
    assert roc_auc_score([0] * 60 + [1] * 60, good + bad) > 0.8


def test_promised_false_rejects_hold_on_unseen_good_parts(trained: Detector, draw_parts: DrawParts) -> None:
    """Calibration would have seen training images and promise less false rejects than there are."""
    flagged = sum(score.verdict == "flagged" for score in trained.score(draw_parts(300, seed=7)))
    assert flagged / 300 < 0.1 + 4 * np.sqrt(0.1 * 0.9 * (1 / 300 + 1 / 60))


def test_heat_is_where_the_defect_is(trained: Detector, draw_parts: DrawParts) -> None:
    """The overlay would point to a wrong place, or rows and columns be exchanged."""
    defects = draw_parts(20, seed=8, defect=True)
    prepared = list(trained.prepare_all(defects))
    heat = trained.heat_maps(trained.stack(prepared, np.ones(20, dtype=bool))).mean(0)
    centre = (round(30 * 32 / 48), round(14 * 32 / 48))
    spot = cv2.circle(np.zeros((32, 32), np.uint8), centre, 5, 1, -1).astype(bool)
    assert heat[spot].mean() > 2 * heat[~spot].mean()
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert np.hypot(column - centre[0], row - centre[1]) < 7


def test_bad_images_are_verdicts_in_their_place(trained: Detector, draw_parts: DrawParts) -> None:
    """One bad file would stop a night's run, or shift all later scores by one image."""
    good = draw_parts(2, seed=9)
    black = np.zeros((48, 48), np.uint8)
    scores = trained.score([good[0], b"no image", black, "/no/such/file.png", good[1], "a\0b.png"])
    assert [score.verdict == "unusable" for score in scores] == [False, True, True, True, False, True]
    assert [score.reason for score in scores] == [None, "unreadable", "underexposed", "unreadable", None, "unreadable"]
    assert all(score.raw is None and score.p_value is None for score in scores if score.verdict == "unusable")
    assert [scores[0], scores[4]] == trained.score(good)


def test_no_images_to_score_is_no_error(trained: Detector) -> None:
    """A day without production would end in a traceback."""
    assert trained.score([]) == []
    assert trained.heat_maps(np.empty((0, 32, 32, 1), np.uint8)).shape == (0, 32, 32)


def test_uncalibrated_detector_refuses_to_judge(tiny_config: DetectorConfig, draw_parts: DrawParts) -> None:
    """Verdicts would be given against no limit at all."""
    with pytest.raises(ValueError, match="not calibrated"):
        Detector(tiny_config, device="cpu").score(draw_parts(1, seed=0))


def test_unknown_device_is_named() -> None:
    """A misspelt device would end in torch's internals, or in the CPU without a word."""
    with pytest.raises(ValueError, match=r"device = 'cdua'.*use auto, cpu or cuda"):
        Detector(device="cdua")


def test_training_refuses_no_images(tiny_config: DetectorConfig) -> None:
    """An empty folder would give a detector, or a division by zero."""
    with pytest.raises(TrainingDataError, match="no images to train on: none were found"):
        Detector.fit([], config=tiny_config, device="cpu")


def test_training_refuses_when_nothing_is_usable(tiny_config: DetectorConfig) -> None:
    """The user would not learn that every image was refused, and why."""
    images = [b"", b"x" * 100, *[np.zeros((48, 48), np.uint8)] * 3]
    with pytest.raises(TrainingDataError, match=r"none of 5 can be judged \(3 underexposed, 1 empty, 1 unreadable\)"):
        Detector.fit(images, config=tiny_config, device="cpu")


def test_training_refuses_mixed_sizes_when_not_resizing(tiny_config: DetectorConfig, draw_parts: DrawParts) -> None:
    """Images of another camera would silently drop out of the training, or crash it."""
    config = tiny_config.model_copy(update={"recipe": tiny_config.recipe.model_copy(update={"resize": False})})
    images = [image[:32, :32] for image in draw_parts(60, seed=1)] + draw_parts(3, seed=2)
    with pytest.raises(TrainingDataError, match=r"3 of 63 images.*32 x 32 \(60 images\), 48 x 48 \(3 images\)"):
        Detector.fit(images, config=config, device="cpu")


def test_training_refuses_too_few_calibration_images(tiny_config: DetectorConfig, draw_parts: DrawParts) -> None:
    """A false-reject rate would be promised that so few images cannot support."""
    with pytest.raises(TrainingDataError, match=r"8 of 40 parts.*rate of 0.1 takes at least 9 \(n >= 1/rate - 1\)"):
        Detector.fit(draw_parts(40, seed=1), config=tiny_config, device="cpu")


def test_parts_must_match_images(tiny_config: DetectorConfig, draw_parts: DrawParts) -> None:
    """Views would be assigned to wrong parts."""
    with pytest.raises(ValueError, match="2 part ids for 3 images"):
        Detector.fit(draw_parts(3, seed=1), parts=["a", "b"], config=tiny_config, device="cpu")


def test_paper_score_trains_scores_and_flags(tiny_config: DetectorConfig, draw_parts: DrawParts) -> None:
    """The paper's own score could be configured but not used."""
    score = tiny_config.score.model_copy(update={"method": "paper"})
    detector = Detector.fit(
        draw_parts(70, seed=2), config=tiny_config.model_copy(update={"score": score}), device="cpu"
    )
    images = detector.stack(list(detector.prepare_all(draw_parts(5, seed=3))), np.ones(5, dtype=bool))
    seen = Pass(detector.judge.model, to_input(images, detector.device), detector.judge.precision)
    expected = paper_score(seen.z_bd, seen.z_hat_bd).numpy()
    np.testing.assert_allclose(detector.raw_scores(images), expected, rtol=1e-2)


def test_colour_detector_takes_grey_and_colour(tiny_config: DetectorConfig, draw_parts: DrawParts) -> None:
    """A line with one grey camera among colour ones would crash."""
    config = tiny_config.model_copy(update={"recipe": tiny_config.recipe.model_copy(update={"channels": 3})})
    grey = draw_parts(70, seed=2)
    colour = [cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) for image in grey]
    detector = Detector.fit(colour, config=config, device="cpu")
    assert detector.score(grey[:2]) == detector.score(colour[:2])
