"""A GPU against the CPU of the same machine: same results, how fast, how near to its limits, how busy in a night.

    python tests/benchmarks/gpu_check.py                          # on the GPU
    python tests/benchmarks/gpu_check.py --device cpu --quick     # only shows that this program runs

Nothing is installed and nothing but a report is written: run it on the machine whose GPU shall score. It needs Python
from 3.11, torch from 2.9, torchvision, numpy and OpenCV, and of this checkout the folders `ganomaly` and `tests`.

Checks, each with the tolerance it is held to: losses of a training step and scores of the same weights and images, GPU
in fp32 and bf16 against CPU in fp32. Figures: images per second of training and scoring by size and precision, with the
arithmetic of G's and E's convolutions that this makes (D's is left out, also in training) as a share of the largest
matrix product's speed measured here, and the bytes of these convolutions' inputs and outputs as a share of the speed of
a large copy measured here. Last a night: threads decode and prepare JPEG and PNG images from memory, batches go through
pinned memory to the device; busy is the share of time in which the device worked, by its own events. Where what
`pip install '.[features]'` brings is there, detectors of both inputs are trained on the device, and their verdicts
compared with the CPU's. It ends with status 1 if a check fails.
"""

import argparse
import copy
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
NEEDED = {"torch": "torch", "torchvision": "torchvision", "numpy": "numpy", "cv2": "opencv-python-headless"}
if missing := [package for name, package in NEEDED.items() if find_spec(name) is None]:
    sys.exit(f"not installed: {', '.join(missing)}; get them with: pip install {' '.join(missing)}")
try:
    import pydantic  # noqa: F401
except ModuleNotFoundError:  # the library's settings are made with it; here they only need their defaults
    from tests.benchmarks import plain_settings

    sys.modules["pydantic"] = plain_settings

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from ganomaly.acceleration.precision import Precision, arithmetic  # noqa: E402
from ganomaly.acceleration.scoring_networks import folded  # noqa: E402
from ganomaly.images.preparation import prepare_image  # noqa: E402
from ganomaly.images.quality import QualityGate  # noqa: E402
from ganomaly.images.recipe import Recipe  # noqa: E402
from ganomaly.networks.ganomaly import GANomaly, Pass  # noqa: E402
from ganomaly.networks.layers import NetworkConfig, build  # noqa: E402
from ganomaly.networks.training import Trainer, TrainingConfig, to_input  # noqa: E402
from ganomaly.scoring.pixel_scores import paper_score  # noqa: E402

TOLERANCE: dict[Precision, float] = {"fp32": 2e-3, "bf16": 5e-2}
"""Largest relative difference to the CPU's fp32: TF32 and another order of sums, and a mantissa of 8 bits."""

BATCHES = {32: 1024, 64: 512, 128: 256, 256: 64}
MATRIX, COPY_BYTES = 8192, 1 << 30


@dataclass(frozen=True)
class Check:
    """One comparison with the CPU in fp32: the largest relative difference, and what is allowed."""

    what: str
    size_px: int
    precision: str
    difference: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Whether it holds; not if there is a NaN."""
        return self.difference <= self.allowed


@dataclass(frozen=True)
class Speed:
    """How fast one job is, and the shares of what was measured as the device's peak."""

    job: str
    size_px: int
    batch: int
    precision: str
    images_per_s: float
    arithmetic: float
    bandwidth: float


@dataclass(frozen=True)
class Night:
    """A night of so many images from encoded bytes to scores."""

    images: int
    threads: int
    images_per_s: float
    busy: float


@dataclass(frozen=True)
class Peak:
    """What the device does at best here: FLOP/s of a matrix product in a precision, bytes/s of a copy, both ways."""

    flops: dict[str, float]
    bytes_per_s: float


def new_model(size_px: int, features: int, device: torch.device, seed: int = 0) -> GANomaly:
    """The paper's networks; the same weights for the same seed on any device."""
    rng = torch.Generator().manual_seed(seed)
    return build(lambda: GANomaly(size_px, 1, NetworkConfig(features=features)), rng).to(device)


