"""How a camera image becomes the network's input. The recipe is saved inside the detector: training equals scoring."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ganomaly.errors import ImageError
from ganomaly.images.alignment import into_frame, out_of_frame
from ganomaly.images.areas import Areas, fill, refuse_nothing
from ganomaly.images.formats.common import Pixels
from ganomaly.images.pixels import (
    check_pixels,
    grey_or_colour,
    local_contrast,
    mask_in_blocks,
    mask_scaled,
    resized,
    scaled_slice,
    with_channels,
)
from ganomaly.images.quality import MEASURED_SIDE_PX
from ganomaly.images.recipe_settings import FEWER_BITS, SIDE_MULTIPLE, RecipeSettings

DEFAULT_PIXELS = 384 * 384
"""Of the network's input, whatever the aspect ratio: a long part is seen as sharply as a square one."""
Mask = NDArray[np.bool_] | None


class Recipe(RecipeSettings):
    """Region of interest, channels, size and illumination, applied in this order.

    Where the networks look at pixels, the region is stretched to a square. Where they look at features, the line's
    aspect ratio is kept: its images decide once, when the detector is trained, how many pixels the input has, see
    `ganomaly.images.recipe_fitting`. In both cases the whole region is seen, and a defect's place maps back to it.
    """

    @property
    def summary(self) -> str:
        """The recipe in one line for people."""
        region = "the whole image" if self.roi is None else "region x {} y {}, {} x {} px".format(*self.roi)
        colour = "grey" if self.channels == 1 else "RGB"
        scaled = "scaled to" if self.resize else "of"
        height, width = self.input_px or (self.size_px, self.size_px)
        size = "the size of its images" if self.keep_aspect and self.input_px is None else f"{width} x {height} px"
        light = (
            f"local contrast (window {self.window:g})" if self.illumination == "local_contrast" else "light as it is"
        )
        inside = self.scored_places
        frame = (
            "" if inside is None else f", parts brought into one frame ({self.align}; {inside.mean():.0%} of it scored)"
        )
        depth = f", {self.bits} bits" if self.bits in FEWER_BITS else ""
        return f"{region}{self.areas_in_words}, {colour}{depth}, {scaled} {size}, {light}{frame}"

    def full_range(self, image: Pixels) -> Pixels:
        """The camera image with values over the full range of its type: 12 of 16 bits become 16."""
        if image.dtype != np.uint16 or self.bits not in FEWER_BITS:
            return image
        return (np.minimum(image, (1 << self.bits) - 1) << (16 - self.bits)).astype(np.uint16)

    def target(self, region: tuple[int, ...]) -> tuple[int, int]:
        """Height and width in px of the network's input for a region of this height and width."""
        if not self.keep_aspect:
            return self.size_px, self.size_px
        return self.input_px or self.scaled_down(region[0], region[1])

    def scaled_down(self, height: float, width: float) -> tuple[int, int]:
        """Height and width of the network's input: the ratio is kept but for the nearest multiples that it takes."""
        scale = math.sqrt(DEFAULT_PIXELS / (height * width))
        scale = min(scale, 1.0) if self.resolution is None else self.resolution / max(height, width)
        return _multiple(height * scale), _multiple(width * scale)

    def reduction(self, width_px: int, height_px: int) -> int:
        """How many times smaller an image of this size may be decoded: 1, 2, 4 or 8.

        Each side of the region keeps twice the pixels of the network's input and the longer side of the image twice
        those that the quality gate looks at, so that both still take means of several pixels.
        """
        if not (self.reduced_jpeg and self.resize):
            return 1
        region = (width_px, height_px) if self.roi is None else self.roi[2:]
        height, width = self.target((region[1], region[0]))
        spare = min(region[0] // (2 * width), region[1] // (2 * height))
        spare = min(spare, max(width_px, height_px) // (2 * MEASURED_SIDE_PX))
        return next((times for times in (8, 4, 2) if times <= spare), 1)

    def crop(self, image: Pixels, full_size: tuple[int, int] | None = None) -> Pixels:
        """The region of interest as a view of the image (H, W) or (H, W, 3); the image itself without a roi.

        Args:
            image: the image, perhaps decoded at a reduced size.
            full_size: height and width of the camera image, by default those of `image`.

        Raises:
            ImageError: "roi_outside" if the region is not wholly inside the image.
        """
        full_height, full_width = full_size or image.shape[:2]
        x, y, width, height = self._region((full_height, full_width))
        rows = scaled_slice(y, y + height, image.shape[0] / full_height)
        return image[rows, scaled_slice(x, x + width, image.shape[1] / full_width)]

    def apply(self, image: Pixels, full_size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Make the network's input.

        Args:
            image: uint8 or uint16, (H, W) grey or (H, W, 3) RGB, perhaps decoded at a reduced size.
            full_size: height and width of the camera image, by default those of `image`.

        Returns:
            uint8 (H, W, channels), H and W as `target` says. With illumination "none" 0 is black and 255 white (16
            bits divided by 257); with "local_contrast" 128 is the local mean, 1 and 255 are `clip` deviations off.

        Raises:
            ImageError: "roi_outside", "other_size", "all_ignored", "wrong_size" (with resize = false), "unsupported"
                (another type or shape), "misaligned" (not to be brought into the frame).
        """
        pixels = self._in_place(image, full_size)
        if self.reference is None:
            return pixels
        transform, quality = self.reference.locate(grey_or_colour(pixels))
        if (fault := self.reference.fault(transform, quality)) is not None:
            raise ImageError("misaligned", fault)
        return into_frame(pixels, transform).reshape(pixels.shape)

    def _in_place(self, image: Pixels, full_size: tuple[int, int] | None) -> NDArray[np.uint8]:
        """The network's input as the part lies in the image."""
        check_pixels(image)
        region, full_size = self.crop(image, full_size), full_size or image.shape[:2]
        target = self.target(region.shape[:2])
        return self.to_input(region, self.ignored_at(full_size, image.shape, target))

    def ignored(self, image_shape: tuple[int, ...]) -> Mask:
        """The pixels (H, W) of a camera image of this shape that are not looked at; None where all are.

        Raises:
            ImageError: "other_size" or "all_ignored".
        """
        if self.is_partial and self.camera_px not in (None, tuple(image_shape[:2])):
            assert self.camera_px is not None
            raise ImageError(
                "other_size",
                f"{image_shape[1]} x {image_shape[0]} px, but the areas that are looked at are those of images of "
                f"{self.camera_px[1]} x {self.camera_px[0]} px",
            )
        return self.areas.ignored(*image_shape[:2])

    def ignored_at(self, full_size: tuple[int, ...], decoded_size: tuple[int, ...], size: tuple[int, ...]) -> Mask:
        """The pixels (H, W) of the region of interest that are not looked at once it is brought to a size.

        Args:
            full_size: height and width of the camera image.
            decoded_size: those that it was decoded at.
            size: those that the region is brought to.

        Raises:
            ImageError: "other_size" or "all_ignored".
        """
        self.ignored(full_size)
        sizes = full_size[:2], decoded_size[:2], size[:2]
        return _ignored_at(self.areas, self.roi, *sizes) if self.is_partial else None

    def to_input(self, region: Pixels, ignored_hw: Mask) -> NDArray[np.uint8]:
        """The network's input of a region (H, W) or (H, W, 3), without its ignored pixels, a mask of any size."""
        white = np.float32(np.iinfo(region.dtype).max)
        region = with_channels(region, self.channels)
        height, width = self.target(region.shape[:2])
        if not self.resize and region.shape[:2] != (height, width):
            raise ImageError(
                "wrong_size",
                f"{region.shape[1]} x {region.shape[0]} px, but the recipe does not resize and wants "
                f"{width} x {height} px",
            )
        # float from here on: the detail of 16 bits survives until the last step, means of 8 bits are not rounded
        unit = resized(region.astype(np.float32), height, width) / white
        if (filled_hw := mask_scaled(ignored_hw, height, width)) is not None:
            refuse_nothing(filled_hw, "network's input")
            fill(unit, filled_hw)
        if self.illumination == "local_contrast":
            steps = 128 + 127 / self.clip * np.clip(
                local_contrast(unit, self.window_px(unit.shape[:2]), self.noise_level), -self.clip, self.clip
            )
        else:
            steps = unit * 255
        pixels: NDArray[np.uint8] = np.rint(steps).astype(np.uint8)
        return pixels.reshape(height, width, self.channels)

    @property
    def scored_places(self) -> NDArray[np.bool_] | None:
        """Pixels (H, W) of the network's input that always show the picture; None for all."""
        if self.reference is None:
            return None
        return self.reference.always_inside(self.input_px or (self.size_px, self.size_px))

    @property
    def filled_places(self) -> Mask:
        """Pixels (H, W) of the network's input that no image shows; None for none, or where parts are aligned."""
        if self.camera_px is None or self.reference is not None:
            return None
        region = self.camera_px if self.roi is None else (self.roi[3], self.roi[2])
        return self.ignored_at(self.camera_px, self.camera_px, self.target(region))

    def to_image_pixels(self, map_ss: NDArray[Any], image: Pixels) -> NDArray[np.float32]:
        """Put a heat map back on the camera image.

        Args:
            map_ss: map over the network's input, of its size or coarser, any real type.
            image: the camera image, which says where the part lies.

        Returns:
            float32 (H, W), the map stretched over the region of interest, 0 outside of it and in ignored areas.

        Raises:
            ImageError: "roi_outside" if the region is not wholly inside such an image, "other_size", "all_ignored".
            ValueError: if the map is not (H, W).
        """
        if map_ss.ndim != 2:
            raise ValueError(f"map of shape {map_ss.shape}: must be (H, W)")
        x, y, width, height = self._region(image.shape)
        placed = np.zeros(image.shape[:2], np.float32)
        map_hw = map_ss.astype(np.float32)
        if self.reference is not None:  # the frame is that of the network's input
            rows, columns = self.target((height, width))
            map_hw = np.asarray(cv2.resize(map_hw, (columns, rows), interpolation=cv2.INTER_LINEAR), np.float32)
            map_hw = out_of_frame(map_hw, self.reference.locate(grey_or_colour(self._in_place(image, None)))[0])
        interpolation = cv2.INTER_AREA if max(width, height) < max(map_hw.shape) else cv2.INTER_LINEAR
        placed[y : y + height, x : x + width] = cv2.resize(map_hw, (width, height), interpolation=interpolation)
        if (ignored_hw := self.ignored(image.shape)) is not None:
            placed[ignored_hw] = 0
        return placed

    def _region(self, image_shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        image_height, image_width = image_shape[:2]
        if self.roi is None:
            return 0, 0, image_width, image_height
        x, y, width, height = self.roi
        if x + width > image_width or y + height > image_height:
            raise ImageError(
                "roi_outside",
                f"roi x {x}..{x + width}, y {y}..{y + height} px does not lie inside the image of "
                f"{image_width} x {image_height} px",
            )
        return self.roi

    def window_px(self, shape: Sequence[int]) -> int:
        """Side of the window of local_contrast for an input of this height and width; odd: it has a middle."""
        return max(3, round(self.window * min(shape)) | 1)


@lru_cache(maxsize=16)
def _ignored_at(
    areas: Areas,
    roi: tuple[int, int, int, int] | None,
    full_size: tuple[int, ...],
    decoded_size: tuple[int, ...],
    size: tuple[int, ...],
) -> Mask:
    ignored_hw = areas.ignored(full_size[0], full_size[1])
    if ignored_hw is None:
        return None
    decoded_hw = mask_in_blocks(ignored_hw, *decoded_size)
    region_hw = Recipe(roi=roi).crop(decoded_hw.view(np.uint8), (full_size[0], full_size[1])).view(bool)
    refuse_nothing(region_hw, "region of interest")
    return mask_scaled(region_hw, *size)


def _multiple(side: float) -> int:
    return max(2, round(side / SIDE_MULTIPLE)) * SIDE_MULTIPLE
