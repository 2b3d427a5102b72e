"""Workloads of the networks alone: a training step, scoring, and the latency of one image, by size."""

import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.benchmarks.bench.contest import ANOMALIB, AUTHORS, FULL, OURS, Contestant, Entry, compete
from tests.benchmarks.bench.data import cell_files, prepared_file
from tests.benchmarks.bench.plan import SCORED, SCORING_BATCH, TRAINING_BATCH, Plan
from tests.benchmarks.bench.rows import Row, ratios_of, row_of

Say = Callable[[str], None]

FILE = f"{FULL}, from file to verdict"
LATENCY_TIMES = 30
PREPARED = 256


def training(plan: Plan, cast: Mapping[str, Contestant], say: Say) -> Iterator[Row]:
    """Images per second of one training step, both players updated: 64 features, latent 100, one channel."""
    for size_px in plan.sizes_px:
        say(f"training step at {size_px} px")
        path, batch = str(prepared_file(plan.folder / "data", size_px, PREPARED)), TRAINING_BATCH.get(size_px, 8)
        arguments = {"path": path, "batch": batch, "seconds": plan.seconds}
        entries = [Entry(name, cast[name], "train_step", arguments) for name in cast]
        yield from _speeds("training step", size_px, entries, plan, f"batch {batch}")


def scoring(plan: Plan, cast: Mapping[str, Contestant], say: Say) -> Iterator[Row]:
    """Images per second of prepared images to scores.

    Ours starts from uint8 pixels and gives the paper's score, or that of both heads; the others start from tensors that
    are ready. anomalib's score is the mean square of z - z_hat.
    """
    for size_px in plan.sizes_px:
        say(f"scoring at {size_px} px")
        path, n_images = str(prepared_file(plan.folder / "data", size_px, PREPARED)), SCORED.get(size_px, 32)
        common: dict[str, Any] = {"path": path, "n_images": n_images, "seconds": plan.seconds}
        theirs = common | {"batch": SCORING_BATCH}
        entries = [Entry(OURS, cast[OURS], "score", common | {"method": "paper"})]
        entries += [Entry(name, cast[name], "score", theirs) for name in cast if name != OURS]
        entries.append(Entry(FULL, cast[OURS], "score", common | {"method": "fused"}))
        yield from _speeds("scoring, networks", size_px, entries, plan, "")


def latency(plan: Plan, cast: Mapping[str, Contestant], say: Say) -> Iterator[Row]:
    """Milliseconds from one prepared image to its score, and from the bytes of a file to the verdict."""
    size_px, times = plan.latency_px, 3 if plan.seconds < 1 else LATENCY_TIMES
    say(f"latency of one image at {size_px} px")
    path = str(prepared_file(plan.folder / "data", size_px, PREPARED))
    file = str(cell_files(defective=False)[0])
    common = {"path": path, "times": times}
    entries = [Entry(OURS, cast[OURS], "latency", common | {"method": "paper"})]
    entries += [Entry(name, cast[name], "latency", common) for name in cast if name != OURS]
    entries.append(Entry(FULL, cast[OURS], "latency", common | {"method": "fused"}))
    entries.append(Entry(FILE, cast[OURS], "latency_of_file", common | {"method": "fused", "file": file}))
    answers = compete(entries, plan.rounds, {"times": 1})
    ours = [answer["ms"] for answer in answers[OURS]]
    for entry in entries:
        values = [answer["ms"] for answer in answers[entry.name]]
        competes = entry.name in (AUTHORS, ANOMALIB)
        p95 = statistics.median(answer["p95_ms"] for answer in answers[entry.name])
        yield row_of(
            "latency of one image",
            entry.name,
            "ms",
            values,
            size_px=size_px,
            threads=entry.contestant.threads,
            ratios=ratios_of(ours, values, smaller_is_better=True) if competes else (),
            note=f"95 % within {p95:.1f} ms",
        )


def _speeds(workload: str, size_px: int, entries: list[Entry], plan: Plan, note: str) -> Iterator[Row]:
    answers = compete(entries, plan.rounds, {"seconds": 0.0})
    ours = [answer["images_per_s"] for answer in answers[OURS]]
    for entry in entries:
        values = [answer["images_per_s"] for answer in answers[entry.name]]
        yield row_of(
            workload,
            entry.name,
            "images/s",
            values,
            size_px=size_px,
            threads=entry.contestant.threads,
            cpu_ms=statistics.median(answer["cpu_ms"] for answer in answers[entry.name]),
            ratios=ratios_of(ours, values) if entry.name in (AUTHORS, ANOMALIB) else (),
            note=note,
        )
