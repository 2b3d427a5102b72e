"""Arithmetic of the networks: float32 or bfloat16, the same in calibration and scoring."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ganomaly import Detector, DetectorConfig
from ganomaly.acceleration.precision import Precision, arithmetic, choose_precision
from ganomaly.acceleration.scoring_networks import (
    ImageConvolution,
    PackedConvolution,
    SpanningConvolution,
    folded,
    for_scoring,
)
from ganomaly.networks.build import ModelConfig, build_model
from ganomaly.networks.layers import Decoder, FeaturePyramid, NetworkConfig
from ganomaly.networks.training import Trainer, TrainingConfig, to_input

CPU = torch.device("cpu")


def draw_images(n: int, seed: int) -> np.ndarray:
    """Blobs that vary in place and width, uint8 (n, 32, 32, 1)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:32, :32]
    y, x, width = rng.uniform(13, 18, (n, 1, 1)), rng.uniform(13, 18, (n, 1, 1)), rng.uniform(30, 50, (n, 1, 1))
    blobs = 200 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / width) + rng.normal(20, 4, (n, 32, 32))
    return blobs.clip(0, 255).astype(np.uint8)[..., None]


def fit(precision: Precision) -> Detector:
    """A detector of small networks, shortly trained."""
    config = DetectorConfig.model_validate(
        {
            "recipe": {"size_px": 32, "illumination": "none"},
            "network": {"features": 8, "latent_size": 16, "precision": precision},
            "training": {"epochs": 3},
            "calibration": {"false_reject_rate": 0.1},
        }
    )
    detector = Detector(config, device="cpu")
    for _ in detector.train(draw_images(192, seed=1)):
        pass
    detector.calibrate(draw_images(192, seed=1), draw_images(40, seed=2))
    return detector


@pytest.fixture(scope="module")
def bf16_detector() -> Detector:
    """A detector that computes in bfloat16 whatever the processor has."""
    return fit("bf16")