def some_images(n: int, size_px: int, seed: int = 0) -> np.ndarray:
    """Made-up prepared images, uint8 (N, S, S, 1): blurred noise."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (n, size_px, size_px), dtype=np.uint8)
    return np.stack([cv2.GaussianBlur(image, (0, 0), 1.5) for image in noise])[..., None]


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest expected value."""
    found, expected = found.detach().float().cpu(), expected.detach().float().cpu()
    return float((found - expected).abs().max() / expected.abs().max())


def compare(size_px: int, features: int, device: torch.device, batch: int) -> Iterator[Check]:
    """Losses and scores of one model on the device against the CPU's fp32."""
    cpu = torch.device("cpu")
    images, reference = some_images(batch, size_px), new_model(size_px, features, cpu)
    other = copy.deepcopy(reference).to(device)
    x, there = to_input(images, cpu), to_input(images, device)
    with torch.no_grad():
        expected = _losses(copy.deepcopy(reference).train(), x)
        scores = _scores(reference.eval(), x, "fp32")
        for precision, allowed in TOLERANCE.items():
            with arithmetic(precision, device):
                losses = _losses(copy.deepcopy(other).train(), there)
            found = _scores(other.eval(), there, precision)
            folded_found = _scores(folded(other), there, precision)
            yield Check("losses of a step", size_px, precision, relative(losses, expected), allowed)
            yield Check("scores", size_px, precision, relative(found, scores), allowed)
            yield Check("scores, batch norm folded", size_px, precision, relative(folded_found, scores), allowed)


def _scores(model: GANomaly, x_bchw: Tensor, precision: Precision) -> Tensor:
    seen = Pass(model, x_bchw, precision)
    return paper_score(seen.z_bd, seen.z_hat_bd)


def _losses(model: GANomaly, x_bchw: Tensor) -> Tensor:
    losses = model.losses(x_bchw, torch.Generator().manual_seed(0))
    return torch.stack([term.float() for term in losses if term is not None])


