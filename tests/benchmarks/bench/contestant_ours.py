"""This project as a contestant: the trainer and the detector through the interfaces that flows and notebooks use."""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch

from ganomaly import Detector, DetectorConfig
from ganomaly.networks.training import Trainer, to_input
from tests.benchmarks.bench.serving import run_for, serve, time_each

HELD_OUT = 24  # the smallest number that backs a false-reject rate of 5 %, and a few more
FITTED = 48


def config_of(size_px: int, method: str) -> DetectorConfig:
    """The paper's networks at this size, our default recipe, one of our scores."""
    return DetectorConfig.model_validate({"recipe": {"size_px": size_px}, "score": {"method": method}})


@cache
def pixels(path: str) -> np.ndarray:
    """Prepared images, uint8 (N, S, S, 1)."""
    return np.load(path)


@cache
def trainer(size_px: int) -> Trainer:
    """A detector in training with its optimisers."""
    made = Detector(config_of(size_px, "paper"), device="cpu")
    return Trainer(
        made.judge.model.train(), made.config.training, torch.Generator().manual_seed(0), made.judge.precision
    )


@cache
def detector(path: str, method: str) -> Detector:
    """A calibrated detector whose networks are as they were drawn: weights do not change what a pass costs."""
    made = Detector(config_of(pixels(path).shape[1], method), device="cpu")
    made.calibrate(pixels(path)[HELD_OUT : HELD_OUT + FITTED], pixels(path)[:HELD_OUT])
    return made


def train_step(path: str, batch: int, seconds: float) -> dict[str, float]:
    """Steps on the first images of the file, from uint8 as training holds them."""
    images = pixels(path)[:batch]

    def step() -> int:
        trainer(images.shape[1]).step(to_input(images, torch.device("cpu")))
        return len(images)

    return run_for(seconds, step)


def score(path: str, n_images: int, method: str, seconds: float) -> dict[str, float]:
    """Raw scores of the first images of the file."""
    images, made = pixels(path)[:n_images], detector(path, method)

    def step() -> int:
        made.raw_scores(images)
        return len(images)

    return run_for(seconds, step)


def train_and_score(path: str, scores: str, epochs: int, batch: int, seed: int) -> dict[str, float]:
    """Train on the file's split and write the raw scores of its test images, the networks' and that of both heads."""
    with np.load(path) as images:
        settings = {"epochs": epochs, "batch_size": batch, "seed": seed}
        config = config_of(images["train"].shape[1], "fused").model_dump() | {"training": settings}
        made = Detector(DetectorConfig.model_validate(config), device="cpu")
        for _ in made.train(images["train"]):
            pass
        made.calibrate(np.concatenate([images["train"], images["fit"]]), images["calibrate"])
        found = made.raw_scores_by_method(images["test"])
    np.savez(scores, **{"distance": found["paper"], "both heads": found["fused"]})
    return {}


def latency(path: str, method: str, times: int) -> dict[str, float]:
    """One prepared image at a time."""
    image, made = pixels(path)[:1], detector(path, method)
    return time_each(times, lambda: made.raw_scores(image))


def latency_of_file(path: str, method: str, file: str, times: int) -> dict[str, float]:
    """From the bytes of an image file to its verdict."""
    data, made = Path(file).read_bytes(), detector(path, method)
    return time_each(times, lambda: made.score([data]))


def set_threads(threads: int) -> dict[str, float]:
    """Threads of torch and OpenCV for all that follows."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    return {"threads": torch.get_num_threads()}


if __name__ == "__main__":
    serve(
        {
            "set_threads": set_threads,
            "train_step": train_step,
            "score": score,
            "train_and_score": train_and_score,
            "latency": latency,
            "latency_of_file": latency_of_file,
        }
    )
