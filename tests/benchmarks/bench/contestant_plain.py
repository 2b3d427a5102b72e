"""The authors' training step and score in plain fp32 (`authors.py`) as a contestant."""

from functools import cache
from typing import Any

import numpy as np
import torch

from tests.benchmarks.bench.authors import AuthorsTraining, Generator, draw_weights
from tests.benchmarks.bench.authors import score as authors_score
from tests.benchmarks.bench.serving import run_for, serve, shuffled_batches, time_each

LATENT_SIZE, FEATURES = 100, 64


def as_input(pixels: np.ndarray) -> torch.Tensor:
    """Prepared images, uint8 (N, S, S, 1), as float32 (N, 1, S, S) in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1.0).contiguous()


@cache
def images(path: str) -> torch.Tensor:
    """Prepared images of a file."""
    return as_input(np.load(path))


@cache
def training(size_px: int) -> AuthorsTraining:
    """Networks to train."""
    return AuthorsTraining(size_px, 1, FEATURES, LATENT_SIZE)


@cache
def scoring(size_px: int) -> Generator:
    """Networks to score with."""
    return Generator(size_px, 1, FEATURES, LATENT_SIZE).apply(draw_weights).eval()


def train_step(path: str, batch: int, seconds: float) -> dict[str, float]:
    """Steps on the first images of the file."""
    x = images(path)[:batch]

    def step() -> int:
        training(x.shape[-1]).step(x)
        return len(x)

    return run_for(seconds, step)


def score(path: str, n_images: int, batch: int, seconds: float) -> dict[str, float]:
    """The paper's score of the first images of the file, in batches."""
    x = images(path)[:n_images]
    generator = scoring(x.shape[-1])

    def step() -> int:
        for part in x.split(batch):
            authors_score(generator, part)
        return len(x)

    return run_for(seconds, step)


def train_and_score(path: str, scores: str, epochs: int, batch: int, seed: int) -> dict[str, float]:
    """Train on the file's split and write the raw scores of its test images."""
    torch.manual_seed(seed)
    with np.load(path) as file:
        train, test = as_input(file["train"]), as_input(file["test"])
    made = AuthorsTraining(train.shape[-1], 1, FEATURES, LATENT_SIZE)
    for numbers in shuffled_batches(len(train), batch, epochs, seed):
        made.step(train[numbers])
    generator = made.generator.eval()
    raw = torch.cat([authors_score(generator, part) for part in test.split(batch)])
    np.savez(scores, distance=raw.numpy())
    return {}


def latency(path: str, times: int) -> dict[str, float]:
    """One image at a time."""
    x = images(path)[:1]
    generator = scoring(x.shape[-1])
    return time_each(times, lambda: authors_score(generator, x))


def set_threads(threads: int) -> dict[str, Any]:
    """Threads of torch for all that follows."""
    torch.set_num_threads(threads)
    return {"threads": torch.get_num_threads()}


if __name__ == "__main__":
    jobs = (set_threads, train_step, score, train_and_score, latency)
    serve({job.__name__: job for job in jobs})
