"""`ganomaly info`: say what a saved detector promises, what it sees and how it was trained."""

# ruff: noqa: PLC0415 - heavy modules are imported where they are needed, so that `--help` answers at once

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganomaly.cli.common import Model, plain_errors

if TYPE_CHECKING:
    from ganomaly import Detector, DetectorConfig


def info(
    model: Model,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Say what a detector promises, what it sees and how it was trained."""
    from ganomaly import Detector

    with plain_errors():
        detector = Detector.load(model, device="cpu")
        facts = _facts(detector, model)
        if as_json:
            typer.echo(json.dumps(facts, indent=2))
            return
        typer.echo(facts["promise"])
        for name, value in facts.items():
            if name != "promise":
                typer.echo(f"  {name.replace('_', ' ')}: {_as_text(value)}")


def _of_pixels(config: "DetectorConfig") -> dict[str, Any]:
    """Settings that only a detector of pixels has."""
    return {
        "network": config.network.model_dump(),
        "score": config.score.method,
    }


def _facts(detector: "Detector", folder: Path) -> dict[str, Any]:
    from ganomaly.saving import CALIBRATION_FILE, DESCRIPTION_FILE, WEIGHTS_FILE

    calibration, config = detector.calibrated, detector.config
    document = json.loads((folder / DESCRIPTION_FILE).read_bytes())
    files = (DESCRIPTION_FILE, WEIGHTS_FILE, CALIBRATION_FILE)
    return {
        "promise": calibration.promise,
        "input": config.input,
        "recipe": config.recipe.summary,
        **(_of_pixels(config) if config.input == "pixels" else {"features": config.features.model_dump(mode="json")}),
        "training": config.training.model_dump(),
        "looks": detector.judge.summary,
        "calibration": {
            "images": calibration.n_images,
            "false_reject_rate": calibration.false_reject_rate,
            "guaranteed_rate": calibration.guaranteed_rate,
            "sure_rate": calibration.sure_rate,
            "sure_guaranteed_rate": None if calibration.sure is None else calibration.sure.guaranteed_rate,
            "confidence": calibration.confidence,
            "limit": calibration.limit,
            "id": calibration.id,
        },
        "snapshot_id": detector.snapshot_id,
        "format_version": document["format_version"],
        "versions": document["versions"],
        "size_bytes": sum((folder / name).stat().st_size for name in files),
    }


def _as_text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_as_text(item)}" for name, item in value.items() if item is not None)
    return f"{value:g}" if isinstance(value, float) else str(value)
