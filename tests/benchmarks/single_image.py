"""How long one image waits for its verdict, beside what its networks take: the detector, and its exports.

    python -m tests.benchmarks.single_image --side 256

A detector of features is fitted on parts that are drawn here. Contestants take turns, a few images
each, so that what else runs on the machine meets all of them; a ratio is that of two medians.
"""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Annotated

import cv2
import numpy as np
import torch
import typer

from ganomaly import Detector, DetectorConfig
from ganomaly.evaluation.machine import describe_machine
from ganomaly.exporting.package import FORMATS, Run, export_detector, runtime_of
from tests.benchmarks.fit_cost import write_image

FITTED = 240
"""Images to learn from: enough to hold some out for the limit, so that the scores are fitted once."""
TURN, WARM_UP = 20, 5
NETWORKS = "networks and scores, of a prepared image"


@cache
def loaded(folder: Path) -> Run:
    """An export as its program runs it."""
    return runtime_of(folder)


def time_each(judge: Callable[[Path], object], paths: list[Path]) -> list[float]:
    """Milliseconds of each image but the first few."""
    taken = []
    for path in paths:
        started = time.perf_counter()
        judge(path)
        taken.append(1000 * (time.perf_counter() - started))
    return taken[WARM_UP:]


def time_export(folder: Path, paths: list[Path]) -> list[float]:
    """Milliseconds that an export takes for each decoded image; in a process of its own, as at a camera."""
    decoded = {path: cv2.imread(str(path))[:, :, ::-1].astype(np.float32) for path in paths}
    return time_each(lambda path: loaded(folder)(decoded[path]), paths)


def main(
    side: Annotated[int, typer.Option(min=64, help="Side of the camera images, px.")] = 256,
    images: Annotated[int, typer.Option(min=20, help="Images that are judged, each alone.")] = 100,
) -> None:
    """Print a table of milliseconds."""
    with tempfile.TemporaryDirectory(prefix="single-image-") as folder:
        paths = [Path(folder) / f"part{number}.png" for number in range(FITTED + images)]
        for number, path in enumerate(paths):
            write_image(path, side, number)
        config = DetectorConfig.model_validate({"input": "features", "recipe": {"align": "none"}})
        detector = Detector.fit(paths[:FITTED], config=config, device="cpu")
        judge, judged = detector.judge, paths[FITTED:]
        encoded = {path: path.read_bytes() for path in judged}
        prepared = {path: detector.prepare(path).pixels for path in judged}
        timed: dict[str, Callable[[list[Path]], list[float]]] = {
            NETWORKS: partial(time_each, lambda path: judge.raw_scores([prepared[path]])),
            "detector, from an encoded image to the verdict": partial(
                time_each, lambda path: detector.score([encoded[path]])
            ),
        }
        with ExitStack() as processes:
            for kind in FORMATS:
                export_detector(detector, judged, Path(folder) / kind, kind)
                own = processes.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
                timed[f"export to {kind}, of a decoded image"] = partial(
                    lambda own, kind, some: own.submit(time_export, Path(folder) / kind, some).result(), own, kind
                )
            taken: dict[str, list[float]] = {name: [] for name in timed}
            for start in range(0, images, TURN):
                for name, of_some in timed.items():
                    taken[name] += of_some(judged[:WARM_UP] + judged[start : start + TURN])
    machine = describe_machine("cpu")
    typer.echo(f"{machine.cores} cores of {machine.cpu}, {torch.get_num_threads()} threads, images of {side} px")
    typer.echo("| one image alone | ms, median | 95 % | of the networks' time |")
    typer.echo("| --- | ---: | ---: | ---: |")
    networks = median(taken[NETWORKS])
    for name, each in taken.items():
        p95 = float(np.quantile(each, 0.95))
        typer.echo(f"| {name} | {median(each):.1f} | {p95:.1f} | {median(each) / networks:.2f} |")


if __name__ == "__main__":
    typer.run(main)
