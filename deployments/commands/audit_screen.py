"""What the audit commands show: text for people at any width, JSON for programs.

What it shows is imported for type checkers only: a list of runs must not wait for torch and MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from tasks.audit.lookup import FlaggedDay
    from tasks.audit.review import ReviewOutcome
    from tasks.audit.trace import Check, LineTrace, Trace, TracedImage, TracedModel
    from tasks.audit.verify import Recomputed, Verification
    from tasks.store.rows import Promotion, Review, ScoringRun, StoredFailure, StoredScore

NOT_CHECKED = "not checked"
LISTED = 20
"""Images that are named on the screen; JSON names all."""
PIPED_WIDTH = 1000
"""Columns where the output is no terminal: a key or hash that is cut in two cannot be searched for."""

_COLOURS = {
    **dict.fromkeys(("ok", "present", "matches", "whole", "found", "equal", "completed", "promoted"), "green"),
    **dict.fromkeys(
        ("flagged", "differs", "damaged", "different", "absent", "failed", "false reject", "escape", "refused"), "red"
    ),
    **dict.fromkeys(
        ("replaced", "gone", "unusable", "interrupted", "running", "waiting", "rolled_back", NOT_CHECKED), "yellow"
    ),
}


def console() -> Console:
    """The standard output; not cut into lines where it is no terminal."""
    screen = Console(highlight=False)
    return screen if screen.is_terminal else Console(highlight=False, width=PIPED_WIDTH)


def as_json(value: Any) -> str:
    """A result as JSON: ASCII, times in UTC as ISO 8601."""
    return json.dumps(value, indent=2, default=_plain_type, allow_nan=False)


def _plain_type(value: Any) -> str:
    if isinstance(value, date):  # a time is one too
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


# --- trace ----------------------------------------------------------------------------------------------------------


def show_trace(screen: Console, found: Trace) -> None:
    """Print the whole chain, line by line."""
    for line in found.lines:
        _heading(screen, f"{line.line}: {_printable(found.asked)}", _count(len(line.images), "recorded image"))
        for image in line.images:
            _block(screen, f"image {_printable(image.image.key)}", _image_rows(image))
        for model in line.models:
            _block(screen, f"model {model.name} version {model.version}", _model_rows(model))
        for run in line.runs:
            _block(screen, f"run {run.id}", _run_rows(run))
        if line.failures:
            _block(screen, "failures", [(_time(f.started_at), _failure(f, line)) for f in line.failures])


def _image_rows(traced: TracedImage) -> Iterable[tuple[str, Text | str]]:
    image = traced.image
    yield "part, view", f"{_printable(image.part)}, {_printable(image.view) or 'no view'}"
    yield "ETag", image.etag
    yield "SHA-256", image.sha256
    yield "bucket", _check(traced.in_bucket, "still holds it with this ETag")
    yield "captured", f"{_time(image.captured_at)}, production date {image.production_date}"
    yield "recorded", _time(image.recorded_at)
    size = "not decoded" if image.width_px is None else f"{image.width_px} x {image.height_px} px"
    fitness = "fit to judge" if image.usable else f"unusable: {image.reason}"
    yield "content", f"{image.size_bytes:,} bytes, {size}, {fitness}"
    for use in traced.training:
        yield "training", _training(use.model_version, use.role, use.key, image.key)
    for verdict in traced.verdicts:
        yield "verdict", _verdict(verdict)
    if not traced.verdicts:
        yield "verdict", "none"
    for review in traced.reviews:
        yield "review", _review(review)


def _training(version: int, role: str, key: str | None, own_key: str) -> str:
    if role == NOT_CHECKED:
        return f"version {version}: {NOT_CHECKED}"
    if role == "none":
        return f"version {version} was not trained on it"
    copy = "" if key == own_key else f", as the same bytes under {_printable(str(key))}"
    return f"version {version} used it to {role}{copy}"


def _verdict(verdict: StoredScore) -> Text:
    text = _word(verdict.verdict)
    if verdict.raw_score is None:
        text.append(f": {verdict.reason}")
    else:
        text.append(f", normalised {verdict.normalised_score:.4f}, raw {verdict.raw_score:.6g}")
        text.append(f", p-value {verdict.p_value:.4g}")
    text.append(f"\nversion {verdict.model_version}, calibration {verdict.calibration_id}")
    text.append(f"\n{_time(verdict.scored_at)}, run {verdict.run_id}")
    if verdict.heat_map_key:
        text.append(f"\nheat map {_printable(verdict.heat_map_key)}")
    return text


def _review(review: Review) -> str:
    note = f": {_printable(review.note)}" if review.note else ""
    return f"{review.finding}, {_printable(review.who)}, {_time(review.reviewed_at)}{note}"


def _model_rows(model: TracedModel) -> Iterable[tuple[str, Text | str]]:
    yield "in MLflow", _check(model.registered)
    yield "files", _check(model.files, "whole by their SHA-256")
    yield "recipe", model.recipe or NOT_CHECKED
    yield "calibration", f"{model.calibration_id or NOT_CHECKED}\n{model.promise or ''}".strip()
    yield "snapshot", Text.assemble(f"{model.snapshot_id or NOT_CHECKED}, manifest ", _snapshot(model))
    yield "code version", model.code_version or NOT_CHECKED
    yield "MLflow run", model.mlflow_run_id or NOT_CHECKED
    for promotion in model.promotions:
        yield "promotion", _promotion(promotion)


def _snapshot(model: TracedModel) -> Text:
    images = "" if model.snapshot_images is None else f", {model.snapshot_images} images"
    return Text.assemble(_check(model.snapshot, "hashes to this id"), images)


def _promotion(promotion: Promotion) -> str:
    before = "" if promotion.previous_version is None else f", was version {promotion.previous_version}"
    who, why = _printable(promotion.who), _printable(promotion.why)
    return f"{promotion.outcome}, @{promotion.alias}{before}, {who}, {_time(promotion.promoted_at)}: {why}"


def _run_rows(run: ScoringRun) -> Iterable[tuple[str, Text | str]]:
    message = f": {_printable(run.message)}" if run.message else ""
    yield "state", _word(run.state).append(message)
    yield "window", _window(run)
    yield "time", f"{_time(run.started_at)} to {_time(run.finished_at) if run.finished_at else '(not finished)'}"
    yield "model", f"{run.model_name} version {run.model_version}, calibration {run.calibration_id}"
    yield "code version", run.code_version
    yield "Prefect flow run", run.flow_run_id or "none recorded"
    yield "images", _counts(run)
    yield "report", _printable(run.report_key or "none")


def _failure(failure: StoredFailure, line: LineTrace) -> str:
    key = "" if len({image.image.key for image in line.images}) == 1 else f" {_printable(failure.key)}"
    etag = f", ETag {failure.etag}" if failure.etag else ""
    return f"{failure.reason}{key}, run {failure.run_id}{etag}\n{_printable(failure.detail)}"


# --- verify, runs, flagged, review ----------------------------------------------------------------------------------


def verification_facts(found: Verification) -> dict[str, Any]:
    """A verification as plain data for JSON."""
    return {
        "run": asdict(found.run),
        "seed": found.seed,
        "device": found.device,
        "tolerance": found.tolerance,
        "passed": found.passed,
        "sampled": len(found.images),
        "compared": found.compared,
        "equal": found.count("equal"),
        "different": found.count("different"),
        "vanished": found.count("vanished"),
        "changed": found.count("changed"),
        "not_fetched": found.count("not fetched"),
        "largest_relative_difference": found.largest_relative_difference,
        "images": [asdict(image) for image in found.images],
    }


def show_verification(screen: Console, found: Verification) -> None:
    """Print how a sample compares and name what does not agree or is not there any more."""
    run = found.run
    _heading(screen, f"run {run.id}", f"{run.line}, {_window(run)}, {run.model_name} version {run.model_version}")
    judged = run.scored
    rows: list[tuple[str, Text | str]] = [
        ("sample", f"{len(found.images)} of {judged} images that the run judged, seed {found.seed}, on {found.device}"),
        ("compared", str(found.compared)),
        ("equal", str(found.count("equal"))),
        ("different", str(found.count("different"))),
        ("no longer there", f"{found.count('vanished')} gone, {found.count('changed')} replaced since"),
        ("not fetched", str(found.count("not fetched"))),
        ("largest difference", f"{found.largest_relative_difference:.1e} relative, allowed {found.tolerance:.0e}"),
    ]
    _block(screen, "recomputed", rows)
    odd = sorted((image for image in found.images if image.outcome != "equal"), key=_gravity)
    if odd:
        _block(screen, "not equal", [(image.outcome, _odd(image)) for image in odd[:LISTED]])
    if len(odd) > LISTED:
        screen.print(f"... and {len(odd) - LISTED} more; --json names all\n")
    screen.print(Text(_conclusion(found), style="green" if found.passed else "red"))


def _conclusion(found: Verification) -> str:
    if found.passed:
        return "the stored scores can be reproduced"
    if different := found.count("different"):
        return f"NOT reproduced: {_count(different, 'image')} of {found.compared} compared ended otherwise"
    if missing := found.count("not fetched"):
        return f"NOT verified: {_count(missing, 'image')} could not be read from the bucket; mend that and verify again"
    return "NOT verified: none of the images is there any more as it was judged"


def _gravity(image: Recomputed) -> int:
    """What differs comes first, then what was not compared although it may be there."""
    return ("different", "not fetched").index(image.outcome) if image.outcome in ("different", "not fetched") else 2


def _odd(image: Recomputed) -> str:
    return f"{_printable(image.stored.key)}\n{_printable(image.detail)}"


def show_runs(screen: Console, line: str, runs: Sequence[ScoringRun]) -> None:
    """Print a line's runs, newest first."""
    _heading(screen, f"{line}: runs", "newest first")
    for run in runs:
        message = f"\n{_printable(run.message)}" if run.message else ""
        rows: list[tuple[str, Text | str]] = [
            ("state", _word(run.state).append(message)),
            ("window", f"{_window(run)}, version {run.model_version}, started {_time(run.started_at)}"),
            ("images", _counts(run)),
            ("report", _printable(run.report_key or "none")),
        ]
        _block(screen, run.id, rows)


