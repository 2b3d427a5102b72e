"""Arithmetic of the networks: float32 or bfloat16, the same in calibration and scoring."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ganomaly import Detector, DetectorConfig
from ganomaly.acceleration.precision import Precision, choose_precision
from ganomaly.acceleration.scoring_networks import (
    ImageConvolution,
    PackedConvolution,
    SpanningConvolution,
    folded,
    for_scoring,
)
from ganomaly.networks.ganomaly import GANomaly, Pass
from ganomaly.networks.layers import Decoder, FeaturePyramid, NetworkConfig, build
from ganomaly.networks.training import Trainer, TrainingConfig, to_input
from ganomaly.scoring.pixel_scores import paper_score

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


def ganomaly_of(network: NetworkConfig, size_px: int = 48, seed: int = 3) -> GANomaly:
    """GANomaly's networks for grey images."""
    return build(lambda: GANomaly(size_px, 1, network), torch.Generator().manual_seed(seed))


def test_folding_batch_norm_changes_nothing() -> None:
    """The networks that score would be others than those that were trained."""
    model = ganomaly_of(NetworkConfig(features=8))
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    model.eval()
    copy = folded(model)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in copy.modules())
    x_bchw = torch.rand(4, 1, 48, 48) * 2 - 1
    expected, found = Pass(model, x_bchw), Pass(copy, x_bchw)
    torch.testing.assert_close(found.z_hat_bd, expected.z_hat_bd, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.x_hat_bchw, expected.x_hat_bchw, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.encoded, expected.encoded, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.discriminated_bchw, expected.discriminated_bchw, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 1e-2)])
@pytest.mark.parametrize("decoder_activation", ["relu", "leaky_relu"])
def test_packed_weights_change_nothing(precision: Precision, tolerance: float, decoder_activation: str) -> None:
    """What is faster would judge differently, or nothing be packed and nothing be faster."""
    model = ganomaly_of(NetworkConfig.model_validate({"features": 8, "decoder_activation": decoder_activation})).eval()
    plain, packed = folded(model), for_scoring(model, precision, CPU)
    can_pack = torch.backends.mkldnn.is_available()
    if precision == "bf16":  # not on a CPU without AVX-512
        can_pack = can_pack and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    for fast in (PackedConvolution, SpanningConvolution):
        assert any(type(layer) is fast for layer in packed.modules()) is can_pack
    if not can_pack:
        return
    sequences = [layers for layers in packed.modules() if isinstance(layers, FeaturePyramid | Decoder)]
    assert not any(isinstance(layer, torch.nn.LeakyReLU) for layers in sequences for layer in layers.children())
    x_bchw = torch.rand(4, 1, 48, 48) * 2 - 1
    for some_bchw in (x_bchw, x_bchw[:1]):  # another shape may want other weights
        expected, found = (Pass(networks, some_bchw, precision) for networks in (plain, packed))
        score, again = (paper_score(seen.z_bd, seen.z_hat_bd) for seen in (expected, found))
        torch.testing.assert_close(again, score, rtol=tolerance, atol=1e-7)
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
        model = ganomaly_of(NetworkConfig(features=8), 32, 0).train()
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
    model = ganomaly_of(NetworkConfig(), 32, 0).eval()
    x_bchw = to_input(draw_images(16, seed=8), CPU)
    passes = (Pass(model, x_bchw), Pass(folded(model), x_bchw, "bf16"))
    exact, rounded = (paper_score(seen.z_bd, seen.z_hat_bd) for seen in passes)
    assert ((rounded - exact).abs() / exact).mean() < 0.01


def test_a_saved_detector_keeps_the_precision_it_was_calibrated_in(bf16_detector: Detector, tmp_path: Path) -> None:
    """Limit and scores would be computed differently after loading on another machine."""
    images = draw_images(10, seed=9)
    bf16_detector.save(tmp_path)
    loaded = Detector.load(tmp_path, device="cpu")
    assert loaded.judge.precision == "bf16"
    assert np.array_equal(loaded.raw_scores(images), bf16_detector.raw_scores(images))
    assert json.loads((tmp_path / "detector.json").read_text())["judge"]["precision"] == "bf16"