def test_a_setting_is_what_it_says_and_auto_is_one_of_them() -> None:
    """A line that asks for float32 would be computed in bfloat16, or the other way round."""
    assert choose_precision("fp32", CPU) == "fp32"
    assert choose_precision("bf16", CPU) == "bf16"
    assert choose_precision("auto", torch.device("mps")) == "fp32"


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_f": True, "avx512_bf16": True}, "bf16"),
        ({"avx512_f": True, "avx512_bf16": False}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_auto_takes_what_the_processor_computes_in(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: str
) -> None:
    """A processor without bfloat16 would emulate it, many times slower; one with it would be half used."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_precision("auto", CPU) == expected


@pytest.mark.parametrize("kind", ["ganomaly", "egbad", "aae"])
def test_folding_batch_norm_changes_nothing(kind: str) -> None:
    """The networks that score would be others than those that were trained."""
    config = ModelConfig.model_validate({"kind": kind})
    model = build_model(48, 1, NetworkConfig(features=8), config, torch.Generator().manual_seed(3))
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    model.eval()
    copy = folded(model)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in copy.modules())
    x_bchw = torch.rand(4, 1, 48, 48) * 2 - 1
    with torch.no_grad():
        expected, found = model.judge(x_bchw), copy.judge(x_bchw)
    torch.testing.assert_close(found.score_b, expected.score_b, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.x_hat_bchw, expected.x_hat_bchw, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.local_views, expected.local_views, rtol=1e-3, atol=1e-4)
    assert found.appearance.keys() == expected.appearance.keys()
    for name, group in found.appearance.items():
        torch.testing.assert_close(group, expected.appearance[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["ganomaly", "egbad", "aae"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 1e-2)])
@pytest.mark.parametrize("decoder_activation", ["relu", "leaky_relu"])
def test_packed_weights_change_nothing(
    kind: str, precision: Precision, tolerance: float, decoder_activation: str
) -> None:
    """What is faster would judge differently, or nothing be packed and nothing be faster."""
    config = ModelConfig.model_validate({"kind": kind})
    network = NetworkConfig.model_validate({"features": 8, "decoder_activation": decoder_activation})
    model = build_model(48, 1, network, config, torch.Generator().manual_seed(3)).eval()
    plain, packed = folded(model), for_scoring(model, precision, CPU)
    for fast in (PackedConvolution, SpanningConvolution):
        assert any(type(layer) is fast for layer in packed.modules()) is torch.backends.mkldnn.is_available()
    sequences = [layers for layers in packed.modules() if isinstance(layers, FeaturePyramid | Decoder)]
    assert not any(isinstance(layer, torch.nn.LeakyReLU) for layers in sequences for layer in layers.children())
    x_bchw = torch.rand(4, 1, 48, 48) * 2 - 1
    for some_bchw in (x_bchw, x_bchw[:1]):  # another shape may want other weights
        with torch.no_grad(), arithmetic(precision, CPU):
            expected, found = plain.judge(some_bchw), packed.judge(some_bchw)
        torch.testing.assert_close(found.score_b, expected.score_b, rtol=tolerance, atol=1e-7)
        torch.testing.assert_close(found.x_hat_bchw, expected.x_hat_bchw, rtol=tolerance, atol=1e-7)


def test_packed_weights_know_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """AnoGAN's search would stand still; a PyTorch without the operators could not score."""
    plain = torch.nn.Conv2d(1, 3, 4, 2, 1)
    x_bchw = torch.rand(2, 1, 8, 8, requires_grad=True)
    packed = PackedConvolution(plain, torch.float32)
    packed.activation = torch.nn.LeakyReLU(0.2)
    packed(x_bchw).sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(packed(x_bchw), torch.nn.functional.leaky_relu(plain(x_bchw), 0.2))
    expected = torch.autograd.grad(torch.nn.functional.leaky_relu(plain(x_bchw), 0.2).sum(), x_bchw)
    torch.testing.assert_close((x_bchw.grad,), expected)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = for_scoring(torch.nn.Sequential(plain), "fp32", CPU)
    with torch.no_grad():
        torch.testing.assert_close(model(x_bchw), plain(x_bchw))


@pytest.mark.parametrize("channels", [1, 3])
def test_image_convolution_is_the_decoders_last(channels: int) -> None:
    """Reconstructions would be shifted by a pixel, mix their channels, or stop AnoGAN's search."""
    plain = torch.nn.ConvTranspose2d(8, channels, 4, 2, 1)
    fast = for_scoring(torch.nn.Sequential(plain), "fp32", CPU)
    assert isinstance(fast[0], ImageConvolution)
    x_bchw = torch.randn(3, 8, 5, 7)
    with torch.no_grad():
        torch.testing.assert_close(fast(x_bchw), plain(x_bchw), rtol=1e-4, atol=1e-6)
    x_bchw.requires_grad_()
    fast(x_bchw).sum().backward()
    assert x_bchw.grad is not None


def test_training_in_bf16_follows_fp32_and_keeps_float32_weights() -> None:
    """Bfloat16 would train something else, or its rounding would creep into weights and optimiser."""
    x_bchw = to_input(draw_images(32, seed=5), CPU)
    losses = {}
    for precision in ("fp32", "bf16"):
        model = build_model(32, 1, NetworkConfig(features=8), ModelConfig(), torch.Generator().manual_seed(0)).train()
        trainer = Trainer(model, TrainingConfig(), torch.Generator().manual_seed(0), precision)
        losses[precision] = torch.stack([trainer.step(x_bchw) for _ in range(5)])
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not torch.equal(losses["bf16"], losses["fp32"])
    torch.testing.assert_close(losses["bf16"], losses["fp32"], rtol=0.05, atol=0.01)


def test_an_image_scores_the_same_in_any_company_in_bf16(bf16_detector: Detector) -> None:
    """A part's verdict would depend on what was photographed next to it."""
    images = draw_images(150, seed=7)
    together = bf16_detector.raw_scores(images)
    assert bf16_detector.raw_scores(images[:1])[0] == together[0]
    assert np.array_equal(bf16_detector.raw_scores(images[::-1])[::-1], together)


def test_threads_change_no_score(bf16_detector: Detector) -> None:
    """A verdict would depend on the number of cores, or torch be left with one thread after scoring."""
    images, before = draw_images(150, seed=7), torch.get_num_threads()
    found = {}
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found[threads] = bf16_detector.raw_scores_by_method(images)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for method, scores in found[1].items():
        np.testing.assert_array_equal(found[3][method], scores)


def test_bf16_keeps_the_latent_residual_within_a_percent() -> None:
    """Half the digits would cost more of the paper's score than the issue of speed allows."""
    model = build_model(32, 1, NetworkConfig(), ModelConfig(), torch.Generator().manual_seed(0)).eval()
    x_bchw = to_input(draw_images(16, seed=8), CPU)
    with torch.no_grad():
        exact = model.judge(x_bchw).score_b
        with arithmetic("bf16", CPU):
            rounded = folded(model).judge(x_bchw).score_b
    assert ((rounded - exact).abs() / exact).mean() < 0.01


def test_a_saved_detector_keeps_the_precision_it_was_calibrated_in(bf16_detector: Detector, tmp_path: Path) -> None:
    """Limit and scores would be computed differently after loading on another machine."""
    images = draw_images(10, seed=9)
    bf16_detector.save(tmp_path)
    loaded = Detector.load(tmp_path, device="cpu")
    assert loaded.judge.precision == "bf16"
    assert np.array_equal(loaded.raw_scores(images), bf16_detector.raw_scores(images))
    assert json.loads((tmp_path / "detector.json").read_text())["judge"]["precision"] == "bf16"


@pytest.mark.parametrize("method", ["fused", "local", "global", "gaussian", "paper"])
def test_networks_that_a_score_does_not_need_are_left_out_without_changing_it(
    bf16_detector: Detector, method: str
) -> None:
    """Leaving a network out for speed would change the score that is asked for."""
    images = draw_images(20, seed=10)
    evidence = bf16_detector.judge.examine(images, (method,))
    alone = bf16_detector.judge._scores_by_method(evidence)
    assert np.array_equal(alone[method], bf16_detector.raw_scores_by_method(images)[method])
    assert bool(evidence.paper_n.size) == (method in ("gaussian", "paper"))
    assert bool(evidence.local_nv.size) == (method in ("fused", "local", "global"))
