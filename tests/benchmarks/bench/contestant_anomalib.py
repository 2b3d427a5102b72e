"""anomalib's Ganomaly and PatchCore. Run by the Python of its own environment; nothing of this project is imported.

The bare model is called as anomalib's own training step does, without Lightning around it; `predict` goes through its
Engine.
"""

import shutil
import tempfile
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import Padim, Patchcore
from anomalib.models.image.ganomaly.loss import DiscriminatorLoss, GeneratorLoss
from anomalib.models.image.ganomaly.torch_model import GanomalyModel
from anomalib.pre_processing import PreProcessor
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from serving import run_for, serve, shuffled_batches, time_each
from torchvision.transforms.v2 import Compose, Normalize, Resize

LATENT_SIZE, FEATURES = 100, 64
ENGINE_PX = 256
"""Side of the images of its Engine, anomalib's default."""
BEHIND_THE_MAPS = ("blocks.5.", "blocks.6.", "conv_head.", "bn2.")
"""Layers that neither of the two maps needs."""
SAME_FEATURES = {"PatchCore": partial(Patchcore, coreset_sampling_ratio=0.01), "PaDiM": partial(Padim, n_features=100)}
"""Methods that look through a network which is frozen, as ours is. Choosing PatchCore's memory takes ten times as many
steps with anomalib's default of 10 %."""


