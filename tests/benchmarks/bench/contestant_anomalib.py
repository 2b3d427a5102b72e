"""anomalib's Ganomaly as a contestant. Run by the Python of its own environment; nothing of this project is imported.

The bare model is called as anomalib's own training step does, without Lightning around it; `predict` and `fit` go
through its Engine with all settings at their defaults but the image size.
"""

import shutil
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import Ganomaly
from anomalib.models.image.ganomaly.loss import DiscriminatorLoss, GeneratorLoss
from anomalib.models.image.ganomaly.torch_model import GanomalyModel
from lightning.pytorch.callbacks import Callback
from serving import run_for, serve, shuffled_batches, time_each

LATENT_SIZE, FEATURES = 100, 64


class Stopwatch(Callback):
    """Seconds of the loop itself, without the trainer's start."""

    def __init__(self) -> None:
        self.started = self.seconds = 0.0

    def on_predict_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_predict_end(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self.started

    on_train_start, on_train_end = on_predict_start, on_predict_end


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


def engine(folder: str, size_px: int, visualise: bool, stopwatch: Stopwatch) -> tuple[Ganomaly, Engine]:
    """A model and an engine, set up as the documentation shows; pictures can be left out."""
    extra = {} if visualise else {"visualizer": False}
    model = Ganomaly(pre_processor=Ganomaly.configure_pre_processor((size_px, size_px)), **extra)
    made = Engine(
        accelerator="cpu",
        devices=1,
        default_root_dir=folder,
        callbacks=[stopwatch],
        max_epochs=1,
        limit_val_batches=0,  # only training is measured
    )
    return model, made


def predict(folder: str, size_px: int, visualise: bool) -> dict[str, float]:
    """Score a folder of image files from the disk through Engine.predict."""
    scratch, stopwatch = tempfile.mkdtemp(), Stopwatch()
    model, made = engine(scratch, size_px, visualise, stopwatch)
    started, cpu, n_images = time.perf_counter(), time.process_time(), len(list(Path(folder).iterdir()))
    made.predict(model=model, data_path=folder, return_predictions=False)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    shutil.rmtree(scratch)
    return {
        "images_per_s": n_images / stopwatch.seconds,
        "cpu_ms": 1000 * cpu / n_images,
        "wall_s": wall,
        "images": n_images,
    }


def fit(folder: str, size_px: int, threads: int) -> dict[str, float]:
    """One epoch over a folder of image files through Engine.fit."""
    scratch, stopwatch = tempfile.mkdtemp(), Stopwatch()
    model, made = engine(scratch, size_px, visualise=False, stopwatch=stopwatch)
    data = Folder("cells", folder, num_workers=threads)  # sets a fifth of the images aside
    started = time.perf_counter()
    made.fit(model=model, datamodule=data)
    wall, n_images = time.perf_counter() - started, len(data.train_data)
    shutil.rmtree(scratch)
    return {"images_per_s": n_images / stopwatch.seconds, "wall_s": wall, "images": n_images}


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
            "fit": fit,
        }
    )