def measure_peak(device: torch.device, matrix: int, copy_bytes: int) -> Peak:
    """The speed of a large matrix product in each precision, and of a large copy."""
    flops = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.randn(matrix, matrix, device=device).to(dtype)
        seconds = seconds_of(lambda a=a: a @ a, device)
        flops[precision] = 2 * matrix**3 / seconds
    source = torch.empty(copy_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Peak(flops, 2 * copy_bytes / seconds_of(lambda: target.copy_(source), device))


def seconds_of(work: Callable[[], object], device: torch.device, at_least_s: float = 0.3) -> float:
    """Seconds of one call, after a warm-up, from as many calls as fill the time."""
    work()
    wait_for(device)
    calls, started = 0, time.perf_counter()
    while True:
        work()
        calls += 1
        if calls % 4 == 0 or device.type == "cpu":
            wait_for(device)
            if (elapsed := time.perf_counter() - started) >= at_least_s:
                return elapsed / calls


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def work_of_image(model: GANomaly, size_px: int, device: torch.device) -> tuple[float, float]:
    """FLOP of the convolutions for one image through G and E, and bytes of their inputs and outputs in fp32.

    The discriminator is not counted: scoring by the paper does not need it, training passes through it twice.
    """
    totals = [0.0, 0.0]

    def note(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pixels = inputs[0].shape[-2:].numel() if isinstance(layer, nn.ConvTranspose2d) else output.shape[-2:].numel()
        totals[0] += 2 * layer.weight.numel() * pixels
        totals[1] += 4 * (inputs[0].numel() + output.numel())

    layers = [layer for layer in model.generator.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        model.generator(to_input(some_images(1, size_px), device))
    for hook in hooks:
        hook.remove()
    return totals[0], totals[1]


def scoring_speed(
    size_px: int, features: int, batch: int, precision: Precision, device: torch.device, peak: Peak, at_least_s: float
) -> Speed:
    """Prepared images on the device to the paper's score."""
    model = folded(new_model(size_px, features, device).eval())
    flop, moved = work_of_image(model, size_px, device)
    x = to_input(some_images(batch, size_px), device)

    @torch.inference_mode()
    def work() -> None:
        with arithmetic(precision, device):
            _, z, z_hat = model.generator(x)
            (z - z_hat).abs().mean(1)

    speed = batch / seconds_of(work, device, at_least_s)
    halved = moved / 2 if precision == "bf16" else moved
    return _speed("score", size_px, batch, precision, speed, flop, halved, peak)


def training_speed(
    size_px: int, features: int, batch: int, precision: Precision, device: torch.device, peak: Peak, at_least_s: float
) -> Speed:
    """One step of the trainer. Three times the forward pass's arithmetic; the discriminator's is not counted."""
    model = new_model(size_px, features, device).train()
    flop, moved = work_of_image(model, size_px, device)
    trainer = Trainer(model, TrainingConfig(), torch.Generator().manual_seed(0), precision)
    x = to_input(some_images(batch, size_px), device)
    speed = batch / seconds_of(lambda: trainer.step(x), device, at_least_s)
    halved = moved / 2 if precision == "bf16" else moved
    return _speed("training step", size_px, batch, precision, speed, 3 * flop, 3 * halved, peak)


def _speed(
    job: str, size_px: int, batch: int, precision: str, speed: float, flop: float, moved: float, peak: Peak
) -> Speed:
    reached, bandwidth = speed * flop / peak.flops[precision], speed * moved / peak.bytes_per_s
    return Speed(job, size_px, batch, precision, speed, reached, bandwidth)


def encoded_images(n: int, side_px: int) -> list[bytes]:
    """Made-up camera images, JPEG and PNG in turns."""
    images = [cv2.resize(image, (side_px, side_px)) for image in some_images(min(n, 16), 256)[..., 0]]
    kinds = (".jpg", ".png")
    return [cv2.imencode(kinds[k % 2], images[k % len(images)])[1].tobytes() for k in range(n)]


def simulate_night(
    n_images: int, size_px: int, features: int, batch: int, threads: int, precision: Precision, device: torch.device
) -> Night:
    """Threads decode and prepare, one thread fills pinned batches, the device scores; bounded queue between them."""
    files = encoded_images(n_images, 2 * size_px)
    model, recipe, gate = folded(new_model(size_px, features, device).eval()), Recipe(size_px=size_px), QualityGate()
    queue: Queue[Tensor | None] = Queue(4)

    def feed() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, n_images, batch):
                prepared = pool.map(lambda data: prepare_image(data, recipe, gate), files[start : start + batch])
                pixels = [one.pixels for one in prepared if one.pixels is not None]
                if pixels:
                    images = torch.from_numpy(np.stack(pixels))
                    queue.put(images.pin_memory() if device.type == "cuda" else images)
        queue.put(None)

    feeder = Thread(target=feed, daemon=True)
    started = time.perf_counter()
    feeder.start()
    busy_s, scored = _consume(queue, model, precision, device)
    elapsed = time.perf_counter() - started
    feeder.join()
    return Night(scored, threads, scored / elapsed, busy_s / elapsed)


@torch.inference_mode()
def _consume(
    queue: "Queue[Tensor | None]", model: GANomaly, precision: Precision, device: torch.device
) -> tuple[float, int]:
    """Score what comes; gives the seconds in which the device was busy, and the number of images."""
    events: list[tuple[Any, Any]] = []
    busy_s, scored = 0.0, 0
    while (images := queue.get()) is not None:
        begun = time.perf_counter()
        if device.type == "cuda":
            events.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            events[-1][0].record()
        with arithmetic(precision, device):
            x = to_input(images.to(device, non_blocking=True), device)
            _, z, z_hat = model.generator(x)
            score_b = (z - z_hat).abs().mean(1)
        if device.type == "cuda":
            events[-1][1].record()
        else:
            busy_s += time.perf_counter() - begun
        scored += len(score_b)
    wait_for(device)
    return busy_s + sum(first.elapsed_time(last) / 1000 for first, last in events), scored


def report(
    device: torch.device, peak: Peak, checks: Sequence[Check], speeds: Sequence[Speed], nights: Sequence[Night]
) -> str:
    """Everything as Markdown."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    head = (
        f"# {name}\n\ntorch {torch.__version__}, Python {platform.python_version()}, {torch.get_num_threads()} threads"
    )
    if device.type != "cuda":
        head += "\n\n**No GPU was measured: every figure below is this machine's CPU.**"
    flops = ", ".join(f"{precision} {value / 1e12:.2f} TFLOP/s" for precision, value in peak.flops.items())
    head += f"\n\nMeasured peaks: matrix product {flops}; copy {peak.bytes_per_s / 1e9:.0f} GB/s."
    verdicts = [
        f"| {c.what} | {c.size_px} | {c.precision} | {c.difference:.1e} | {c.allowed:.0e} | "
        f"{'ok' if c.passed else 'FAILED'} |"
        for c in checks
    ]
    figures = [
        f"| {s.job} | {s.size_px} | {s.batch} | {s.precision} | {s.images_per_s:,.0f} | {100 * s.arithmetic:.0f} % | "
        f"{100 * s.bandwidth:.0f} % |"
        for s in speeds
    ]
    night_rows = [f"| {n.images:,} | {n.threads} | {n.images_per_s:,.0f} | {100 * n.busy:.0f} % |" for n in nights]
    return "\n".join(
        [
            head,
            "\n## Results against the CPU in fp32\n\n| | px | precision | difference | allowed | |",
            "| --- | ---: | --- | ---: | ---: | --- |",
            *verdicts,
            "\n## Speed\n\n| | px | batch | precision | images/s | of peak arithmetic | of peak bandwidth |",
            "| --- | ---: | ---: | --- | ---: | ---: | ---: |",
            *figures,
            "\n## A night from encoded images in memory to scores\n\n| images | threads | images/s | device busy |",
            "| ---: | ---: | ---: | ---: |",
            *night_rows,
            "",
        ]
    )


def main() -> int:
    """Measure, print, write; 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu")
    parser.add_argument("--quick", action="store_true", help="seconds: 32 px, small networks and batches")
    parser.add_argument("--images", type=int, default=20_000, help="of the night")
    parser.add_argument("--threads", type=int, default=8, help="that decode and prepare in the night")
    parser.add_argument("--out", type=Path, help="also write the report to this Markdown file")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("no CUDA device is usable here; --device cpu shows that this program runs, and measures no GPU")
    device = torch.device(options.device)
    sizes, features = ((32,), 8) if options.quick else ((32, 64, 128, 256), 64)
    at_least_s = 0.05 if options.quick else 1.0
    batches = {32: 16} if options.quick else BATCHES
    peak = measure_peak(device, 256, 1 << 20) if options.quick else measure_peak(device, MATRIX, COPY_BYTES)
    checks = [check for size_px in sizes for check in compare(size_px, features, device, 16)]
    speeds = [
        job(size_px, features, batches[size_px], precision, device, peak, at_least_s)
        for job in (training_speed, scoring_speed)
        for size_px in sizes
        for precision in TOLERANCE
    ]
    n_images, night_px = (64, 32) if options.quick else (options.images, 64)
    nights = [simulate_night(n_images, night_px, features, batches[night_px], options.threads, "bf16", device)]
    text, passed = report(device, peak, checks, speeds, nights), all(check.passed for check in checks)
    try:
        from tests.benchmarks.gpu_detectors import detector_section  # noqa: PLC0415 - of packages that may be missing
    except (ImportError, AttributeError) as error:
        text += f"\n## Detectors\n\nNot measured: {error}; pip install '.[features]'\n"
    else:
        section, same = detector_section(device, quick=options.quick)
        text, passed = text + section, passed and same
    sys.stdout.write(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
