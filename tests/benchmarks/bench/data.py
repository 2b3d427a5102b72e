"""Images for the benchmark: the ELPV cells of the demo, prepared for the networks, as files, and as a plant's day."""

import os
from collections.abc import Iterator
from datetime import date
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np

from deployments.demo.plant import week_of
from ganomaly import Detector, DetectorConfig

LINE = "elpv-mono"


def cell_files(*, defective: bool) -> list[Path]:
    """Image files of good cells, or of those that all experts call defective, in the data set's order."""
    wanted = 1.0 if defective else 0.0
    return [cell.path for cell in week_of(LINE) if cell.defect_probability == wanted]


def mixed(n_images: int, defective_share: float) -> Iterator[Path]:
    """So many files, good cells over and over with defective ones spread among them."""
    good, bad = cycle(cell_files(defective=False)), cycle(cell_files(defective=True))
    for number in range(n_images):
        is_bad = int((number + 1) * defective_share) > int(number * defective_share)
        yield next(bad if is_bad else good)


def prepared_file(folder: Path, size_px: int, n_images: int) -> Path:
    """A file of prepared good cells, uint8 (N, S, S, 1), by our default recipe; made if missing."""
    path = folder / f"cells-{size_px}-{n_images}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        detector = Detector(DetectorConfig.model_validate({"recipe": {"size_px": size_px}}), device="cpu")
        files = list(islice(cycle(cell_files(defective=False)), n_images))
        pixels = [one.pixels for one in detector.prepare_all(files) if one.pixels is not None]
        np.save(path, np.array(list(islice(cycle(pixels), n_images))))
    return path


def folder_of_files(folder: Path, n_images: int, defective_share: float) -> Path:
    """A flat folder of so many image files for programs that read folders; made anew if the number differs."""
    if not folder.is_dir() or len(list(folder.iterdir())) != n_images:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for number, path in enumerate(mixed(n_images, defective_share)):
            place(path, folder / f"{number:06}.png")
    return folder


def lay_out_day(bucket: Path, line: str, day: date, n_images: int, defective_share: float, size_px: int) -> int:
    """Put a day of production into the folder that the S3 server serves, under the line's keys; gives its bytes.

    Args:
        bucket: folder of the bucket.
        line: whose key layout is ``{date}/{part}/{view}.{ext}``.
        day: production date.
        n_images: so many parts with one image each.
        defective_share: how many of them are defective.
        size_px: side of the images; 0 leaves them as they are.
    """
    size_bytes = 0
    for number, path in enumerate(mixed(n_images, defective_share)):
        source = path if size_px == 0 else shrunk(path, bucket.parent.parent / f"cells-of-{size_px}-px", size_px)
        target = bucket / "images" / line / day.isoformat() / f"cell{number:07}" / "el.png"
        place(source, target)
        size_bytes += source.stat().st_size
    return size_bytes


def shrunk(path: Path, folder: Path, size_px: int) -> Path:
    """The image with so many pixels a side; made if missing."""
    small = folder / path.name
    if not small.exists():
        folder.mkdir(parents=True, exist_ok=True)
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(small), cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA))
    return small


def place(source: Path, target: Path) -> None:
    """Put a file at another place; a link where the disk allows it, so that 100,000 images take no room."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        target.write_bytes(source.read_bytes())
