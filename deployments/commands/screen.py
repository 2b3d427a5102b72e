"""Printing of results: text for people at any width, JSON for programs; words that several commands share.

What it shows is imported for type checkers only: a list of runs must not wait for torch and MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from tasks.audit.trace import Check
    from tasks.store.rows import Review, ScoringRun, StoredScore

NOT_CHECKED = "not checked"
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


def tell(facts: Any, as_json: bool, show: Callable[[Console], None]) -> None:
    """Print a result: as JSON if that is asked for, otherwise as `show` does."""
    if as_json:
        typer.echo(to_json(facts))
    else:
        show(console())


def to_json(facts: Any) -> str:
    """JSON in ASCII; dataclasses as objects, times in UTC as ISO 8601."""
    return json.dumps(facts, indent=2, default=_plain_type, allow_nan=False)


def _plain_type(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, date):  # a time is one too
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def heading(screen: Console, title: str, detail: str) -> None:
    """Print what the following is about."""
    screen.print(Text.assemble((title, "bold"), ("  " + detail, "dim")), soft_wrap=True)
    screen.print()


def block(screen: Console, title: str, rows: Iterable[tuple[str, Text | str]]) -> None:
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


def check_text(check: Check, good: str = "") -> Text:
    """The state of a check, in its colour, with details."""
    text = coloured(check.state, good or check.state)
    if check.detail:
        text.append(f": {printable(check.detail)}")
    return text


def coloured(word: str, shown: str = "") -> Text:
    """A state in its colour, a good one in words of its own."""
    colour = _COLOURS.get(word, "")
    return Text.assemble((shown if shown and colour == "green" else word, colour))


def printable(text: str) -> str:
    """Text from outside without what a terminal would obey: a key may hold line breaks and escape sequences."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def moment(time: datetime) -> str:
    """A time, to the second."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def window_text(run: ScoringRun) -> str:
    """The production dates of a run."""
    return str(run.window_start) if run.window_start == run.window_end else f"{run.window_start} to {run.window_end}"


def counts_text(run: ScoringRun) -> str:
    """The accounting of a run's images."""
    return (
        f"{run.listed} listed = {run.scored} scored + {run.already_scored} scored before + {run.unusable} unusable + "
        f"{run.failed} failed; {run.flagged} flagged"
    )


def counted(number: int, thing: str) -> str:
    """A number of things: 1 image, 2 images."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def verdict_text(verdict: StoredScore) -> Text:
    """A verdict with its scores, model and run."""
    text = coloured(verdict.verdict)
    if verdict.raw_score is None:
        text.append(f": {verdict.reason}")
    else:
        text.append(f", normalised {verdict.normalised_score:.4f}, raw {verdict.raw_score:.6g}")
        text.append(f", p-value {verdict.p_value:.4g}")
    text.append(f"\nversion {verdict.model_version}, calibration {verdict.calibration_id}")
    text.append(f"\n{moment(verdict.scored_at)}, run {verdict.run_id}")
    if verdict.heat_map_key:
        text.append(f"\nheat map {printable(verdict.heat_map_key)}")
    return text


def review_text(review: Review) -> str:
    """A finding: by whom, when, and why."""
    note = f": {printable(review.note)}" if review.note else ""
    return f"{review.finding}, {printable(review.who)}, {moment(review.reviewed_at)}{note}"
