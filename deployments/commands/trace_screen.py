"""Printed result of `inspection trace`: everything behind a part's verdicts.

What it shows is imported for type checkers only: a list of runs must not wait for torch and MLflow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from deployments.commands.screen import (
    NOT_CHECKED,
    block,
    check_text,
    coloured,
    counted,
    counts_text,
    heading,
    moment,
    printable,
    review_text,
    verdict_text,
    window_text,
)

if TYPE_CHECKING:
    from tasks.audit.trace import LineTrace, Trace, TracedImage, TracedModel
    from tasks.store.rows import Promotion, ScoringRun, StoredFailure


def show_trace(screen: Console, found: Trace) -> None:
    """Print the whole chain, line by line."""
    for line in found.lines:
        heading(screen, f"{line.line}: {printable(found.asked)}", counted(len(line.images), "recorded image"))
        for image in line.images:
            block(screen, f"image {printable(image.image.key)}", _image_rows(image))
        for model in line.models:
            block(screen, f"model {model.name} version {model.version}", _model_rows(model))
        for run in line.runs:
            block(screen, f"run {run.id}", _run_rows(run))
        if line.failures:
            block(screen, "failures", [(moment(f.started_at), _failure(f, line)) for f in line.failures])


def _image_rows(traced: TracedImage) -> Iterable[tuple[str, Text | str]]:
    image = traced.image
    yield "part, view", f"{printable(image.part)}, {printable(image.view) or 'no view'}"
    yield "ETag", image.etag
    yield "SHA-256", image.sha256
    yield "bucket", check_text(traced.in_bucket, "still holds it with this ETag")
    yield "captured", f"{moment(image.captured_at)}, production date {image.production_date}"
    yield "recorded", moment(image.recorded_at)
    size = "not decoded" if image.width_px is None else f"{image.width_px} x {image.height_px} px"
    fitness = "fit to judge" if image.usable else f"unusable: {image.reason}"
    yield "content", f"{image.size_bytes:,} bytes, {size}, {fitness}"
    for use in traced.training:
        yield "training", _training(use.model_version, use.role, use.key, image.key)
    for verdict in traced.verdicts:
        yield "verdict", verdict_text(verdict)
    if not traced.verdicts:
        yield "verdict", "none"
    for review in traced.reviews:
        yield "review", review_text(review)


def _training(version: int, role: str, key: str | None, own_key: str) -> str:
    if role == NOT_CHECKED:
        return f"version {version}: {NOT_CHECKED}"
    if role == "none":
        return f"version {version} was not trained on it"
    copy = "" if key == own_key else f", as the same bytes under {printable(str(key))}"
    return f"version {version} used it to {role}{copy}"


def _model_rows(model: TracedModel) -> Iterable[tuple[str, Text | str]]:
    yield "in MLflow", check_text(model.registered)
    yield "files", check_text(model.files, "whole by their SHA-256")
    yield "recipe", model.recipe or NOT_CHECKED
    yield "calibration", f"{model.calibration_id or NOT_CHECKED}\n{model.promise or ''}".strip()
    yield "snapshot", Text.assemble(f"{model.snapshot_id or NOT_CHECKED}, manifest ", _snapshot(model))
    yield "code version", model.code_version or NOT_CHECKED
    yield "MLflow run", model.mlflow_run_id or NOT_CHECKED
    for promotion in model.promotions:
        yield "promotion", _promotion(promotion)


def _snapshot(model: TracedModel) -> Text:
    images = "" if model.snapshot_images is None else f", {model.snapshot_images} images"
    return Text.assemble(check_text(model.snapshot, "hashes to this id"), images)


def _promotion(promotion: Promotion) -> str:
    before = "" if promotion.previous_version is None else f", was version {promotion.previous_version}"
    who, why = printable(promotion.who), printable(promotion.why)
    return f"{promotion.outcome}, @{promotion.alias}{before}, {who}, {moment(promotion.promoted_at)}: {why}"


def _run_rows(run: ScoringRun) -> Iterable[tuple[str, Text | str]]:
    message = f": {printable(run.message)}" if run.message else ""
    yield "state", coloured(run.state).append(message)
    yield "window", window_text(run)
    yield (
        "time",
        f"{moment(run.started_at)} to {moment(run.finished_at) if run.finished_at else '(not finished)'}",
    )
    yield "model", f"{run.model_name} version {run.model_version}, calibration {run.calibration_id}"
    yield "code version", run.code_version
    yield "Prefect flow run", run.flow_run_id or "none recorded"
    yield "images", counts_text(run)
    yield "report", printable(run.report_key or "none")


def _failure(failure: StoredFailure, line: LineTrace) -> str:
    key = "" if len({image.image.key for image in line.images}) == 1 else f" {printable(failure.key)}"
    etag = f", ETag {failure.etag}" if failure.etag else ""
    return f"{failure.reason}{key}, run {failure.run_id}{etag}\n{printable(failure.detail)}"
