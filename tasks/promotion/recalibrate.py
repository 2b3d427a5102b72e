"""A version with a champion's networks and another limit: a challenger like any other."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from prefect import task

from tasks.bucket.failures import ObjectStoreError
from tasks.night.overlays import encode_jpeg
from tasks.night.pinned import PinnedModel
from tasks.promotion.alias import make_challenger
from tasks.registry.versions import ModelVersion, model_name
from tasks.systems import Systems
from tasks.training.card import CARD, version_tags


@task(name="recalibrate", persist_result=False)
def recalibrate(systems: Systems, model: PinnedModel, false_reject_rate: float) -> ModelVersion:
    """Register the model's detector with the limit that its own calibration images give for another rate.

    Raises:
        TrainingDataError: if its calibration images are too few for the rate.
    """
    line, registry, detector = systems.line.name, systems.registry, model.detector
    before = detector.config.calibration.false_reject_rate
    detector.allow(false_reject_rate)
    calibration = detector.calibrated
    manifest = registry.snapshot_manifest(model.version)
    tags = version_tags(detector, line) | {"limit_of_version": str(model.version.version)}
    with registry.training_run(line, f"{line} limit for {false_reject_rate:g}", {"line": line}) as run:
        run.log_params(
            {"limit_of_version": model.version.version, "calibration": detector.config.calibration.model_dump()}
        )
        run.log_snapshot(manifest, model.version.snapshot_id, systems.objects.uri(systems.line.images.prefix))
        run.log_metrics({"reject_limit": calibration.limit, "calibration_images": calibration.n_images})
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "detector"
            detector.save(folder)
            version = run.log_model(folder, _example(systems, manifest), tags, model_name(line))
    said = (
        f"Nothing was decided about it yet.\n\n{CARD} {line}\n## What it promises\n{calibration.promise}\n"
        "## What it is\n"
        f"Version {model.version.version} with another limit: it promised {before:.2%}. Every score is the same."
    )
    registry.describe(version, said, {})
    make_challenger(systems, version)
    return version


def _example(systems: Systems, manifest: pd.DataFrame) -> bytes:
    """An encoded image that MLflow shows as an example of what the model takes."""
    row = manifest.iloc[0]
    try:
        return systems.objects.get_listed(row["key"], row["etag"])
    except ObjectStoreError:  # gone or replaced since
        return encode_jpeg(np.zeros((64, 64), dtype=np.uint8))
