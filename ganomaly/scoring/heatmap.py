"""Where on the part it does not look normal: a map of distances, standardised for each location on normal images.

The map is the mean of the scores' maps (features), or that of the local score (pixels).
"""

from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from ganomaly.images.areas import draw_ignored
from ganomaly.scoring.calibration import Calibration

STRONGEST = 2.0
"""Heat at which the colour scale ends; 1.0 is the reject limit of the map."""
FAINTEST = 0.5
"""Heat under which the overlay leaves the image as it is."""


@dataclass(frozen=True)
class HeatMapStatistics:
    """What maps of normal images look like at each location.

    Attributes:
        mean_hw: float32 (S, S), mean of the map.
        scale_hw: float32 (S, S), its standard deviation.
        limit: standardised map that the hottest spot of a normal image exceeds at the false-reject rate.
    """

    mean_hw: NDArray[np.float32]
    scale_hw: NDArray[np.float32]
    limit: float

    @classmethod
    def fit(
        cls,
        map_nhw: NDArray[np.float32],
        held_out_nhw: NDArray[np.float32],
        false_reject_rate: float,
    ) -> Self:
        """Fit on maps of normal images (N, S, S); the limit on those of held-out normal images (M, S, S)."""
        mean, scale = map_nhw.mean(0), map_nhw.std(0)
        scale = np.maximum(scale, 0.25 * scale.mean() + 1e-6)
        hottest = ((held_out_nhw - mean) / scale).max(axis=(1, 2))
        limit = max(Calibration.fit(hottest, false_reject_rate).limit, 1e-6)
        return cls(mean, scale, limit)

    @classmethod
    def fit_limit(cls, held_out_nhw: NDArray[np.float32], false_reject_rate: float) -> Self:
        """Only the limit, on maps of held-out normal images (M, S, S) that are in units of each place already."""
        shape = held_out_nhw.shape[1:]
        hottest = held_out_nhw.max(axis=(1, 2))
        limit = max(Calibration.fit(hottest, false_reject_rate).limit, 1e-6)
        return cls(np.zeros(shape, np.float32), np.ones(shape, np.float32), limit)

    def heat(self, map_nhw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Heat maps (N, S, S) from 0 up of maps (N, S, S); 1.0 is the reject limit of the map."""
        standardised = (map_nhw - self.mean_hw) / self.scale_hw
        heat: NDArray[np.float32] = np.maximum(0, standardised / np.float32(self.limit)).astype(np.float32)
        return heat


def draw_overlay(
    image: NDArray[np.uint8] | NDArray[np.uint16],
    heat_hw: NDArray[np.float32],
    ignored_hw: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Lay heat (H, W) over an image (H, W) or (H, W, 3) RGB of the same size: uint8 (H, W, 3) RGB.

    The scale is the same for every image: clear under 0.5, yellow at 1.0 (the limit), dark red from 2.0. Pixels (H, W)
    that are not looked at get grey stripes.
    """
    image8 = (image // 257).astype(np.uint8) if image.dtype == np.uint16 else image.astype(np.uint8)
    base = cv2.cvtColor(image8, cv2.COLOR_GRAY2RGB) if image8.ndim == 2 else image8
    level = np.clip((heat_hw - FAINTEST) / (STRONGEST - FAINTEST), 0, 1)
    colours = cv2.applyColorMap((255 * (1 - level)).astype(np.uint8), cv2.COLORMAP_AUTUMN)[:, :, ::-1]
    opacity = np.where(heat_hw < FAINTEST, 0, 0.25 + 0.45 * level)[:, :, None]
    blended: NDArray[np.uint8] = (base * (1 - opacity) + colours * opacity).round().astype(np.uint8)
    return draw_ignored(blended, ignored_hw)
