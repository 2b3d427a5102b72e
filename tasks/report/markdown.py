"""The night in one screen of markdown, for the Prefect UI."""

import re
import string
from collections.abc import Iterator
from typing import Any

from tasks.report.report import FlaggedPart, NightReport, flagged_parts
from tasks.report.words import accounting_problem, counted, headline, number, promise, text, window_in_words

MARKDOWN_PARTS = 10


def night_markdown(report: NightReport) -> str:
    """The night in one screen of markdown: headline, counts, limit, promise and the worst parts."""
    counts = report.counts
    problem = accounting_problem(report)
    parts = flagged_parts(report)
    lines = [
        f"# {_markdown_text(report.line.name)}, {window_in_words(report)}",
        "",
        f"**{headline(report)}**",
        *(["", f"**Warning:** {problem}"] if problem else []),
        "",
        "| listed | scored | scored earlier | unusable | failed | flagged images | flagged parts |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        f"| {counts.listed} | {counts.scored} | {counts.already_scored} | {counts.unusable} | {counts.failed} "
        f"| {report.flagged_images} | {len(parts)} |",
        "",
        f"{promise(report)} Reject limit: raw score {number(report.calibration.limit)}. "
        f"Model {_markdown_text(report.run.model_name)} version {report.run.model_version}, "
        f"calibration {_markdown_text(report.run.calibration_id)}.",
    ]
    if parts:
        lines += ["", *_markdown_parts(parts)]
    return "\n".join(lines) + "\n"


def _markdown_parts(parts: list[FlaggedPart]) -> Iterator[str]:
    yield "| # | part | view | production date | normalised score | raw score | p-value |"
    yield "| ---: | --- | --- | --- | ---: | ---: | ---: |"
    for part in parts[:MARKDOWN_PARTS]:
        worst = part.images[0]
        texts = f"{_markdown_text(part.part)} | {_markdown_text(worst.view)} | {worst.production_date:%Y-%m-%d}"
        figures = f"{worst.normalised_score:.3f} | {number(worst.raw_score)} | {number(worst.p_value)}"
        yield f"| {part.rank} | {texts} | {figures} |"
    if len(parts) > MARKDOWN_PARTS:
        yield ""
        yield f"{counted(len(parts) - MARKDOWN_PARTS, 'more flagged part')}: the list lies beside the report."


def _markdown_text(value: Any) -> str:
    """Text that stands in a table cell as it is: no markup, no link, no HTML, one line."""
    line = re.sub(r"[\x00-\x1f\x7f\u2028\u2029]+", " ", text(value))
    entities = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
    plain = "-/ "
    return "".join(
        entities.get(char, f"\\{char}" if char in string.punctuation and char not in plain else char) for char in line
    )
