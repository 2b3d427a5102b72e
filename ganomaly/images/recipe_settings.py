"""Settings of a recipe, by which a camera image becomes the network's input, and words for them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ganomaly.images.alignment import Reference
from ganomaly.images.areas import Areas, Polygon, read_mask

SIDE_MULTIPLE = 32
"""Sides of the network's input are multiples of the coarsest map's stride."""
FEWER_BITS = (10, 12, 14)


class RecipeSettings(BaseModel):
    """Region of interest, channels, size and illumination; `ganomaly.images.recipe.Recipe` applies them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_px: int = Field(64, ge=32, multiple_of=16, description="pixels: side of the network's square input")
    keep_aspect: bool = Field(
        False, description='true: the aspect ratio of the line\'s images is kept, as input = "features" does'
    )
    resolution: int | None = Field(
        None,
        ge=64,
        le=4096,
        description="features: pixels of the longer side; none: as many as give 384 x 384 pixels in all, and never "
        "more than the camera's",
    )
    input_px: tuple[int, int] | None = Field(
        None,
        description="features: height and width of the network's input; decided from the line's images and saved",
    )
    bits: Literal["auto", 10, 12, 14, 16] = Field(
        "auto",
        description="how many bits a camera fills of a file's 16, from below; auto: decided from the line's images and "
        "saved",
    )
    max_megapixels: float = Field(
        100.0,
        gt=0,
        le=10_000,
        description="larger camera images are unusable (too_large): a damaged header may claim any size",
    )
    channels: Literal[1, 3] = Field(1, description="1: grey (luminance of a colour image), 3: RGB")
    roi: tuple[int, int, int, int] | None = Field(
        None,
        description="region of interest [x, y, width, height] in pixels of the camera image; none: the whole image",
    )
    include: tuple[Polygon, ...] = Field(
        (),
        description="polygons [[x, y], ...] in pixels of the camera image: only what lies in one of them is looked at; "
        "none: everything",
    )
    ignore: tuple[Polygon, ...] = Field(
        (),
        description="polygons [[x, y], ...] in pixels of the camera image: what lies in one of them is not looked at",
    )
    mask: str | None = Field(
        None,
        description="image of the camera image's size, black where nothing is looked at: a PNG file in base64; "
        "`images.mask` and `ganomaly fit --mask` put it here",
    )
    camera_px: tuple[int, int] | None = Field(
        None,
        description="height and width of the camera images that include, ignore and mask speak of, others are unusable "
        "(other_size); decided from the line's images and saved",
    )
    reduced_jpeg: bool = Field(
        True,
        description="decode JPEG files that are much larger than needed at 1/2, 1/4 or 1/8 of their size, twice as "
        "fast at 2,000 px; false: always all pixels",
    )
    align: Literal["none", "shift", "rigid", "auto"] = Field(
        "none",
        description="shift: parts are moved into one frame; rigid: moved and turned; auto: what the line's good images "
        "call for. An image that cannot be brought into the frame is unusable (misaligned)",
    )
    reference: Reference | None = Field(None, description="the frame; learned from the line's images and saved")
    resize: bool = Field(True, description="false: images (after roi) must already be size_px x size_px")
    illumination: Literal["none", "local_contrast"] = Field(
        "local_contrast", description="local_contrast: subtract a local mean and divide by a local deviation"
    )
    window: float = Field(
        0.25, ge=0.05, le=1, description="side of the window of local_contrast as a fraction of the network's input"
    )
    clip: float = Field(
        3.0, ge=1, le=10, description="local deviations at which local_contrast reaches black and white"
    )
    noise_level: float = Field(
        0.004,
        gt=0,
        le=0.5,
        description="deviation that counts as noise, as a fraction of white: flat regions are not amplified beyond it",
    )

    @field_validator("input_px")
    @classmethod
    def _check_input_px(cls, sides: tuple[int, int] | None) -> tuple[int, int] | None:
        if sides is not None and any(side < 2 * SIDE_MULTIPLE or side % SIDE_MULTIPLE for side in sides):
            raise ValueError(f"sides must be multiples of {SIDE_MULTIPLE} from {2 * SIDE_MULTIPLE} up")
        return sides

    @field_validator("roi")
    @classmethod
    def _check_roi(cls, roi: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
        if roi is not None and (min(roi[:2]) < 0 or min(roi[2:]) < 1):
            raise ValueError("x and y must be at least 0, width and height at least 1")
        return roi

    @field_validator("mask")
    @classmethod
    def _check_mask(cls, mask: str | None) -> str | None:
        if mask is not None:
            read_mask(mask)
        return mask

    @property
    def areas(self) -> Areas:
        """The areas that are looked at."""
        return Areas(self.include, self.ignore, self.mask)

    @property
    def is_partial(self) -> bool:
        """True where some of the image is not looked at."""
        return any(self.areas)

    @property
    def areas_in_words(self) -> str:
        """The areas that are looked at, as the end of a sentence; nothing where all are."""
        said = [f" in {len(self.include)} polygon{'' if len(self.include) == 1 else 's'}"] if self.include else []
        ignored = [f"{len(self.ignore)} polygon{'' if len(self.ignore) == 1 else 's'}"] if self.ignore else []
        ignored += [] if self.mask is None else ["a mask"]
        return "".join([*said, f" without {' and '.join(ignored)}" if ignored else ""])

    @property
    def is_open(self) -> bool:
        """True where something is left to the line's images to decide."""
        no_frame = self.align != "none" and self.reference is None
        no_size = (self.keep_aspect and self.input_px is None) or (self.is_partial and self.camera_px is None)
        return self.bits == "auto" or no_size or no_frame

    @property
    def max_pixels(self) -> int:
        """The most pixels that a camera image may have."""
        return round(self.max_megapixels * 1e6)
