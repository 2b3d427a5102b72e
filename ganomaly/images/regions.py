"""Where on an image it does not look normal, as regions with a place and a size.

A region is where the heat map lies beyond its own limit, which at most the promised share of good images exceeds
anywhere. A strong defect warms its surroundings, since each number of a feature map looks at many pixels: around a spot
what is at least half as hot counts. The outline is as coarse as the places of the feature map, so that a crack finer
than those makes a region wider than itself.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

LIMIT = 1.0
"""Heat without which nothing is a region."""
OF_HOTTEST = 0.5
"""Share of the heat of the hottest spot around from which a pixel belongs to a region."""


@dataclass(frozen=True)
class Region:
    """One region of an image, in pixels of the camera image.

    Attributes:
        x: left edge of the bounding box.
        y: its upper edge.
        width: its width.
        height: its height.
        centre_x: centre of its area, from the left edge of the image.
        centre_y: from the upper edge.
        area_px: square pixels.
        extent_px: longest distance between two of its pixels, both included.
        heat: of its hottest spot, 1.0 or more.
    """

    x: int
    y: int
    width: int
    height: int
    centre_x: float
    centre_y: float
    area_px: int
    extent_px: float
    heat: float


@dataclass(frozen=True)
class FoundRegions:
    """The regions of an image, and the pixels (H, W) that belong to one.

    Attributes:
        regions: the hottest first.
        inside_hw: uint8, 1 for each pixel of a region.
    """

    regions: tuple[Region, ...]
    inside_hw: NDArray[np.uint8]

    def draw(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Outline the regions on a picture (H, W, 3) RGB of the image's size, and number them."""
        contours, _ = cv2.findContours(self.inside_hw, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        width = max(1, round(max(self.inside_hw.shape) / 300))
        drawn = picture.copy()
        for colour, thickness in (((0, 0, 0), 3 * width), ((255, 255, 255), width)):
            cv2.drawContours(drawn, contours, -1, colour, thickness)
            for number, region in enumerate(self.regions, start=1):
                at = (max(0, region.x - 2 * width), max(12 * width, region.y - 3 * width))
                font = cv2.FONT_HERSHEY_SIMPLEX
                cv2.putText(drawn, str(number), at, font, 0.4 * width, colour, thickness, cv2.LINE_AA)
        return drawn


def find_regions(heat_hw: NDArray[np.float32]) -> FoundRegions:
    """The regions of a heat map (H, W) on the camera image."""
    inside_hw = _inside(heat_hw)
    _, labels, boxes, centres = cv2.connectedComponentsWithStats(inside_hw, connectivity=8)
    regions = []
    for number, (x, y, width, height, area) in enumerate(boxes.tolist()[1:], start=1):
        box = slice(y, y + height), slice(x, x + width)
        inside = labels[box] == number
        centre_x, centre_y = (float(centre) + 0.5 for centre in centres[number])  # of pixels, not of their corners
        heat = float(heat_hw[box][inside].max())
        regions.append(Region(x, y, width, height, centre_x, centre_y, area, _extent(inside), heat))
    return FoundRegions(tuple(sorted(regions, key=lambda region: -region.heat)), inside_hw)


def _inside(heat_hw: NDArray[np.float32]) -> NDArray[np.uint8]:
    """1 for each pixel (H, W) that belongs to a region."""
    inside_hw = (heat_hw >= LIMIT).astype(np.uint8)
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(inside_hw, connectivity=8)
    for number, (x, y, width, height, _) in enumerate(boxes.tolist()[1:], start=1):
        box = slice(y, y + height), slice(x, x + width)
        here = labels[box] == number
        inside_hw[box][here & (heat_hw[box] < OF_HOTTEST * heat_hw[box][here].max())] = 0
    return inside_hw


def _extent(inside: NDArray[np.bool_]) -> float:
    rows, columns = np.nonzero(inside)
    hull = cv2.convexHull(np.stack([columns, rows], axis=1).astype(np.int32))[:, 0].astype(np.float64)
    return float(np.sqrt(np.square(hull[:, None] - hull[None]).sum(-1)).max()) + 1.0
