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


def find_regions(heat_hw: NDArray[np.float32]) -> list[Region]:
    """The regions of a heat map (H, W) on the camera image, the hottest first."""
    _, labels, boxes, centres = cv2.connectedComponentsWithStats(_inside(heat_hw), connectivity=8)
    regions = []
    for number, (x, y, width, height, area) in enumerate(boxes.tolist()[1:], start=1):
        box = slice(y, y + height), slice(x, x + width)
        inside = labels[box] == number
        centre_x, centre_y = (float(centre) + 0.5 for centre in centres[number])  # of pixels, not of their corners
        heat = float(heat_hw[box][inside].max())
        regions.append(Region(x, y, width, height, centre_x, centre_y, area, _extent(inside), heat))
    return sorted(regions, key=lambda region: -region.heat)


def draw_regions(picture: NDArray[np.uint8], heat_hw: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Outline the regions of a heat map (H, W) on a picture (H, W, 3) RGB of the same size, and number them."""
    contours, _ = cv2.findContours(_inside(heat_hw), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(max(heat_hw.shape) / 300))
    drawn = picture.copy()
    for colour, thickness in (((0, 0, 0), 3 * width), ((255, 255, 255), width)):
        cv2.drawContours(drawn, contours, -1, colour, thickness)
        for number, region in enumerate(find_regions(heat_hw), start=1):
            at = (max(0, region.x - 2 * width), max(12 * width, region.y - 3 * width))
            cv2.putText(drawn, str(number), at, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * width, colour, thickness, cv2.LINE_AA)
    return drawn


def _inside(heat_hw: NDArray[np.float32]) -> NDArray[np.uint8]:
    """1 for each pixel (H, W) that belongs to a region."""
    count, labels = cv2.connectedComponents((heat_hw >= LIMIT).astype(np.uint8), connectivity=8)
    hottest = np.zeros(count, np.float32)
    np.maximum.at(hottest, np.asarray(labels, np.intp).ravel(), heat_hw.ravel())
    inside: NDArray[np.bool_] = (labels > 0) & (heat_hw >= np.maximum(LIMIT, OF_HOTTEST * hottest)[labels])
    return inside.astype(np.uint8)


def _extent(inside: NDArray[np.bool_]) -> float:
    rows, columns = np.nonzero(inside)
    hull = cv2.convexHull(np.stack([columns, rows], axis=1).astype(np.int32))[:, 0].astype(np.float64)
    return float(np.sqrt(np.square(hull[:, None] - hull[None]).sum(-1)).max()) + 1.0
