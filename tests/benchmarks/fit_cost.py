"""What fitting and scoring cost: seconds and peak memory for so many images of such a size.

    python -m tests.benchmarks.fit_cost --images 300 --side 1000
    python -m tests.benchmarks.fit_cost --images 2000 --side 2000

Images are made here (JPEG, a turned bracket on a mottled ground, each another part) and lie in a temporary folder.
"""

import resource
import tempfile
import time
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from ganomaly import Detector, DetectorConfig
from ganomaly.evaluation.machine import describe_machine

AT_ONCE = 64


def write_image(path: Path, side: int, seed: int) -> None:
    """Write one part."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(60, 160, (24, 24, 3), np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    corner = rng.integers(side // 4, side // 3, 2)
    cv2.rectangle(image, corner.tolist(), (corner + side // 3).tolist(), (200, 180, 160), -1)
    cv2.circle(image, (corner + side // 8).tolist(), side // 20, rng.integers(0, 80, 3).tolist(), -1)
    image = cv2.add(image, rng.integers(0, 12, (side, 1, 3), np.uint8) * np.ones((1, side, 1), np.uint8))
    cv2.imwrite(str(path), image)


def peak_mb() -> float:
    """Most memory that this process has had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(
    images: Annotated[int, typer.Option(min=20)] = 300,
    side: Annotated[int, typer.Option(min=64, help="Side of the camera images, px.")] = 1000,
) -> None:
    """Print a row of a table."""
    with tempfile.TemporaryDirectory(prefix="fit-cost-") as folder:
        paths = [Path(folder) / f"part{number}.jpg" for number in range(images)]
        for number, path in enumerate(paths):
            write_image(path, side, number)
        before = peak_mb()
        started = time.perf_counter()
        config = DetectorConfig(input="features")
        config = config.fitted_to(paths)
        detector = Detector(config, device="cpu")
        prepared = list(detector.prepare_all(paths))
        for _ in detector.learn(prepared, detector.plan(prepared)):
            pass
        fitted_s, fitted_mb = time.perf_counter() - started, peak_mb()
        del prepared
        started = time.perf_counter()
        for start in range(0, images, AT_ONCE):
            detector.score(paths[start : start + AT_ONCE])
        per_s = images / (time.perf_counter() - started)
    machine = describe_machine("cpu")
    typer.echo(f"{machine.cores} cores of {machine.cpu}; {before:.0f} MB before the first image")
    typer.echo("| images | side, px | fit, s | peak memory of fit, MB | scored, images/s | peak memory, MB |")
    typer.echo("| ---: | ---: | ---: | ---: | ---: | ---: |")
    typer.echo(f"| {images:,} | {side:,} | {fitted_s:.0f} | {fitted_mb:.0f} | {per_s:.0f} | {peak_mb():.0f} |")


if __name__ == "__main__":
    typer.run(main)
