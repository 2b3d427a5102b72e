"""From a camera image to the network's input: decode, judge its quality, apply the recipe. Bad input never raises."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ganomaly.errors import ImageError
from ganomaly.images.decoding import decode_image, decode_reduced
from ganomaly.images.formats.common import Pixels
from ganomaly.images.pixels import shrunk
from ganomaly.images.quality import MEASURED_SIDE_PX, QualityFigures, QualityGate
from ganomaly.images.recipe import Recipe
from ganomaly.images.recipe_fitting import fit_recipe

ImageSource = bytes | Path | str | NDArray[np.uint8] | NDArray[np.uint16]
"""An encoded image, the path of one, or decoded pixels (H, W) or (H, W, 3) RGB."""


LOOKED_AT = 64
"""Images that suffice to decide what a recipe leaves open."""


@dataclass(frozen=True)
class Prepared:
    """One image after decoding, quality gate and recipe.

    Attributes:
        pixels: the network's input before scaling, uint8 (S, S, C); None when the image cannot be judged.
        figures: what the quality gate measured; None when the image could not be decoded.
        reason: None when the image is fit to judge, otherwise one short word such as ``"blurred"``.
        detail: the reason with the value found and what is allowed; None when fit to judge.
    """

    pixels: NDArray[np.uint8] | None
    figures: QualityFigures | None
    reason: str | None = None
    detail: str | None = None

    @property
    def usable(self) -> bool:
        """Whether the image is fit to judge."""
        return self.pixels is not None


def read_image(source: ImageSource, recipe: Recipe | None = None) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Decode an image if it is not decoded yet: (H, W) or (H, W, 3) RGB, uint8 or uint16, over the full range.

    Args:
        source: of the camera.
        recipe: how large it may be, and how many bits the camera fills; default as a recipe has it that says nothing.

    Raises:
        ImageError: if the source cannot be read or is no image of these kinds.
    """
    recipe = recipe or Recipe()
    if isinstance(source, np.ndarray):
        return recipe.full_range(_check_array(source))
    return recipe.full_range(decode_image(_read(source), max_pixels=recipe.max_pixels))


def _read(source: bytes | Path | str) -> bytes:
    if isinstance(source, bytes):
        return source
    if not isinstance(source, str | Path):
        raise ImageError(
            "unsupported",
            f"{type(source).__name__} is no image: give the bytes of an image file, its path, or a numpy array of "
            "uint8 or uint16, (H, W) or (H, W, 3) RGB; of a PIL image, numpy.asarray(image)",
        )
    try:
        return Path(source).read_bytes()
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        raise ImageError(
            "unreadable", f"{source!s} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error


def _check_array(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise ImageError(
            "unsupported",
            f"array of {pixels.dtype} {pixels.shape}: must be uint8 or uint16 of shape (H, W), (H, W, 1) or "
            "(H, W, 3) RGB",
        )
    return pixels


def prepare_image(source: ImageSource, recipe: Recipe, gate: QualityGate) -> Prepared:
    """Decode, judge and convert one image; whatever is wrong with it is returned as its reason."""
    figures: QualityFigures | None = None
    try:
        if isinstance(source, np.ndarray):
            image, full_size = _check_array(source), source.shape[:2]
        else:
            image, full_size = decode_reduced(_read(source), recipe.reduction, max_pixels=recipe.max_pixels)
        image = recipe.full_range(image)
        figures = gate.measure(image, full_size)
        fault = gate.judge(figures)
        if fault is not None:
            return Prepared(None, figures, fault.reason, f"{fault.detail}{_about_bits(fault.reason, image)}")
        return Prepared(recipe.apply(image, full_size), figures)
    except ImageError as error:
        return Prepared(None, figures, error.reason, error.detail)


def _about_bits(reason: str, image: NDArray[np.uint8] | NDArray[np.uint16]) -> str:
    if reason != "underexposed" or image.dtype != np.uint16 or image.max() >= 1 << 14:
        return ""
    return f". Its highest value is {image.max()} of 65535: if the camera fills fewer bits, set recipe.bits"


def fit_to_line(recipe: Recipe, gate: QualityGate, sources: Sequence[ImageSource]) -> tuple[Recipe, QualityGate]:
    """Recipe and quality gate with everything decided that they leave to the line's images; some are looked at.

    Args:
        recipe: of the line; one that leaves nothing open comes back as it is.
        gate: of the line; see `QualityGate.fitted_to`.
        sources: images of good parts; those that cannot be decoded are passed over. Whatever role they get later:
            where parts are aligned, the frame has seen some of the images that calibrate.

    Raises:
        TrainingDataError: if parts are to be aligned and there are too few images to learn from.
    """
    if not sources:
        return recipe, gate
    looked_at = np.linspace(0, len(sources) - 1, min(len(sources), LOOKED_AT)).astype(int)
    copies: list[tuple[Pixels, tuple[int, int]]] = []
    images = _copied(_readable((sources[at] for at in looked_at), recipe), copies)
    if recipe.is_open:
        recipe = fit_recipe(recipe, images)
    deque(images, maxlen=0)  # those that the recipe did not ask for
    # only now it is known how many bits the camera fills
    return recipe, gate.fitted_to([gate.measure(recipe.full_range(copy), size) for copy, size in copies])


def _copied(images: Iterable[Pixels], copies: list[tuple[Pixels, tuple[int, int]]]) -> Iterator[Pixels]:
    """The images as they come; small copies and sizes (H, W) are kept."""
    for image in images:
        copies.append((shrunk(image, MEASURED_SIDE_PX), (image.shape[0], image.shape[1])))
        yield image


def _readable(sources: Iterable[ImageSource], recipe: Recipe) -> Iterator[Pixels]:
    for source in sources:
        try:
            yield read_image(source, recipe)
        except ImageError:
            continue


def prepare_images(
    sources: Iterable[ImageSource], recipe: Recipe, gate: QualityGate, *, threads: int = 4
) -> Iterator[Prepared]:
    """Prepare images in their order, several at a time (OpenCV releases the interpreter's lock)."""
    with ThreadPoolExecutor(threads, thread_name_prefix="prepare") as pool:
        yield from pool.map(lambda source: prepare_image(source, recipe, gate), sources)
