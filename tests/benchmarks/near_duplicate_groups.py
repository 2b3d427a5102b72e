"""How well photos of the same part are found among images of a line, and how long that takes.

    python -m tests.benchmarks.near_duplicate_groups judge --mnist DATA --pictures FOLDER
    python -m tests.benchmarks.near_duplicate_groups scale --images 100000

`judge` photographs a third of the ELPV cells again (`tests/ganomaly/photos.py`: other exposure, 1 to 3 px shift, up to
2 degrees, a crop of up to 5 %, noise, JPEG) and counts pairs. Where nobody knows the truth (ELPV alone: wafers of one
ingot share their grains) it counts groups and saves pictures of pairs to look at. `scale` draws so many images of
64 px, half of them a second photo of another, and measures seconds and memory of one core.
"""

import resource
import time
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from ganomaly.evaluation.datasets import elpv, mnist
from ganomaly.images.preparation import read_image
from ganomaly.images.recipe import Recipe
from ganomaly.parts.near_duplicates import find_groups
from tests.ganomaly.photos import Photo, draw_bottles, photograph_again, session

app = typer.Typer(add_completion=False, no_args_is_help=True)
HEADER = "| images | N | parts | groups | largest | pairs found | pairs found that are right | CPU s |"
PAIRS_SHOWN = 32


def prepared(photos: list[Photo], recipe: Recipe) -> NDArray[np.uint8]:
    """Recipe space, uint8 (N, S, S, C)."""
    return np.array([recipe.apply(photo) for photo in photos])


def count_pairs(labels: NDArray[np.intp]) -> int:
    """Pairs of images with the same label."""
    counts = np.unique(labels, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def judge_one(name: str, pixels: NDArray[np.uint8], parts: NDArray[np.intp] | None) -> NDArray[np.intp]:
    """Find groups and print a row; without parts their number and the right ones stay open."""
    began = time.process_time()
    groups = find_groups(pixels)
    seconds = time.process_time() - began
    largest = int(np.unique(groups, return_counts=True)[1].max())
    row = [name, f"{len(groups):,}", "?", f"{groups.max() + 1:,}", str(largest), "", "", f"{seconds:.1f}"]
    if parts is not None:
        both = count_pairs(np.unique(np.stack([groups, parts]), axis=1, return_inverse=True)[1].ravel())
        row[2] = f"{parts.max() + 1:,}"
        row[5] = f"{both / count_pairs(parts):.3f}" if count_pairs(parts) else "-"
        row[6] = f"{both / count_pairs(groups):.3f}" if count_pairs(groups) else "-"
    typer.echo("| " + " | ".join(row) + " |")
    return groups


def save_pairs(path: Path, pixels: NDArray[np.uint8], groups: NDArray[np.intp]) -> None:
    """Some images of groups beside another of their group, in rows of four pairs."""
    rng = np.random.default_rng(0)
    numbers, counts = np.unique(groups, return_counts=True)
    shown = [rng.permutation(np.flatnonzero(groups == g))[:2] for g in rng.permutation(numbers[counts > 1])]
    pairs = [np.hstack([pixels[i, :, :, 0] for i in pair]) for pair in shown[:PAIRS_SHOWN]]
    pairs += [np.zeros_like(pairs[0])] * (-len(pairs) % 4)
    cv2.imwrite(str(path), np.vstack([np.hstack(pairs[i : i + 4]) for i in range(0, len(pairs), 4)]))


@app.command()
def judge(
    data: Annotated[
        Path | None, typer.Option("--mnist", help="Folder that holds MNIST/raw; left out without it.")
    ] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder for pictures of pairs.")] = None,
) -> None:
    """Groups among cells, cells photographed again, photos of a few cells, drawn bottles and digits."""
    typer.echo(f"{HEADER}\n{'|---' * 8}|")
    for kind in ("mono", "poly"):
        cells = [np.asarray(read_image(path), np.uint8) for path in elpv(kind).images]
        rng = np.random.default_rng(0)
        order = rng.permutation(len(cells))
        again = order[: len(cells) // 3]
        pixels = prepared(cells, Recipe())
        groups = judge_one(f"elpv-{kind} as it is", pixels, None)
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            save_pairs(pictures / f"elpv-{kind}.png", pixels, groups)
        for name, how in (("mildly", {"shift": (0, 1), "turn_degrees": 0.5, "crop": 0.01}), ("strongly", {})):
            photos = prepared([photograph_again(cells[i], rng, **how) for i in again], Recipe())
            judge_one(
                f"elpv-{kind} and a third again, {name} changed",
                np.concatenate([pixels, photos]),
                np.concatenate([np.arange(len(cells)), again]),
            )
        for n, each in ((10, 60), (40, 20), (100, 6)):
            photos, parts = session([cells[i] for i in order[:n]], each, 1)
            judge_one(f"elpv-{kind}, {each} photos of each of {n} cells", prepared(photos, Recipe()), parts)
    judge_one("drawn bottles", prepared(draw_bottles(2000, 0), Recipe()), np.arange(2000))
    if data is not None:
        for light in ("none", "local_contrast"):
            digits = list(mnist(data).images)
            pixels = prepared(digits, Recipe(size_px=32, illumination=light))
            for n in (6_000, 70_000):
                judge_one(f"MNIST 32 px, light {light}", pixels[:n], np.arange(n))


@app.command()
def scale(images: Annotated[int, typer.Option(min=1000)] = 100_000, seed: int = 0) -> None:
    """Time and memory for many images of 64 px."""
    rng = np.random.default_rng(seed)
    rings = draw_bottles(1, seed, size_px=64)[0].astype(np.float32)
    pixels = np.empty((images, 64, 64, 1), np.uint8)
    for i in range(0, images, 2):
        texture = cv2.GaussianBlur(rng.normal(0, 1, (64, 64)).astype(np.float32), (0, 0), 3)
        part = np.clip(rings + 10 * texture / texture.std(), 0, 255).astype(np.uint8)
        pixels[i, :, :, 0], pixels[i + 1 : i + 2, :, :, 0] = part, photograph_again(part, rng)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    typer.echo(f"{HEADER}\n{'|---' * 8}|")
    judge_one("drawn, 64 px, two photos each", pixels, np.arange(images) // 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    typer.echo(f"peak memory {(peak - before) / 1024:,.0f} MiB above the images' {pixels.nbytes / 2**20:,.0f} MiB")


if __name__ == "__main__":
    app()
