"""Quality gate and recipe as torch modules that can be traced: OpenCV's work written as sums."""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor, nn

from ganomaly.exporting.linear import Resizing, blurring, both_ways, halving, stretched
from ganomaly.images.quality import MEASURED_SIDE_PX, SATURATED, QualityGate
from ganomaly.images.recipe import Recipe

LUMINANCE = (0.299, 0.587, 0.114)
"""Of red, green and blue (ITU-R BT.601), as OpenCV has it."""


class GateGraph(nn.Module):
    """The quality gate: 0 for an image without fault, else the place of its reason in `REASONS`, from 1.

    Args:
        gate: of the detector.
        height_px: of the camera image.
        width_px: of the camera image.
        white: its highest value, 255 or 65535.
    """

    REASONS = ("underexposed", "overexposed", "blank", "blurred")

    def __init__(self, gate: QualityGate, height_px: int, width_px: int, white: int) -> None:
        super().__init__()
        scale = min(1.0, MEASURED_SIDE_PX / max(height_px, width_px))
        height, width = max(1, round(height_px * scale)), max(1, round(width_px * scale))
        self._gate, self._white = gate, white
        self._shrinks = scale < 1
        self._n_brightest = height * width - math.ceil(0.99 * height * width) + 1
        self.rows, self.columns = Resizing(height_px, height), Resizing(width_px, width)
        self.register_buffer("luminance", torch.tensor(LUMINANCE))
        halves = (halving(height), halving(width))
        matrices = {
            "half": halves,
            "fine": tuple(blurring(len(half), 0.8) for half in halves),
            "coarse": tuple(blurring(len(half), 2) for half in halves),
        }
        for name, both in matrices.items():
            for way, matrix in zip(("rows", "columns"), both, strict=True):
                self.register_buffer(f"{name}_{way}", matrix)

    def forward(self, pixels_hwc: Tensor) -> Tensor:
        """Judge camera pixels (H, W, 3) RGB in [0, white]: int64 ()."""
        grey_hw = self._grey(pixels_hwc)
        unit_hw = grey_hw / self._white
        brightest = grey_hw.flatten().topk(self._n_brightest).values
        figures = [
            brightest[-1] / self._white < self._gate.min_brightness,
            (unit_hw >= SATURATED).float().mean() > self._gate.max_saturated_fraction,
            _variance(unit_hw).sqrt() < self._gate.min_contrast,
            self._sharpness(unit_hw) < self._gate.min_sharpness,
        ]
        faults = torch.stack(figures).long()
        found = torch.stack([faults, torch.arange(1, len(self.REASONS) + 1)]).prod(0)
        none_before = (faults.cumsum(0) - faults == 0).long()
        return (found * none_before).sum()

    def _grey(self, pixels_hwc: Tensor) -> Tensor:
        """Grey values of a small copy, whole numbers as OpenCV rounds them."""
        pixels_chw = pixels_hwc.permute(2, 0, 1)
        if self._shrinks:
            pixels_chw = stretched(pixels_chw, self.rows, self.columns).round()
        return (pixels_chw * self.get_buffer("luminance")[:, None, None]).sum(0).round()

    def _sharpness(self, unit_hw: Tensor) -> Tensor:
        half = both_ways(unit_hw, self.get_buffer("half_rows"), self.get_buffer("half_columns"))
        fine = both_ways(half, self.get_buffer("fine_rows"), self.get_buffer("fine_columns"))
        coarse = both_ways(half, self.get_buffer("coarse_rows"), self.get_buffer("coarse_columns"))
        return _variance(half - fine) / (_variance(fine - coarse) + 0.3 / self._white**2)


class RecipeGraph(nn.Module):
    """From camera pixels to the frozen network's input.

    Args:
        recipe: of the detector, without alignment.
        height_px: of the camera image.
        width_px: of the camera image.
        white: its highest value, 255 or 65535.
    """

    def __init__(self, recipe: Recipe, height_px: int, width_px: int, white: int) -> None:
        super().__init__()
        self._recipe, self._white = recipe, white
        x, y, width, height = recipe.roi or (0, 0, width_px, height_px)
        self._region = slice(y, y + height), slice(x, x + width)
        rows, columns = recipe.target((height, width))
        self.rows, self.columns = Resizing(height, rows), Resizing(width, columns)
        ignored_hw = recipe.ignored_at((height_px, width_px), (height_px, width_px), (rows, columns))
        looked_at = None if ignored_hw is None else torch.from_numpy(~ignored_hw).float()
        self.register_buffer("looked_at", looked_at)

    def forward(self, pixels_hwc: Tensor) -> Tensor:
        """Camera pixels (H, W, 3) RGB in [0, white] to grey levels (1, 3, h, w), whole numbers from 0 to 255."""
        region_chw = pixels_hwc[self._region].permute(2, 0, 1)
        unit = stretched(region_chw, self.rows, self.columns) / self._white
        if self._recipe.is_partial:
            looked_at = self.get_buffer("looked_at")
            mean = (unit * looked_at).sum((1, 2), keepdim=True) / looked_at.sum()
            unit = unit * looked_at + mean * (1 - looked_at)
        if self._recipe.illumination == "local_contrast":
            clip = self._recipe.clip
            return (128 + 127 / clip * self._local_contrast(unit).clamp(-clip, clip)).round()[None]
        return (unit * 255).round()[None]

    def _local_contrast(self, unit_chw: Tensor) -> Tensor:
        side = self._recipe.window_px(unit_chw.shape[1:])
        centred = unit_chw - unit_chw.mean((1, 2), keepdim=True)
        padded = F.pad(centred[None], (side // 2,) * 4, mode="reflect")
        mean = F.avg_pool2d(padded, side, 1)[0]
        mean_square = F.avg_pool2d(padded.square(), side, 1)[0]
        deviation = (mean_square - mean.square()).clamp(min=0).sqrt()
        return (centred - mean) / (deviation + self._recipe.noise_level)


def full_range(pixels: Tensor, recipe: Recipe, white: int) -> Tensor:
    """Camera pixels over the full range of their type, see `Recipe.full_range`."""
    if white != 65535 or recipe.bits not in (10, 12, 14):
        return pixels
    return pixels.clamp(max=(1 << recipe.bits) - 1) * (1 << (16 - recipe.bits))


def _variance(x: Tensor) -> Tensor:
    return (x - x.mean()).square().mean()
