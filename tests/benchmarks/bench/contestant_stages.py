"""The stages of a night one at a time, each through the module that the flow uses, with the CPU time of each.

Its environment is that of the benchmark's plant, and torch has one thread: two that wait for each other in a loop would
make a stage look dearer than it is.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from functools import cache
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import sqlalchemy as sa
import torch

from ganomaly import Detector
from ganomaly.images.preparation import prepare_image, read_image
from ganomaly.images.regions import RegionRules
from tasks.bucket.bucket import ObjectStore
from tasks.night.overlays import overlay_and_regions
from tasks.settings import Settings
from tasks.store.rows import ImageRecord, JudgedImage, ScoreRecord
from tasks.store.runs import new_run_id
from tasks.store.store import ReportStore
from tests.benchmarks.bench.data import mixed
from tests.benchmarks.bench.plant import LINE
from tests.benchmarks.bench.serving import serve

CHUNK = 256
FETCH_THREADS = 8
PHOTO_PX = 2000
PHOTO_NOISE = 3  # grey levels of 255


def measured(n_images: int, work: Callable[[], object]) -> dict[str, float]:
    """Images per second and CPU milliseconds for an image of one piece of work."""
    started, cpu = time.perf_counter(), time.process_time()
    work()
    return {
        "images_per_s": n_images / (time.perf_counter() - started),
        "cpu_ms": 1000 * (time.process_time() - cpu) / n_images,
    }


@cache
def data(n_images: int, defective_share: float) -> list[bytes]:
    """So many image files in memory, mixed as the night is."""
    return [path.read_bytes() for path in mixed(n_images, defective_share)]


@cache
def detector(folder: str) -> Detector:
    """The night's detector."""
    return Detector.load(Path(folder), device="cpu")


@cache
def pixels(folder: str, n_images: int, defective_share: float) -> np.ndarray:
    """Prepared images, uint8 (N, S, S, C)."""
    found = [one.pixels for one in detector(folder).prepare_all(data(n_images, defective_share))]
    return np.array([one for one in found if one is not None])


@cache
def bucket() -> ObjectStore:
    """The plant's bucket."""
    settings = Settings()
    return ObjectStore(settings.bucket, settings.s3_endpoint_url)


def listing(day: str) -> dict[str, float]:
    """The day's listing, page by page."""
    found: list[object] = []
    started, cpu = time.perf_counter(), time.process_time()
    found.extend(bucket().list_objects(f"images/{LINE}/{day}/"))
    n_images = len(found)
    return {
        "images_per_s": n_images / (time.perf_counter() - started),
        "cpu_ms": 1000 * (time.process_time() - cpu) / n_images,
        "images": n_images,
    }


def fetch(day: str, n_images: int) -> dict[str, float]:
    """GETs of listed objects as scoring makes them, from several threads."""
    objects = bucket()
    chosen = list(islice(objects.list_objects(f"images/{LINE}/{day}/"), n_images))
    with ThreadPoolExecutor(FETCH_THREADS) as pool:
        return measured(
            len(chosen), lambda: list(pool.map(lambda found: objects.get_listed(found.key, found.etag), chosen))
        )


def digest(n_images: int, defective_share: float) -> dict[str, float]:
    """SHA-256 of the files."""
    files = data(n_images, defective_share)
    return measured(len(files), lambda: [hashlib.sha256(file).hexdigest() for file in files])


def decode(n_images: int, defective_share: float) -> dict[str, float]:
    """Decoding alone."""
    files = data(n_images, defective_share)
    return measured(len(files), lambda: [read_image(file) for file in files])


def prepare(folder: str, n_images: int, defective_share: float) -> dict[str, float]:
    """Decoding, quality gate and recipe."""
    config, files = detector(folder).config, data(n_images, defective_share)
    return measured(len(files), lambda: [prepare_image(file, config.recipe, config.quality) for file in files])


