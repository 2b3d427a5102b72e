"""Small defects: spots, scratches and displaced patches, drawn into good test images in three sizes, found or missed.

    python -m tests.benchmarks.small_defects FOLDER... [--resolution 768]

FOLDER has the layout of MVTec AD, or is "elpv-mono" or "elpv-poly". A detector is fitted with its defaults; the image's
score is the product's, and the same without the discriminator that learned to find drawn defects (others than these:
`ganomaly.images.drawn_defects`); of several fits, on few images, the mean. The first column is of the folder's own
defects, the others are of drawn ones, against the same good images: AUROC, and the share that is missed where 5 % of
these good images are flagged.
"""

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from numpy.typing import NDArray

from ganomaly import Detector, DetectorConfig
from ganomaly.evaluation.folders import AT_ONCE, InspectionSet, read_folder, solar_cells
from ganomaly.evaluation.machine import describe_machine
from ganomaly.evaluation.metrics import image_auroc
from ganomaly.images.formats.common import Pixels
from ganomaly.images.preparation import ImageSource, read_image
from ganomaly.judges.features import FeatureJudge
from ganomaly.scoring.scores import one_score

KINDS = ("dark", "bright", "scratch", "moved")
SIZES = (0.015, 0.03, 0.06)
"""Diameter of a spot, of the image's longer side; a scratch is three times as long and an eighth as wide."""
CONTRAST = 60 / 255
AT_MOST = 100
"""Good images that are drawn into."""
FLAGGED = 0.05
WAYS = ("the product's", "without the discriminator")


def draw(image: Pixels, kind: str, size: float, rng: np.random.Generator) -> Pixels:
    """A copy of an image (H, W) or (H, W, 3) with one defect in its middle half."""
    height, width = image.shape[:2]
    side = max(2.0, size * max(height, width))
    x, y = (rng.uniform(0.25, 0.75) * length for length in (width, height))
    mask_hw = np.zeros((height, width), np.float32)
    if kind == "scratch":
        angle, half = rng.uniform(0, np.pi), 1.5 * side
        dx, dy = half * np.cos(angle), half * np.sin(angle)
        cv2.line(mask_hw, (int(x - dx), int(y - dy)), (int(x + dx), int(y + dy)), 1.0, max(1, round(side / 8)))
    else:
        axes = max(1, int(side / 2)), max(1, int(side / 2 * rng.uniform(0.6, 1)))
        cv2.ellipse(mask_hw, (int(x), int(y)), axes, rng.uniform(0, 180), 0, 360, 1.0, -1)
    mask = cv2.GaussianBlur(mask_hw, (0, 0), max(0.6, side / 16))
    mask = mask[..., None] if image.ndim == 3 else mask
    white = np.iinfo(image.dtype).max
    if kind == "moved":
        far = [int(rng.choice([-1, 1]) * rng.uniform(0.15, 0.3) * length) for length in (height, width)]
        instead = np.roll(image, far, (0, 1)).astype(np.float32)
    else:
        lighter = kind == "bright" or (kind == "scratch" and rng.random() < 0.5)
        instead = image.astype(np.float32) + (CONTRAST if lighter else -CONTRAST) * white
    drawn = np.clip(image * (1 - mask) + instead * mask, 0, white)
    return drawn.astype(image.dtype)  # type: ignore[no-any-return]


def scores(detector: Detector, images: list[ImageSource]) -> dict[str, NDArray[np.float64]]:
    """Scores (N,) of images, each way; an unusable image is the most unusual."""
    assert isinstance(detector.judge, FeatureJudge)
    found = {way: np.full(len(images), np.inf) for way in WAYS}
    for start in range(0, len(images), AT_ONCE):
        prepared = list(detector.prepare_all(images[start : start + AT_ONCE]))
        usable = np.flatnonzero([one.usable for one in prepared])
        pixels = [prepared[at].pixels for at in usable]
        for first in range(0, len(pixels), 8):
            judged = detector.judge._judged(pixels[first : first + 8])
            maps = [torch.stack(list(of_fit.values())).mean(0) for of_fit in judged.maps]
            for way, drawn in zip(WAYS, (judged.drawn, [None] * len(maps)), strict=True):
                alone = [one_score(*of_fit) for of_fit in zip(maps, judged.deviations, drawn, strict=True)]
                found[way][start + usable[first : first + 8]] = torch.stack(alone).mean(0).numpy()
    return found


def measure(data: InspectionSet, resolution: int | None) -> list[str]:
    """Rows of the table for one set."""
    config = DetectorConfig.model_validate({"input": "features", "recipe": {"resolution": resolution}})
    detector = Detector.fit(data.train, config=config, device="cpu")
    own = scores(detector, list(data.test))
    good = [data.test[at] for at in np.flatnonzero(~data.defective)[:AT_MOST]]
    rng, drawn = np.random.default_rng(0), {}
    for size in SIZES:
        images = [read_image(one, detector.config.recipe) for one in good]
        drawn[size] = [scores(detector, [draw(image, kind, size, rng) for image in images]) for kind in KINDS]
    height, width = detector.config.recipe.input_px or (0, 0)
    rows = []
    for way, own_n in own.items():
        good_n = own_n[~data.defective]
        of_all = [[own_n[data.defective]], *([of_kind[way] for of_kind in drawn[size]] for size in SIZES)]
        seen = [f"{np.mean([auroc(good_n, of_kind) for of_kind in kinds]):.3f}" for kinds in of_all]
        limit = np.quantile(good_n, 1 - FLAGGED)
        missed = [f"{np.mean([of_kind <= limit for of_kind in kinds]):.0%}" for kinds in of_all]
        rows.append(f"| {data.name} | {width} x {height} | {way} | {' | '.join([*seen, *missed])} |")
    return rows


def auroc(good_n: NDArray[np.float64], defective_m: NDArray[np.float64]) -> float:
    """AUROC of good against defective images; unusable ones are beyond all others."""
    labels = np.repeat([False, True], [len(good_n), len(defective_m)])
    return image_auroc(labels, np.minimum(np.concatenate([good_n, defective_m]), np.finfo(np.float32).max))


def main(
    folders: Annotated[list[str], typer.Argument(help="Folders, or elpv-mono, elpv-poly.")],
    resolution: Annotated[int | None, typer.Option(help="Pixels of the longer side; default the detector's.")] = None,
) -> None:
    """Print the table."""
    typer.echo(f"{describe_machine('cpu').summary}\n")
    kinds = ("own", *(f"{size:.1%}" for size in SIZES))
    heads = [f"{what} {kind}" for what in ("AUROC,", "missed,") for kind in kinds]
    typer.echo(f"| data | input, px | score | {' | '.join(heads)} |\n| --- | --- | --- |{' ---: |' * len(heads)}")
    for folder in folders:
        data = solar_cells(folder, 0) if folder.startswith("elpv") else read_folder(Path(folder))
        typer.echo("\n".join(measure(data, resolution)))


if __name__ == "__main__":
    typer.run(main)
