"""The networks' convolutions, which train in bfloat16 on a CPU as products of matrices."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganomaly.acceleration import convolutions
from ganomaly.acceleration.convolutions import Convolution, TransposedConvolution
from ganomaly.acceleration.precision import arithmetic
from ganomaly.networks.ganomaly import GANomaly
from ganomaly.networks.layers import NetworkConfig, build
from ganomaly.networks.training import Trainer, TrainingConfig

CPU = torch.device("cpu")
# in and out channels, side, kernel, stride, padding: from an image, on wide, middling and narrow maps, to a vector
DOWN = [(1, 8, 32, 4, 2, 1), (3, 8, 16, 4, 2, 1), (8, 16, 32, 4, 2, 1), (8, 16, 16, 4, 2, 1), (8, 16, 8, 4, 2, 1)]
DOWN += [(16, 10, 4, 4, 1, 0), (16, 10, 5, 5, 1, 0), (16, 1, 4, 4, 1, 0)]
UP = [(10, 16, 1, 4, 1, 0), (10, 16, 1, 5, 1, 0), (16, 8, 4, 4, 2, 1), (16, 8, 5, 4, 2, 1), (16, 8, 16, 4, 2, 1)]
UP += [(8, 1, 16, 4, 2, 1), (8, 3, 8, 4, 2, 1)]


def layers_of(case: tuple[int, ...], kinds: tuple[type[nn.Module], type[nn.Module]]) -> tuple[Any, Any, Tensor]:
    """A layer of ours, PyTorch's own with the same weights, and maps for them."""
    torch.manual_seed(0)
    inputs, outputs, side, *rest = case
    ours, theirs = kinds[0](inputs, outputs, *rest), kinds[1](inputs, outputs, *rest, bias=False)
    theirs.load_state_dict(ours.state_dict())
    maps = torch.randn(6, inputs, side, side)
    return ours, theirs, maps.to(memory_format=torch.channels_last)


CASES = [(case, (Convolution, nn.Conv2d)) for case in DOWN]
CASES += [(case, (TransposedConvolution, nn.ConvTranspose2d)) for case in UP]


@pytest.mark.parametrize(("case", "kinds"), CASES)
@pytest.mark.parametrize("rows_bytes", [1 << 24, 1])
def test_bf16_gives_the_results_and_gradients_of_a_plain_convolution(
    case: tuple[int, ...], kinds: Any, rows_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training would follow another gradient: a kernel turned, a channel or place mixed up, images left out."""
    monkeypatch.setattr(convolutions, "ROWS_BYTES", rows_bytes)  # all images at once, and one by one
    ours, theirs, maps = layers_of(case, kinds)
    found_x, expected_x = (maps.clone().requires_grad_() for _ in range(2))
    with arithmetic("bf16", CPU):
        found = ours(found_x)
    expected = theirs(expected_x)  # in float32: what bfloat16 is an approximation of
    gradient = torch.randn_like(expected)
    found.backward(gradient.to(found.dtype))
    expected.backward(gradient)
    for one, other in ((found, expected), (found_x.grad, expected_x.grad), (ours.weight.grad, theirs.weight.grad)):
        assert one.shape == other.shape
        assert (one.float() - other).norm() < 0.01 * other.norm()


@pytest.mark.parametrize(("case", "kinds"), CASES)
def test_fp32_is_pytorchs_own(case: tuple[int, ...], kinds: Any) -> None:
    """Detectors trained in float32 would come out differently than before."""
    ours, theirs, maps = layers_of(case, kinds)
    assert torch.equal(ours(maps), theirs(maps))


def test_the_players_compute_their_own_weights_gradients_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """While G is updated D's gradients would be computed and thrown away, which the authors' step does."""
    counted: list[tuple[int, ...]] = []
    real = convolutions._weight_gradient

    def count(fine: Tensor, coarse: Tensor, weight: Tensor, geometry: tuple[int, int]) -> Tensor:
        counted.append(tuple(weight.shape))
        return real(fine, coarse, weight, geometry)

    monkeypatch.setattr(convolutions, "_weight_gradient", count)
    model = build(lambda: GANomaly(32, 1, NetworkConfig(features=8)), torch.Generator().manual_seed(0)).train()
    trainer = Trainer(model, TrainingConfig(), torch.Generator().manual_seed(0), "bf16")
    trainer.step(torch.rand(4, 1, 32, 32) * 2 - 1)
    kernels = [p for player in (model.generator, model.discriminator) for p in player.parameters() if p.dim() == 4]
    of_discriminator = [p for p in model.discriminator.parameters() if p.dim() == 4]
    assert len(counted) == len(kernels) + len(of_discriminator)  # D looks at real and at reconstructed images


def test_scoring_asks_for_no_gradients() -> None:
    """Each batch that is examined would keep its maps until the end."""
    layer = Convolution(8, 16, 4, 2, 1)
    with torch.no_grad(), arithmetic("bf16", CPU):
        assert layer(torch.rand(2, 8, 8, 8)).grad_fn is None
