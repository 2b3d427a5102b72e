"""Whole detectors on a GPU, a part of `gpu_check`: trained there, and judging there and on this machine's CPU.

Both inputs, with their defaults. A detector passes if both devices give the same verdicts, but for images whose score
lies at the limit, and normalised scores within `TOLERANCE`.
"""

import tempfile
import time
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ganomaly import Detector, DetectorConfig
from ganomaly.config import weights_are_installed
from tests.ganomaly.parts_in_colour import draw

TOLERANCE = 0.03
"""Of normalised scores: bf16 against fp32."""
GROWN = 5
"""The parts that are drawn have 160 x 96 px; cameras have more."""


def detector_section(device: torch.device, *, quick: bool) -> tuple[str, bool]:
    """A table in Markdown, and whether all detectors pass."""
    inputs = ["features", "pixels"] if weights_are_installed() else ["pixels"]
    rows, passed = [], True
    for kind in inputs:
        row, same = _row(kind, device, quick=quick)
        rows.append(row)
        passed &= same
    missing = "" if "features" in inputs else "\n`features` was not measured: their weights are not installed.\n"
    return (
        "\n## Detectors, from files' pixels to verdicts\n\n"
        "| input | fit, s | device images/s | CPU images/s | largest difference | verdicts that differ | |\n"
        f"| --- | ---: | ---: | ---: | ---: | ---: | --- |\n{''.join(rows)}{missing}",
        passed,
    )


def _row(kind: str, device: torch.device, *, quick: bool) -> tuple[str, bool]:
    n_train, n_test = (120, 20) if quick else (300, 200)
    settings: dict[str, Any] = {"input": kind, "quality": {"min_sharpness": 0}}
    settings["training"] = {"epochs": 1 if quick else 10}
    if quick and kind == "pixels":
        settings |= {"recipe": {"size_px": 32}, "network": {"features": 16, "latent_size": 32}}
    grow = 1 if quick else GROWN
    train = _grown(draw(n_train, seed=1), grow)
    test = _grown([*draw(n_test, seed=2), *draw(n_test, seed=3, defect=True)], grow)
    started = time.perf_counter()
    detector = Detector.fit(train, config=DetectorConfig.model_validate(settings), device=str(device))
    fit_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        detector.save(folder)
        judges = {"device": Detector.load(folder, device=str(device)), "cpu": Detector.load(folder, device="cpu")}
    speed, normalised, verdicts = {}, {}, {}
    for name, judge in judges.items():
        judge.score(test[:16])  # compiles and reserves what it needs
        started = time.perf_counter()
        scores = judge.score(test)
        speed[name] = len(test) / (time.perf_counter() - started)
        normalised[name] = np.array([score.normalised for score in scores], dtype=np.float64)
        verdicts[name] = np.array([score.verdict for score in scores])
    apart = np.abs(normalised["device"] - normalised["cpu"])
    other = verdicts["device"] != verdicts["cpu"]
    far = other & (np.abs(normalised["cpu"] - 0.5) > TOLERANCE)
    same = bool(apart.max() <= TOLERANCE) and not far.any()
    return (
        f"| {kind} | {fit_s:.0f} | {speed['device']:.0f} | {speed['cpu']:.0f} | {apart.max():.4f} | "
        f"{int(other.sum())} of {len(test)} | {'ok' if same else 'FAILED'} |\n",
        same,
    )


def _grown(images: Sequence[NDArray[np.uint8]], times: int) -> list[NDArray[np.uint8]]:
    return [np.asarray(cv2.resize(one, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)) for one in images]