@cache
def photos(n_images: int) -> list[bytes]:
    """JPEG files of `PHOTO_PX` a side as an industrial camera makes them: cells, enlarged, with a sensor's noise."""
    rng, files = np.random.default_rng(0), []
    for data_of_cell in data(n_images, 0.0):
        cell = cv2.resize(read_image(data_of_cell), (PHOTO_PX, PHOTO_PX), interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(cell + rng.normal(0, PHOTO_NOISE, cell.shape), 0, 255).astype(np.uint8)
        files.append(cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return files


def prepare_photos(folder: str, n_images: int, reduced: bool) -> dict[str, float]:
    """Decoding, quality gate and recipe of large JPEG files."""
    config, files = detector(folder).config, photos(n_images)
    recipe = config.recipe.model_copy(update={"reduced_jpeg": reduced})
    return measured(len(files), lambda: [prepare_image(file, recipe, config.quality) for file in files])


def score(folder: str, n_images: int, defective_share: float) -> dict[str, float]:
    """Prepared images to verdicts, with the heat maps of those that are flagged."""
    images = pixels(folder, n_images, defective_share)
    detector(folder).score_and_map(images[:CHUNK])
    return measured(
        len(images), lambda: [detector(folder).score_and_map(images[at : at + CHUNK]) for at in _starts(images)]
    )


def overlay(folder: str, n_images: int, defective_share: float, flagged: int) -> dict[str, float]:
    """What a flagged image costs: heat map drawn over it, PUT; here the first images, whatever their verdict."""
    files, made, objects = data(n_images, defective_share)[:flagged], detector(folder), bucket()
    images = pixels(folder, n_images, defective_share)[: len(files)]
    heats = made.heat_maps(images)

    def draw() -> None:
        for number, (file, heat) in enumerate(zip(files, heats, strict=True)):
            key = f"reports/{LINE}/stages/{number}.jpg"
            picture, _ = overlay_and_regions(made, file, heat, RegionRules())
            objects.put_one_of_many(key, picture, "image/jpeg")

    return measured(len(files), draw)


def store(url: str, n_images: int) -> dict[str, float]:
    """Commit verdicts, chunk by chunk, as scoring does, into an empty report store."""
    fresh = _fresh_database(url)
    with ReportStore(fresh) as reports:
        reports.upgrade()
        day = date(2026, 3, 2)
        model = {"model_name": "m", "model_version": 1, "calibration_id": "c", "snapshot_id": "s", "code_version": "0"}
        run = reports.runs.start(new_run_id(), LINE, day, day, **model)
        rows = [_row(number, day) for number in range(n_images)]

        def write() -> None:
            for chunk in _chunks(rows):
                reports.scores.commit(run.id, chunk, [])

        return measured(n_images, write)


def set_threads(threads: int) -> dict[str, float]:
    """Threads of torch and OpenCV."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    return {"threads": torch.get_num_threads()}


def _chunks(rows: list[JudgedImage]) -> Iterator[list[JudgedImage]]:
    for at in range(0, len(rows), CHUNK):
        yield rows[at : at + CHUNK]


def _starts(images: np.ndarray) -> range:
    return range(0, len(images), CHUNK)


def _row(number: int, day: date) -> JudgedImage:
    name = f"{number:032x}"
    image = ImageRecord(
        key=f"images/{LINE}/{day}/cell{number:07}/el.png",
        etag=name,
        part=f"cell{number:07}",
        view="el",
        production_date=day,
        captured_at=datetime(2026, 3, 2, tzinfo=UTC),
        size_bytes=80_000,
        sha256=name * 2,
        usable=True,
        width_px=300,
        height_px=300,
        brightness=0.5,
        contrast=0.2,
        sharpness=1.0,
    )
    return JudgedImage(image, ScoreRecord("ok", 0.1, 0.2, 0.3))


def _fresh_database(url: str) -> str:
    """An empty database beside the one named: of PostgreSQL a new one, of SQLite a new file."""
    name = f"bench_{time.time_ns()}"
    if url.startswith("sqlite"):
        return f"{url.removesuffix('.db')}-{name}.db"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return sa.make_url(url).set(database=name).render_as_string(hide_password=False)


if __name__ == "__main__":
    jobs = (listing, fetch, digest, decode, prepare, prepare_photos, score, overlay, store, set_threads)
    serve({job.__name__: job for job in jobs})