def show_decisions(screen: Console, line: str, rows: Sequence[Promotion]) -> None:
    """Print what was decided about a line's models, newest first, with the checks that did not pass."""
    _heading(screen, f"{line}: decisions about models", "newest first")
    for row in rows:
        checks = json.loads(row.gate)["checks"] if row.gate else []
        before = "" if row.previous_version is None else f", champion was version {row.previous_version}"
        facts: list[tuple[str, Text | str]] = [
            ("outcome", _word(row.outcome).append(f": {_printable(row.why)}")),
            ("by", f"{_printable(row.who)}, {_time(row.promoted_at)}{before}"),
            *((check["name"], f"{check['outcome']}: {_printable(check['figure'])}") for check in checks),
        ]
        _block(screen, f"{row.model_name} version {row.version}", facts)


def flagged_facts(found: FlaggedDay) -> dict[str, Any]:
    """A day's flagged parts as plain data for JSON."""
    parts = found.parts.to_dict("records")
    return {"line": found.line, "day": found.day, "run": asdict(found.run), "parts": parts}


def show_flagged(screen: Console, found: FlaggedDay) -> None:
    """Print a day's flagged parts, worst first, and whose verdicts they are."""
    run = found.run
    count = len(found.parts)
    parts = _count(count, "flagged part") if count else "no part is flagged"
    if not count and run.state == "completed" and run.scored + run.already_scored == 0:
        parts = (
            f"nothing was judged: {_count(run.listed, 'object')} listed, {run.unusable} unusable, {run.failed} failed"
        )
    if count == found.limit:
        parts = f"the {count} worst flagged parts, --limit shows more"
    _heading(screen, f"{found.line}, {found.day}: {parts}", f"by version {run.model_version}, run {run.id}")
    if run.state != "completed":
        screen.print(Text.assemble("the run is ", _word(run.state), ": parts may be missing\n"))
    if found.parts.empty:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("part", overflow="fold")
    for name in ("normalised", "raw", "p-value"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("image", overflow="fold")
    for row in found.parts.itertuples():
        table.add_row(
            Text(_printable(row.part)),
            f"{row.normalised_score:.4f}",
            f"{row.raw_score:.6g}",
            f"{row.p_value:.4g}",
            Text(_printable(row.key)),
        )
    screen.print(table)


def show_review(screen: Console, found: ReviewOutcome) -> None:
    """Print what was recorded, on which image, and what it says about the verdict."""
    review, image = found.review, found.image
    rows: list[tuple[str, Text | str]] = [
        ("finding", _review(review)),
        ("image", f"{_printable(image.key)}\nETag {image.etag}, captured {_time(image.captured_at)}"),
        ("verdict", _verdict(found.verdict) if found.verdict else "none"),
        ("so this is", _word(found.meaning)),
    ]
    _block(screen, f"recorded: {image.line}, part {_printable(image.part)}", rows)


# --- pieces ---------------------------------------------------------------------------------------------------------


def _heading(screen: Console, title: str, detail: str) -> None:
    screen.print(Text.assemble((title, "bold"), ("  " + detail, "dim")), soft_wrap=True)
    screen.print()


def _block(screen: Console, title: str, rows: Iterable[tuple[str, Text | str]]) -> None:
    """A title and below it label and value, the value in a column of its own."""
    screen.print(Text(title, style="bold", overflow="fold"))
    rows = list(rows)
    indent = 4 + max(len(label) for label, _ in rows)
    for label, value in rows:
        text = Text(value) if isinstance(value, str) else value
        room = max(20, screen.width - indent)
        for number, line in enumerate(text.wrap(screen, room, overflow="fold")):
            line.rstrip()
            start = Text(f"  {label}" if number == 0 else "", style="dim")
            start.pad_right(indent - len(start))
            screen.print(Text.assemble(start, line), soft_wrap=True)
    screen.print()


def _check(check: Check, good: str = "") -> Text:
    text = _word(check.state, good or check.state)
    if check.detail:
        text.append(f": {_printable(check.detail)}")
    return text


def _word(word: str, shown: str = "") -> Text:
    """A state in its colour, a good one in words of its own."""
    colour = _COLOURS.get(word, "")
    return Text.assemble((shown if shown and colour == "green" else word, colour))


def _printable(text: str) -> str:
    """Text from outside without what a terminal would obey: a key may hold line breaks and escape sequences."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def _window(run: ScoringRun) -> str:
    return str(run.window_start) if run.window_start == run.window_end else f"{run.window_start} to {run.window_end}"


def _counts(run: ScoringRun) -> str:
    return (
        f"{run.listed} listed = {run.scored} scored + {run.already_scored} scored before + {run.unusable} unusable + "
        f"{run.failed} failed; {run.flagged} flagged"
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
