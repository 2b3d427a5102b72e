"""`ganomaly score`: judge the images of a folder with a saved detector."""

# ruff: noqa: PLC0415 - heavy modules are imported where they are needed, so that `--help` answers at once

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from ganomaly.cli.common import (
    IMAGE_SUFFIXES,
    Device,
    Model,
    UsageProblemError,
    find_images,
    ignored,
    plain_errors,
    progress,
    shown,
)
from ganomaly.spreadsheets import spreadsheet_safe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ganomaly import Detector, ImageScore

SCORE_COLUMNS = ("path", "raw_score", "normalised_score", "p_value", "verdict", "reason", "sure")
CHUNK = 64
"""Images decoded, judged and written at a time: memory stays flat however many there are."""


def score(
    model: Model,
    folder: Annotated[Path, typer.Argument(help="Folder of images, read with all folders below it, or one image.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="CSV", help="Table to write, one row per image.")],
    overlays: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for a PNG with the heat map over the image, per flagged image only."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Judge images: one row per file with path, scores, p-value, verdict (ok, flagged, unusable), reason and sure.

    A flag is sure where it lies beyond the stricter limit of calibration.sure_rate, too.

    An image that cannot be judged is a row with the verdict unusable and its reason, never an error. The exit code is
    0 also when images are flagged.
    """
    from ganomaly import Detector

    with plain_errors():
        images, others = find_images(folder)
        root = folder if folder.is_dir() else folder.parent
        _check_table(output)
        _check_overlays(overlays, folder)
        detector = Detector.load(model, device=device)
        counts: Counter[str] = Counter()
        with _replacing(output) as table, progress() as bar:
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(SCORE_COLUMNS)
            task = bar.add_task("scoring", total=len(images), figures="")
            for start in range(0, len(images), CHUNK):
                chunk = images[start : start + CHUNK]
                scores = detector.score([root / path for path in chunk])
                writer.writerows(_row(path, found) for path, found in zip(chunk, scores, strict=True))
                counts.update(found.verdict for found in scores)
                if overlays is not None:
                    _update_overlays(detector, root, chunk, scores, overlays)
                bar.update(task, advance=len(chunk), figures=f"{counts['flagged']} flagged")
        typer.echo(_score_summary(detector, counts, others, output))


def _row(path: Path, found: "ImageScore") -> tuple[object, ...]:
    sure = str(found.sure).lower()
    return spreadsheet_safe(shown(path)), found.raw, found.normalised, found.p_value, found.verdict, found.reason, sure


def _update_overlays(
    detector: "Detector", root: Path, images: Sequence[Path], scores: Sequence["ImageScore"], folder: Path
) -> None:
    """Write the overlays of flagged images; remove what an earlier run left for images that are not flagged now."""
    flagged = []
    for path, found in zip(images, scores, strict=True):
        if found.verdict == "flagged":
            flagged.append(path)
        else:
            _overlay_path(folder, path).unlink(missing_ok=True)
    prepared = list(detector.prepare_all([root / path for path in flagged]))
    for path, image in zip(flagged, prepared, strict=True):
        if image.pixels is not None:
            _write_overlay(detector, root / path, image.pixels, _overlay_path(folder, path))


def _overlay_path(folder: Path, path: Path) -> Path:
    return folder / path.with_name(f"{path.name}.png")


def _write_overlay(detector: "Detector", source: Path, pixels: "NDArray[np.uint8]", target: Path) -> None:
    import cv2

    from ganomaly.images.preparation import read_image
    from ganomaly.scoring.heatmap import draw_overlay

    image = read_image(source, detector.config.recipe)
    heat = detector.config.recipe.to_image_pixels(detector.heat_maps(pixels[None])[0], image)
    _, png = cv2.imencode(".png", draw_overlay(image, heat, detector.config.recipe.ignored(image.shape))[:, :, ::-1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(png.tobytes())


def _score_summary(detector: "Detector", counts: Counter[str], others: Counter[str], output: Path) -> str:
    verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("ok", "flagged", "unusable"))
    images = f"{counts.total()} images: {verdicts}{ignored(others)}"
    return f"{images}\n{detector.calibrated.promise}\nscores in {shown(output)}"


def _check_table(output: Path) -> None:
    if output.exists() and not output.is_file():
        raise UsageProblemError(f"{output}: is no regular file; give the name of a CSV file to write")
    if output.suffix.lower() in IMAGE_SUFFIXES:
        raise UsageProblemError(f"{output}: is named like an image; give the name of a CSV file to write")


def _check_overlays(overlays: Path | None, folder: Path) -> None:
    if overlays is None:
        return
    if overlays.exists() and not overlays.is_dir():
        raise UsageProblemError(f"{overlays}: is a file; give a folder for the overlays")
    if folder.is_dir() and overlays.resolve().is_relative_to(folder.resolve()):
        raise UsageProblemError(
            f"{overlays}: lies in {folder}, where the next run would score the overlays; give a folder outside"
        )


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """Write to a neighbour of the file that takes its name at the end: readers never see half a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            yield file
        unfinished.replace(path)
    except OSError as error:
        if error.filename is None:  # a full disk does not say of which file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        unfinished.unlink(missing_ok=True)
