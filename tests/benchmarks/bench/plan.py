"""What one run of the benchmark measures: sizes, batches, rounds and durations."""

from dataclasses import dataclass
from pathlib import Path

TRAINING_BATCH = {32: 64, 64: 64, 128: 64, 256: 8}
"""Images per training step: 64 as in the paper, less at 256 px, where 64 take a minute."""

SCORED = {32: 256, 64: 256, 128: 64, 256: 32}
"""Images that one round of scoring repeats; a multiple of `SCORING_BATCH`."""

SCORING_BATCH = 32
"""Images per pass of the contestants that leave it to the caller: anomalib's default, and what the detector takes."""

WORKLOADS = ("training", "accuracy", "scoring", "latency", "stages", "anomalib", "night", "growth", "keys")


@dataclass(frozen=True)
class Plan:
    """One run.

    Attributes:
        folder: everything that is written lies below it.
        workloads: some of `WORKLOADS`.
        sizes_px: sides of the network's input for training and scoring.
        threads: of torch, for each a run of training and scoring; the largest serves all else.
        rounds: how often each contestant is measured.
        seconds: at least, of one measurement.
        images: of the night.
        latency_px: side of the network's input where single images are timed.
        accuracy_px: sides of the network's input where AUROC is compared.
        accuracy_epochs: of each contestant's training there.
        seeds: so many, from 0 on; each trains all contestants once there.
        engine_images: that anomalib's engine predicts.
        engine_trained: good images that it learns from; more make its memory larger and its prediction slower.
        stage_images: that each stage is measured with.
        growth: images of each night that shows how cost grows.
        growth_px: side of those images; 0 takes them as the camera made them.
        keys: that are listed and compared with the report store.
        defective_share: of a night's images.
        anomalib: Python of anomalib's environment; None leaves anomalib out.
    """

    folder: Path
    workloads: tuple[str, ...] = WORKLOADS
    sizes_px: tuple[int, ...] = (32, 64, 128, 256)
    threads: tuple[int, ...] = (1,)
    rounds: int = 5
    seconds: float = 2.0
    images: int = 5_000
    latency_px: int = 64
    accuracy_px: tuple[int, ...] = (32,)
    accuracy_epochs: int = 20
    seeds: int = 3
    engine_images: int = 300
    engine_trained: int = 40
    stage_images: int = 256
    growth: tuple[int, ...] = ()
    growth_px: int = 0
    keys: int = 1_000_000
    defective_share: float = 0.05
    anomalib: Path | None = None
