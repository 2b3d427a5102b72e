"""Printed results of `inspection verify`, `runs`, `decisions`, `flagged`, `review` and `golden list`.

What it shows is imported for type checkers only: a list of runs must not wait for torch and MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deployments.commands.screen import (
    block,
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
    from tasks.audit.lookup import FlaggedDay
    from tasks.audit.review import ReviewOutcome
    from tasks.audit.verify import Recomputed, Verification
    from tasks.golden.golden_set import GoldenImage
    from tasks.store.rows import Promotion, ScoringRun

LISTED = 20
"""Images that are named on the screen; JSON names all."""


def verification_facts(found: Verification) -> dict[str, Any]:
    """A verification as plain data for JSON."""
    return {
        "run": found.run,
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
        "images": found.images,
    }


def show_verification(screen: Console, found: Verification) -> None:
    """Print how a sample compares and name what does not agree or is not there any more."""
    run = found.run
    heading(screen, f"run {run.id}", f"{run.line}, {window_text(run)}, {run.model_name} version {run.model_version}")
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
    block(screen, "recomputed", rows)
    odd = sorted((image for image in found.images if image.outcome != "equal"), key=_gravity)
    if odd:
        block(screen, "not equal", [(image.outcome, _odd(image)) for image in odd[:LISTED]])
    if len(odd) > LISTED:
        screen.print(f"... and {len(odd) - LISTED} more; --json names all\n")
    screen.print(Text(_conclusion(found), style="green" if found.passed else "red"))


def _conclusion(found: Verification) -> str:
    if found.passed:
        return "the stored scores can be reproduced"
    if different := found.count("different"):
        return f"NOT reproduced: {counted(different, 'image')} of {found.compared} compared ended otherwise"
    if missing := found.count("not fetched"):
        return (
            f"NOT verified: {counted(missing, 'image')} could not be read from the bucket; mend that and verify again"
        )
    return "NOT verified: none of the images is there any more as it was judged"


def _gravity(image: Recomputed) -> int:
    """What differs comes first, then what was not compared although it may be there."""
    return ("different", "not fetched").index(image.outcome) if image.outcome in ("different", "not fetched") else 2


def _odd(image: Recomputed) -> str:
    return f"{printable(image.stored.key)}\n{printable(image.detail)}"


def show_runs(screen: Console, line: str, runs: Sequence[ScoringRun]) -> None:
    """Print a line's runs, newest first."""
    heading(screen, f"{line}: runs", "newest first")
    for run in runs:
        message = f"\n{printable(run.message)}" if run.message else ""
        rows: list[tuple[str, Text | str]] = [
            ("state", coloured(run.state).append(message)),
            ("window", f"{window_text(run)}, version {run.model_version}, started {moment(run.started_at)}"),
            ("images", counts_text(run)),
            ("report", printable(run.report_key or "none")),
        ]
        block(screen, run.id, rows)


def show_decisions(screen: Console, line: str, rows: Sequence[Promotion]) -> None:
    """Print what was decided about a line's models, newest first, with the checks that did not pass."""
    heading(screen, f"{line}: decisions about models", "newest first")
    for row in rows:
        checks = json.loads(row.gate)["checks"] if row.gate else []
        before = "" if row.previous_version is None else f", champion was version {row.previous_version}"
        facts: list[tuple[str, Text | str]] = [
            ("outcome", coloured(row.outcome).append(f": {printable(row.why)}")),
            ("by", f"{printable(row.who)}, {moment(row.promoted_at)}{before}"),
            *((check["name"], f"{check['outcome']}: {printable(check['figure'])}") for check in checks),
        ]
        block(screen, f"{row.model_name} version {row.version}", facts)


def flagged_facts(found: FlaggedDay) -> dict[str, Any]:
    """A day's flagged parts as plain data for JSON."""
    parts = found.parts.to_dict("records")
    return {"line": found.line, "day": found.day, "run": found.run, "parts": parts}


def show_flagged(screen: Console, found: FlaggedDay) -> None:
    """Print a day's flagged parts, worst first, and whose verdicts they are."""
    run = found.run
    count = len(found.parts)
    parts = counted(count, "flagged part") if count else "no part is flagged"
    if not count and run.state == "completed" and run.scored + run.already_scored == 0:
        parts = (
            f"nothing was judged: {counted(run.listed, 'object')} listed, {run.unusable} unusable, {run.failed} failed"
        )
    if count == found.limit:
        parts = f"the {count} worst flagged parts, --limit shows more"
    heading(screen, f"{found.line}, {found.day}: {parts}", f"by version {run.model_version}, run {run.id}")
    if run.state != "completed":
        screen.print(Text.assemble("the run is ", coloured(run.state), ": parts may be missing\n"))
    if found.parts.empty:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("part", overflow="fold")
    for name in ("normalised", "raw", "p-value"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("image", overflow="fold")
    for row in found.parts.itertuples():
        table.add_row(
            Text(printable(row.part)),
            f"{row.normalised_score:.4f}",
            f"{row.raw_score:.6g}",
            f"{row.p_value:.4g}",
            Text(printable(row.key)),
        )
    screen.print(table)


def show_review(screen: Console, found: ReviewOutcome) -> None:
    """Print what was recorded, on which image, and what it says about the verdict."""
    review, image = found.review, found.image
    rows: list[tuple[str, Text | str]] = [
        ("finding", review_text(review)),
        ("image", f"{printable(image.key)}\nETag {image.etag}, captured {moment(image.captured_at)}"),
        ("verdict", verdict_text(found.verdict) if found.verdict else "none"),
        ("so this is", coloured(found.meaning)),
    ]
    block(screen, f"recorded: {image.line}, part {printable(image.part)}", rows)


def show_golden_images(screen: Console, line: str, images: Sequence[GoldenImage]) -> None:
    """Print a line's golden images."""
    for image in images:
        origin = f", from {printable(image.source)} by {printable(image.who)}" if image.source else ""
        text = f"{printable(image.image)}: {image.kind}, part {printable(image.part)}{origin}"
        screen.print(Text(text), soft_wrap=True)
    if not images:
        text = f"{line}: no golden set; `inspection golden add {line} PART` begins one with a reviewed part"
        screen.print(Text(text), soft_wrap=True)
