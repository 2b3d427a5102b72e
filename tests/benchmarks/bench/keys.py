"""Listing a million keys and finding out which are not scored yet: seconds and memory, without an S3 server.

    python -m tests.benchmarks.bench.keys --keys 1000000

The listing is generated page by page as the bucket's module gives it, half of its keys are scored in a SQLite report
store that is filled beforehand; then the flow's own steps ``list-window`` and ``drop-scored`` run. Prints one line of
JSON. A process of its own, because the highest memory of a process never falls.
"""

import json
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import sqlalchemy as sa
import typer

from tasks.bucket.bucket import ObjectInfo
from tasks.lines.line import LineConfig
from tasks.lines.window import Window
from tasks.night.listing import list_window
from tasks.night.score import drop_scored
from tasks.store.runs import new_run_id
from tasks.store.store import ReportStore
from tasks.store.tables import image_table, score_table

LINE, DAY = "bench", date(2026, 3, 2)
TIME = datetime(2026, 3, 2, 12, tzinfo=UTC)
AT_ONCE = 10_000
VERSION, CALIBRATION = 1, "c"


@dataclass(frozen=True)
class GeneratedBucket:
    """Lists so many objects without a server."""

    keys: int

    def list_objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """All of them, in the order of their keys."""
        for number in range(self.keys):
            yield ObjectInfo(f"{prefix}cell{number:07}/el.png", f"{number:032x}", 80_000, TIME)


def fill(store: ReportStore, bucket: GeneratedBucket, prefix: str) -> int:
    """Record and score every second object; gives how many."""
    run = store.runs.start(
        new_run_id(),
        LINE,
        DAY,
        DAY,
        model_name="m",
        model_version=VERSION,
        calibration_id=CALIBRATION,
        snapshot_id="s",
        code_version="0",
    )
    engine = sa.create_engine(store.url)
    images, scores, done = [], [], 0
    for number, found in enumerate(bucket.list_objects(prefix)):
        if number % 2:
            continue
        images.append(_image(number + 1, found))
        scores.append(_score(number + 1, run.id))
        if len(images) == AT_ONCE:
            done += _insert(engine, images, scores)
            images, scores = [], []
    done += _insert(engine, images, scores)
    engine.dispose()
    return done


def main(keys: Annotated[int, typer.Option(help="How many.")] = 1_000_000) -> None:
    """Fill, list, compare, print."""
    line = LineConfig.model_validate({"name": LINE, "images": {}})
    window = Window(DAY, DAY)
    bucket = GeneratedBucket(keys)
    with tempfile.TemporaryDirectory() as folder, ReportStore(f"sqlite:///{Path(folder)}/keys.db") as store:
        store.prepare()
        scored = fill(store, bucket, line.prefix_for(DAY))
        systems: Any = SimpleNamespace(line=line, objects=bucket, store=store)
        model: Any = SimpleNamespace(version=SimpleNamespace(version=VERSION), calibration_id=CALIBRATION)
        before, started = _peak_bytes(), time.perf_counter()
        listing = list_window.fn(systems, window)
        listed = time.perf_counter()
        plan = drop_scored.fn(systems, window, listing, model)
        ended = time.perf_counter()
    assert (len(listing.images), plan.already_scored, len(plan.todo)) == (keys, scored, keys - scored)
    typer.echo(
        json.dumps(
            {
                "listing_s": listed - started,
                "difference_s": ended - listed,
                "peak_bytes": _peak_bytes(),
                "before_bytes": before,
            }
        )
    )


def _image(image_id: int, found: ObjectInfo) -> dict[str, Any]:
    part = found.key.rsplit("/", 2)[1]
    return {
        "id": image_id,
        "line": LINE,
        "key": found.key,
        "etag": found.etag,
        "part": part,
        "view": "el",
        "production_date": DAY,
        "captured_at": TIME,
        "size_bytes": found.size_bytes,
        "sha256": found.etag * 2,
        "usable": True,
        "recorded_at": TIME,
    }


def _score(image_id: int, run_id: str) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "model_version": VERSION,
        "calibration_id": CALIBRATION,
        "run_id": run_id,
        "raw_score": 0.1,
        "normalised_score": 0.2,
        "p_value": 0.3,
        "verdict": "ok",
        "scored_at": TIME,
    }


def _insert(engine: sa.Engine, images: list[dict[str, Any]], scores: list[dict[str, Any]]) -> int:
    if images:
        with engine.begin() as connection:
            connection.execute(sa.insert(image_table), images)
            connection.execute(sa.insert(score_table), scores)
    return len(images)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    typer.run(main)
