"""A week of a solar-cell plant, played into the bucket from the images of the PyPI package `elpv-dataset`.

2,624 electroluminescence images of real cells (Buerhop-Lutz et al. 2018; Deitsch et al. 2019, 2021; CC BY-NC-SA 4.0),
each with the probability of a defect that experts gave it. The cells are dealt out over seven days in the order of the
data set, in which cells of one solar module stand together, so that every day makes cells of every module; the last day
gets a larger share, so that its rates mean something. The plant's own list of normal images names cells of the first
six days with probability 0: nothing else is ever trained on. A few frames of a broken camera are added to the last day.
"""

import csv
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np

from tasks.bucket.bucket import ObjectStore
from tasks.errors import OperatingError

FIRST_DAY = date(2026, 3, 2)
LAST_DAY = FIRST_DAY + timedelta(days=6)
LAST_DAY_SHARE = 0.28
LINES = {"elpv-mono": "mono", "elpv-poly": "poly"}
UPLOAD_THREADS = 8


class DemoDataError(OperatingError):
    """The demo's images are not installed."""


@dataclass(frozen=True)
class Cell:
    """One solar cell of the plant's week.

    Attributes:
        line: the line that made it.
        part: its name, from the data set's file name.
        day: its production date.
        defect_probability: what the experts say: 0, 1/3, 2/3 or 1.
        path: the image in the installed package.
    """

    line: str
    part: str
    day: date
    defect_probability: float
    path: Path

    @property
    def key(self) -> str:
        """The image's key in the bucket."""
        return image_key(self.line, self.day, self.part)


def image_key(line: str, day: date, part: str) -> str:
    """Key of a part's only view in the bucket."""
    return f"images/{line}/{day}/{part}/el.png"


def normal_list_key(line: str) -> str:
    """Key of the plant's list of images of cells that are known to be good."""
    return f"normal/{line}.csv"


def week_of(line: str) -> list[Cell]:
    """All cells of a line with their production dates; the same on every machine.

    Raises:
        DemoDataError: if the package `elpv-dataset` is not installed.
    """
    folder = _dataset_folder()
    rows = [row.split() for row in (folder / "labels.csv").read_text(encoding="utf-8").splitlines() if row.strip()]
    chosen = [(folder / name, float(probability)) for name, probability, kind in rows if kind == LINES[line]]
    cells: list[Cell] = []
    for probability in sorted({probability for _, probability in chosen}):
        paths = sorted(path for path, p in chosen if p == probability)
        for place, path in enumerate(paths):
            cells.append(Cell(line, path.stem, _day_of(place), probability, path))
    return sorted(cells, key=lambda cell: cell.key)


def _day_of(place: int) -> date:
    """The last day for its share of places, evenly spread; the first six days in turn for the others."""
    on_last_day = int(place * LAST_DAY_SHARE)
    if int((place + 1) * LAST_DAY_SHARE) > on_last_day:
        return LAST_DAY
    return FIRST_DAY + timedelta(days=(place - on_last_day) % 6)


def play_week(objects: ObjectStore, line: str, advance: Callable[[int, int], None]) -> int:
    """Put what is missing of a line's week into the bucket; gives the number of objects written.

    Args:
        objects: the bucket.
        line: ``elpv-mono`` or ``elpv-poly``.
        advance: called with objects done and objects in all.
    """
    cells = week_of(line)
    present = {found.key for found in objects.list_objects(f"images/{line}/")}
    missing = [(cell.key, cell.path) for cell in cells if cell.key not in present]
    faults = [(key, data) for key, data in broken_camera_frames(line, cells) if key not in present]
    with ThreadPoolExecutor(UPLOAD_THREADS) as pool:
        writes = pool.map(lambda item: objects.put(item[0], item[1].read_bytes(), "image/png"), missing)
        for done, _ in enumerate(writes, start=1):
            advance(done, len(missing))
    for key, data in faults:
        objects.put(key, data, "image/png")
    if not objects.exists(normal_list_key(line)):
        objects.put(normal_list_key(line), normal_list(cells), "text/csv")
    return len(missing) + len(faults)


def normal_list(cells: list[Cell]) -> bytes:
    """The CSV that names the images of good cells of the first six days."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["key"])
    writer.writerows([cell.key] for cell in cells if cell.defect_probability == 0 and cell.day < LAST_DAY)
    return text.getvalue().encode()


def put_golden_set(objects: ObjectStore, line: str) -> int:
    """Make the last day's cells on which the experts agree the line's golden set; gives their number."""
    cells = [cell for cell in week_of(line) if cell.day == LAST_DAY and cell.defect_probability in (0, 1)]
    rows = [f"{cell.part}.png,{'good' if cell.defect_probability == 0 else 'defect'},{cell.part}" for cell in cells]
    with ThreadPoolExecutor(UPLOAD_THREADS) as pool:
        list(
            pool.map(
                lambda cell: objects.put(f"golden/{line}/{cell.part}.png", cell.path.read_bytes(), "image/png"), cells
            )
        )
    objects.put(f"golden/{line}/labels.csv", "\n".join(["image,kind,part", *rows]).encode(), "text/csv")
    return len(cells)


def broken_camera_frames(line: str, cells: list[Cell]) -> Iterator[tuple[str, bytes]]:
    """Frames of the last day that nobody can judge: cut off, black, out of focus, and no image at all."""
    good = next(cell for cell in cells if cell.day == LAST_DAY and cell.defect_probability == 0).path.read_bytes()
    image = cv2.imdecode(np.frombuffer(good, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    frames = {
        "frame9001": good[: len(good) // 2],
        "frame9002": _png(np.zeros_like(image)),
        "frame9003": _png(cv2.GaussianBlur(image, (0, 0), 8)),
        "frame9004": b"<html><body>502 Bad Gateway</body></html>",
    }
    for part, data in frames.items():
        yield image_key(line, LAST_DAY, part), data


def _png(image: np.ndarray) -> bytes:
    ok, encoded = cv2.imencode(".png", image)
    assert ok
    return encoded.tobytes()


def _dataset_folder() -> Path:
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise DemoDataError("the package elpv-dataset is not installed: pip install --editable '.[demo]'")
    return Path(spec.origin).parent / "data"