class Stopwatch(Callback):
    """Seconds of the loop itself, without the trainer's start."""

    def __init__(self) -> None:
        self.started = self.seconds = 0.0

    def on_predict_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_predict_end(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self.started


def as_input(pixels: np.ndarray) -> torch.Tensor:
    """Prepared images, uint8 (N, S, S, 1), as float32 (N, 1, S, S) in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1.0).contiguous()


@cache
def images(path: str) -> torch.Tensor:
    """Prepared images of a file."""
    return as_input(np.load(path))


def new_model(size_px: int) -> GanomalyModel:
    """The networks with one channel, as ours have here."""
    return GanomalyModel((size_px, size_px), 1, FEATURES, LATENT_SIZE)


@cache
def training(size_px: int) -> Any:
    """One training step of anomalib, on images (B, 1, S, S)."""
    return step_of(new_model(size_px))


def step_of(model: GanomalyModel) -> Any:
    """One training step of a model, on images (B, 1, S, S)."""
    model.train()
    loss_g, loss_d = GeneratorLoss(), DiscriminatorLoss()
    optimiser_d = torch.optim.Adam(model.discriminator.parameters(), 2e-4, (0.5, 0.999))
    optimiser_g = torch.optim.Adam(model.generator.parameters(), 2e-4, (0.5, 0.999))

    def step(x_bchw: torch.Tensor) -> None:
        padded, fake, latent_i, latent_o = model(x_bchw)
        real, _ = model.discriminator(padded)
        error_g = loss_g(latent_i, latent_o, padded, fake, real, model.discriminator(fake)[0])
        optimiser_g.zero_grad()
        error_g.backward(retain_graph=True)
        optimiser_g.step()
        error_d = loss_d(real, model.discriminator(fake.detach())[0])
        optimiser_d.zero_grad()
        error_d.backward()
        optimiser_d.step()
        error_g.item(), error_d.item()  # it logs both

    return step


@cache
def scoring(size_px: int) -> GanomalyModel:
    """The networks, ready to score."""
    return new_model(size_px).eval()


def train_step(path: str, batch: int, seconds: float) -> dict[str, float]:
    """Steps on the first images of the file."""
    x = images(path)[:batch]

    def step() -> int:
        training(x.shape[-1])(x)
        return len(x)

    return run_for(seconds, step)


@torch.inference_mode()
def score(path: str, n_images: int, batch: int, seconds: float) -> dict[str, float]:
    """The model's score of the first images of the file, in batches."""
    x = images(path)[:n_images]
    model = scoring(x.shape[-1])

    def step() -> int:
        for part in x.split(batch):
            model(part)
        return len(x)

    return run_for(seconds, step)


def train_and_score(path: str, scores: str, epochs: int, batch: int, seed: int) -> dict[str, float]:
    """Train on the file's split and write the raw scores of its test images."""
    torch.manual_seed(seed)
    with np.load(path) as file:
        train, test = as_input(file["train"]), as_input(file["test"])
    model = new_model(train.shape[-1])
    step = step_of(model)
    for numbers in shuffled_batches(len(train), batch, epochs, seed):
        step(train[numbers])
    model.eval()
    with torch.inference_mode():
        raw = torch.cat([model(part).pred_score for part in test.split(batch)])
    np.savez(scores, distance=raw.numpy())
    return {}


@torch.inference_mode()
def latency(path: str, times: int) -> dict[str, float]:
    """One image at a time."""
    x = images(path)[:1]
    model = scoring(x.shape[-1])
    return time_each(times, lambda: model(x))


def predict(folder: str, learned: str, visualise: bool, threads: int) -> dict[str, float]:
    """PatchCore over a ResNet-18 learns from one folder of image files and judges another, through the Engine.

    The network's weights are drawn: none can be fetched offline, and products take as long with any. Its images have
    the size that anomalib gives them.
    """
    scratch, stopwatch = tempfile.mkdtemp(), Stopwatch()
    extra = {} if visualise else {"visualizer": False}
    sized = Patchcore.configure_pre_processor((ENGINE_PX, ENGINE_PX))
    model = Patchcore(backbone="resnet18", pre_trained=False, pre_processor=sized, **extra)
    made = Engine(accelerator="cpu", devices=1, default_root_dir=scratch, callbacks=[stopwatch], limit_val_batches=0)
    made.fit(model=model, datamodule=Folder("cells", learned, normal_test_dir=folder, num_workers=threads))
    started, cpu, n_images = time.perf_counter(), time.process_time(), len(list(Path(folder).iterdir()))
    made.predict(model=model, data_path=folder, return_predictions=False)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    shutil.rmtree(scratch)
    return {
        "images_per_s": n_images / stopwatch.seconds,
        "cpu_ms": 1000 * cpu / n_images,
        "wall_s": wall,
        "images": n_images,
        "size_px": ENGINE_PX,
    }


def judge(method: str, learned: str, judged: str, weights: str, scores: str) -> dict[str, float]:
    """Learn from one folder of image files and write the raw scores (N,) of another's, in the order of their names.

    Args:
        method: of `SAME_FEATURES`.
        learned: folder of good images.
        judged: folder of images.
        weights: file of our backbone's, which theirs takes as well.
        scores: file to write.
    """
    scratch = tempfile.mkdtemp()
    as_trained = Compose([Resize((ENGINE_PX, ENGINE_PX), antialias=True), Normalize([127 / 255] * 3, [128 / 255] * 3)])
    model = SAME_FEATURES[method](
        backbone="tf_efficientnet_lite0",
        layers=["blocks.2", "blocks.4"],
        pre_trained=False,
        pre_processor=PreProcessor(transform=as_trained),
        post_processor=False,
        visualizer=False,
    )
    network = model.model.feature_extractor.feature_extractor
    absent = network.load_state_dict(load_file(weights), strict=False).missing_keys
    if needed := [name for name in absent if not name.startswith(BEHIND_THE_MAPS)]:
        raise ValueError(f"{weights} has no {needed[0]}")
    made = Engine(accelerator="cpu", devices=1, default_root_dir=scratch, limit_val_batches=0)
    # with a folder of its own for tests none of the good images are set aside
    made.fit(model=model, datamodule=Folder("set", learned, normal_test_dir=judged, num_workers=1))
    raw: dict[str, float] = {}
    for batch in made.predict(model=model, data_path=judged) or []:
        raw |= {Path(path).name: float(one) for path, one in zip(batch.image_path, batch.pred_score, strict=True)}
    shutil.rmtree(scratch)
    np.save(scores, np.array([raw[name] for name in sorted(raw)]))
    return {"images": len(raw)}


def set_threads(threads: int) -> dict[str, float]:
    """Threads of torch for all that follows."""
    torch.set_num_threads(threads)
    return {"threads": torch.get_num_threads()}


if __name__ == "__main__":
    serve(
        {
            "set_threads": set_threads,
            "train_step": train_step,
            "score": score,
            "train_and_score": train_and_score,
            "latency": latency,
            "predict": predict,
            "judge": judge,
        }
    )
