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
from pydantic import BaseModel, ConfigDict, Field

from ganomaly.images.areas import Polygon

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


class Zone(BaseModel):
    """A part of the image where only hotter regions count.

    Attributes:
        name: for people.
        polygon: corners in pixels of the camera image.
        limit: heat from which a region counts whose centre lies inside.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    polygon: Polygon
    limit: float = Field(ge=1, allow_inf_nan=False)


@dataclass(frozen=True)
class RegionRules:
    """The rules by which a line's regions count. No rule moves a verdict.

    Attributes:
        min_area_px: smaller ones do not count.
        zones: where they overlap, a region has to be as hot as each of them asks.
    """

    min_area_px: float = 0.0
    zones: tuple[Zone, ...] = ()

    def counts(self, area_px: float, centre_x: float, centre_y: float, heat: float) -> bool:
        """Tell whether a region counts."""
        return area_px >= self.min_area_px and all(
            heat >= zone.limit for zone in self.zones if _lies_in(zone.polygon, centre_x, centre_y)
        )


def _lies_in(polygon: Polygon, x: float, y: float) -> bool:
    return cv2.pointPolygonTest(np.array(polygon, np.float32), (x, y), measureDist=False) >= 0


NO_RULES = RegionRules()


@dataclass(frozen=True)
class FoundRegions:
    """The regions of an image, and which of them a pixel (H, W) belongs to.

    Attributes:
        regions: the hottest first.
        number_hw: int32, from 1 for the hottest; 0 outside of all.
    """

    regions: tuple[Region, ...]
    number_hw: NDArray[np.int32]

    def draw(self, picture: NDArray[np.uint8], rules: RegionRules = NO_RULES) -> NDArray[np.uint8]:
        """Outline and number the regions that count on a picture (H, W, 3) RGB of the image's size."""
        counting = [
            number
            for number, one in enumerate(self.regions, start=1)
            if rules.counts(one.area_px, one.centre_x, one.centre_y, one.heat)
        ]
        inside_hw = np.isin(self.number_hw, counting).astype(np.uint8)
        contours, _ = cv2.findContours(inside_hw, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        width = max(1, round(max(inside_hw.shape) / 300))
        drawn = picture.copy()
        for colour, thickness in (((0, 0, 0), 3 * width), ((255, 255, 255), width)):
            cv2.drawContours(drawn, contours, -1, colour, thickness)
            for number in counting:
                region = self.regions[number - 1]
                at = (max(0, region.x - 2 * width), max(12 * width, region.y - 3 * width))
                font = cv2.FONT_HERSHEY_SIMPLEX
                cv2.putText(drawn, str(number), at, font, 0.4 * width, colour, thickness, cv2.LINE_AA)
        return drawn


def find_regions(heat_hw: NDArray[np.float32]) -> FoundRegions:
    """The regions of a heat map (H, W) on the camera image."""
    _, labels, boxes, centres = cv2.connectedComponentsWithStats(_inside(heat_hw), connectivity=8)
    found = []
    for label, (x, y, width, height, area) in enumerate(boxes.tolist()[1:], start=1):
        box = slice(y, y + height), slice(x, x + width)
        inside = labels[box] == label
        centre_x, centre_y = (float(centre) + 0.5 for centre in centres[label])  # of pixels, not of their corners
        heat = float(heat_hw[box][inside].max())
        found.append((label, Region(x, y, width, height, centre_x, centre_y, area, _extent(inside), heat)))
    found.sort(key=lambda one: -one[1].heat)
    number_of = np.zeros(len(boxes), np.int32)
    number_of[[label for label, _ in found]] = np.arange(1, len(found) + 1)
    return FoundRegions(tuple(region for _, region in found), number_of[labels])


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
