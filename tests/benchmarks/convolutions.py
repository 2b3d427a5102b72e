"""Where products of matrices beat PyTorch's own convolutions in bfloat16 on a CPU, layer by layer of the networks.

python -m tests.benchmarks.convolutions --size 32 --size 128
"""

import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ganomaly.acceleration.convolutions import Convolution, TransposedConvolution
from ganomaly.acceleration.memory import keep_freed_memory
from ganomaly.acceleration.precision import arithmetic
from ganomaly.networks.ganomaly import GANomaly
from ganomaly.networks.layers import NetworkConfig, build

CPU = torch.device("cpu")
SECONDS = 0.3


def layers_of(size_px: int) -> list[tuple[nn.Module, tuple[int, ...]]]:
    """Each convolution of the generator's encoder and decoder with the shape of its input."""
    model = build(lambda: GANomaly(size_px, 1, NetworkConfig()), torch.Generator().manual_seed(0))
    found: list[tuple[nn.Module, tuple[int, ...]]] = []
    kinds = (Convolution, TransposedConvolution)
    hooks = [
        layer.register_forward_hook(lambda layer, given, _: found.append((layer, tuple(given[0].shape))))
        for network in (model.generator.encoder, model.generator.decoder)
        for layer in network.modules()
        if isinstance(layer, kinds)
    ]
    with torch.no_grad():
        model.generator.decoder(model.generator.encoder(torch.zeros(2, 1, size_px, size_px)))
    for hook in hooks:
        hook.remove()
    return found


def plain(layer: nn.Module) -> nn.Module:
    """PyTorch's own convolution with the same weights."""
    kind = nn.Conv2d if isinstance(layer, Convolution) else nn.ConvTranspose2d
    given = layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding
    made = kind(*given, bias=False)
    made.load_state_dict(layer.state_dict())
    return made.to(memory_format=torch.channels_last)


def milliseconds(work: Callable[[], object]) -> float:
    """The fastest of as many runs as fit into the time: what else the machine does only adds."""
    work()
    best, until = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return 1000 * best


def times(layer: nn.Module, shape: tuple[int, ...]) -> tuple[float, float, float]:
    """Milliseconds of the forward pass, of the gradient of the input, and of that of the weights."""
    x = torch.randn(shape).to(memory_format=torch.channels_last).bfloat16().requires_grad_()

    def forward() -> Tensor:
        with arithmetic("bf16", CPU):
            return layer(x)

    y = forward()
    gradient = torch.randn_like(y)

    def backward(of: Tensor) -> object:
        return torch.autograd.grad(y, of, gradient, retain_graph=True)

    return milliseconds(forward), milliseconds(lambda: backward(x)), milliseconds(lambda: backward(layer.weight))


def main(
    size: Annotated[list[int], typer.Option(help="Sides of the networks' input in px.")] = [32, 64],  # noqa: B006
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = torch.get_num_threads(),
) -> None:
    """Time each convolution of encoder and decoder: PyTorch's own, and ours."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    table = Table("px", "layer", *(f"{what}, ms" for what in ("forward", "input's gradient", "weights' gradient")))
    for size_px in size:
        for layer, (_, *shape) in layers_of(size_px):
            found = [times(one, (batch, *shape)) for one in (plain(layer), layer)]
            name = f"{layer.in_channels} x {shape[1]} x {shape[2]} to {layer.out_channels}"
            columns = (f"{theirs:.2f} -> {ours:.2f}" for theirs, ours in zip(*found, strict=True))
            table.add_row(str(size_px), name, *columns)
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
