"""Do regions lie on the defects, how large are they beside them, and how many show on good images?

    python -m tests.benchmarks.regions FOLDER...

FOLDER has the layout of MVTec AD with masks. A detector is fitted with its defaults; every connected part of a mask is
a defect, touched if it reaches into a region's box. Sizes and centres are compared on images with one defect that one
region touches.
"""

from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from ganomaly import Detector, DetectorConfig
from ganomaly.evaluation.folders import AT_ONCE, InspectionSet, read_folder
from ganomaly.evaluation.machine import describe_machine
from ganomaly.images.preparation import read_image
from ganomaly.images.regions import Region, find_regions


class Tally:
    """What is counted over the images of a folder."""

    def __init__(self) -> None:
        self.defects = self.touched = self.beside = 0
        self.good = self.with_regions = 0
        self.area_ratios: list[float] = []
        self.centres_off: list[float] = []

    def count_good(self, regions: list[Region]) -> None:
        """Count a good image."""
        self.good += 1
        self.with_regions += bool(regions)

    def count_defective(self, regions: list[Region], mask_hw: np.ndarray) -> None:
        """Count a flagged image whose defects are drawn."""
        count, labels, boxes, centres = cv2.connectedComponentsWithStats(mask_hw.astype(np.uint8), connectivity=8)
        touching = {number: [one for one in regions if touches(one, labels == number)] for number in range(1, count)}
        self.defects += count - 1
        self.touched += sum(bool(ones) for ones in touching.values())
        self.beside += sum(all(one not in ones for ones in touching.values()) for one in regions)
        if count == 2 and len(touching[1]) == 1:
            (region,) = touching[1]
            self.area_ratios.append(region.area_px / boxes[1][cv2.CC_STAT_AREA])
            self.centres_off.append(float(np.hypot(*(np.array([region.centre_x, region.centre_y]) - centres[1] - 0.5))))

    def row(self, name: str, promised: float, side_px: int) -> str:
        """A row of the table."""
        low, middle, high = np.quantile(self.area_ratios, [0.25, 0.5, 0.75])
        return (
            f"| {name} | {self.touched} of {self.defects} | {self.beside} | {middle:.2f} ({low:.2f} .. {high:.2f}) | "
            f"{np.median(self.centres_off) / side_px:.1%} | {self.with_regions} of {self.good} | {promised:.0%} |"
        )


def touches(region: Region, mask_hw: np.ndarray) -> bool:
    """Whether a region's bounding box holds a pixel of the mask."""
    return bool(mask_hw[region.y : region.y + region.height, region.x : region.x + region.width].any())


def measure(data: InspectionSet) -> str:
    """Fit a detector and count."""
    detector, tally, side_px = (
        Detector.fit(data.train, config=DetectorConfig(input="features"), device="cpu"),
        Tally(),
        1,
    )
    for start in range(0, len(data.test), AT_ONCE):
        prepared = list(detector.prepare_all(data.test[start : start + AT_ONCE]))
        usable = np.array([one.usable for one in prepared])
        pixels = detector.stack(prepared, usable)
        judged = zip(
            np.flatnonzero(usable).tolist(), detector.score_prepared(pixels), detector.heat_maps(pixels), strict=True
        )
        for at, score, heat_hw in judged:
            image = read_image(data.test[start + at], detector.config.recipe)
            side_px = max(side_px, *image.shape[:2])
            regions = list(find_regions(detector.config.recipe.to_image_pixels(heat_hw, image)).regions)
            path = data.masks[start + at]
            if not data.defective[start + at]:
                tally.count_good(regions)
            elif path is not None and score.verdict == "flagged":
                drawn = read_image(path)
                mask = ((drawn if drawn.ndim == 2 else drawn.max(axis=2)) > 0).astype(np.uint8)
                size = (image.shape[1], image.shape[0])
                tally.count_defective(regions, cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST) > 0)
    return tally.row(data.name, detector.config.calibration.false_reject_rate, side_px)


def main(folders: Annotated[list[Path], typer.Argument(help="In the layout of MVTec AD, with masks.")]) -> None:
    """Print a table."""
    machine = describe_machine("cpu")
    typer.echo(f"{machine.cores} cores of {machine.cpu}")
    typer.echo(
        "| data | defects touched, of those on flagged images | regions beside any | area beside the mask's, median "
        "(quartiles) | centre off, of the longer side | good images with a region | promised |"
    )
    typer.echo("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for folder in folders:
        typer.echo(measure(read_folder(folder)))


if __name__ == "__main__":
    typer.run(main)
