"""Whether torch.compile pays: training steps and scoring passes as they are, and compiled.

python -m tests.benchmarks.compiled --size 32 --size 64 --size 128
"""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
import torch
import torch._dynamo.config
import torch._functorch.config
import torch._inductor.config
import typer
from rich.console import Console
from rich.table import Table

from ganomaly import Detector, DetectorConfig
from ganomaly.acceleration.devices import pick_device
from ganomaly.acceleration.precision import arithmetic
from ganomaly.acceleration.scoring_networks import for_scoring
from ganomaly.networks.training import Trainer, to_input

ROUNDS = 5
BATCH = 64


def prepare_compiler() -> None:
    """Settings without which our training step cannot be compiled."""
    torch._dynamo.config.recompile_limit = 100  # each layer is a variant of the same function
    torch._functorch.config.donated_buffer = False  # G's backward pass leaves the graph for D's
    torch._inductor.config.freezing = True  # weights of a scoring network are constants


def trainer_of(config: DetectorConfig, device: torch.device) -> Trainer:
    """A detector in training with its optimisers."""
    made = Detector(config, device=str(device))
    return Trainer(made.judge.model.train(), config.training, torch.Generator().manual_seed(0), made.judge.precision)


def synchronised(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of some work until the device has done it."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def in_turns(device: torch.device, works: Sequence[Callable[[], object]]) -> tuple[list[float], list[float]]:
    """Seconds of the first two passes of each work, and milliseconds of a later one, by rounds in turns."""
    first = [synchronised(device, work) + synchronised(device, work) for work in works]
    repeat = max(1, round(0.5 / synchronised(device, works[0])))
    rounds = [
        [synchronised(device, lambda: [work() for _ in range(repeat)]) / repeat for work in works]  # noqa: B023
        for _ in range(ROUNDS)
    ]
    return first, [1000 * statistics.median(times) for times in zip(*rounds, strict=True)]


def training(size_px: int, device: torch.device) -> tuple[list[float], list[float]]:
    """A step on 64 images."""
    config = DetectorConfig.model_validate({"recipe": {"size_px": size_px}})
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, size_px, size_px, 1), dtype=np.uint8)
    x = to_input(pixels, device)
    plain, compiled = trainer_of(config, device), trainer_of(config, device)
    compiled.judge.model.generator = torch.compile(compiled.judge.model.generator)
    compiled.judge.model.discriminator = torch.compile(compiled.judge.model.discriminator)
    return in_turns(device, [lambda: plain.step(x), lambda: compiled.step(x)])


def scoring(size_px: int, device: torch.device) -> tuple[list[float], list[float]]:
    """One batch of the detector's size through the generator: as we score, and the plain network compiled."""
    detector = Detector(DetectorConfig.model_validate({"recipe": {"size_px": size_px}}), device=str(device))
    pixels = np.random.default_rng(0).integers(0, 256, (detector.batch_size, size_px, size_px, 1), dtype=np.uint8)
    x = to_input(pixels, device)
    ours = for_scoring(detector.judge.model, detector.judge.precision, device).generator
    compiled = torch.compile(copy.deepcopy(detector.judge.model.generator).eval().requires_grad_(False))

    def score(generator: Callable[[torch.Tensor], object]) -> None:
        with torch.no_grad(), arithmetic(detector.judge.precision, device):
            generator(x)

    return in_turns(device, [lambda: score(ours), lambda: score(compiled)])


def main(
    size: Annotated[list[int], typer.Option(help="Sides of the networks' input in px.")] = [32, 64],  # noqa: B006
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = torch.get_num_threads(),
) -> None:
    """Time training steps and scoring passes as they are, and compiled by PyTorch's default backend."""
    torch.set_num_threads(threads)
    prepare_compiler()
    chosen = pick_device(device)
    table = Table("what", "px", "ours, ms", "compiled, ms", "ours / compiled", "compilation, s")
    for name, measure in (("training step", training), ("scoring", scoring)):
        for size_px in size:
            torch._dynamo.reset()
            (_, first), (ours, compiled) = measure(size_px, chosen)
            figures = f"{ours:.2f}", f"{compiled:.2f}", f"{ours / compiled:.2f}", f"{first:.0f}"
            table.add_row(name, str(size_px), *figures)
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
