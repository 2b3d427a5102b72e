"""A folder of images again, each turned and shifted at random: does a detector find the same defects?

    python -m tests.benchmarks.turned FOLDER OUT
    ganomaly benchmark OUT

FOLDER has the layout of MVTec AD; masks are left out. What comes into view at a border is mirrored.
"""

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer


def main(
    folder: Annotated[Path, typer.Argument(help="Images to turn.")],
    output: Annotated[Path, typer.Argument(help="Folder to write them to, as PNG.")],
    degrees: Annotated[float, typer.Option(help="Largest angle.")] = 180,
    shift: Annotated[float, typer.Option(help="Largest shift, of the longer side.")] = 0.05,
    seed: int = 0,
) -> None:
    """Turn and shift every image."""
    rng = np.random.default_rng(seed)
    paths = [path for suffix in ("*.png", "*.jpg") for path in sorted(folder.rglob(suffix))]
    for path in (path for path in paths if "ground_truth" not in path.parts):
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        height, width = image.shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-degrees, degrees), 1)
        matrix[:, 2] += rng.uniform(-shift, shift, 2) * max(height, width)
        moved = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        target = (output / path.relative_to(folder)).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), moved)


if __name__ == "__main__":
    typer.run(main)
