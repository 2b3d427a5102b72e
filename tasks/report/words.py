"""The night in words and numbers for people."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from ganomaly.scoring.calibration import Calibration
from tasks.report.report import NightReport, count_parts


def headline(report: NightReport) -> str:
    """The night in one sentence of plain text, made of numbers only."""
    counts = report.counts
    if counts.listed == 0 and report.scores.empty:
        return "No images in the bucket for this window: nothing was judged."
    if report.judged.empty:
        clauses = ["No part could be judged"]
    else:
        flagged = count_parts(report.scores[report.scores["verdict"] == "flagged"])
        clauses = [f"{integer(flagged) if flagged else 'None'} of {counted(report.judged_parts, 'part')} flagged"]
    if report.changes:
        clauses.append(f"camera or process changed{', verdicts withheld' if report.withheld else ''}")
    if report.unusable_objects:
        clauses.append(f"{counted(report.unusable_objects, 'image')} unusable")
    if counts.failed:
        clauses.append(f"{counted(counts.failed, 'image')} failed")
    if report.never_seen:
        clauses.append(f"{counted(sum(report.never_seen.values()), 'object')} elsewhere never looked at")
    if not accounting_problem(report):
        clauses.append(f"all {integer(counts.listed)} images accounted for" if counts.listed > 1 else "accounted for")
    return ", ".join(clauses)


def promise(report: NightReport) -> str:
    """What the reject limit promises, in one sentence of plain text."""
    images = integer(report.calibration.n_images)
    return f"Of images like the {images} calibration images of good parts, {_expected(report.calibration)}"


def second_promise(report: NightReport) -> str | None:
    """What flags promise that are sure, in one sentence of plain text; None where none can be."""
    if (second := report.calibration.sure) is None:
        return None
    rate, bound = second.false_reject_rate, second.guaranteed_rate
    share = f"At most {percent(rate)} of them are"
    if bound > rate + 1e-9:
        share = f"{percent(rate)} of them, at most {percent(bound)} for certain, are"
    return f"{share} flagged as sure. How many of the sure flags are defects depends on how common defects are."


def accounting_problem(report: NightReport) -> str | None:
    """What does not add up in the run's numbers, or None."""
    counts = report.counts
    if counts.accounted != counts.listed:
        return (
            f"The numbers do not add up: {integer(counts.listed)} images listed, but scored + scored earlier + "
            f"unusable + failed = {integer(counts.accounted)}."
        )
    strays = len(report.strays)  # counted as unusable, but of no known part
    if len(report.scores) + strays < counts.listed - counts.failed:
        return (
            f"The report is incomplete: {integer(counts.listed - counts.failed - strays)} images were judged, "
            f"but it holds {integer(len(report.scores))} verdicts."
        )
    return None


def _expected(calibration: Calibration) -> str:
    """What the limit promises of new images."""
    rate, bound = calibration.false_reject_rate, calibration.guaranteed_rate
    if bound <= rate + 1e-9:
        return f"at most {percent(rate)} are flagged falsely."
    why = "the limit comes from few parts"
    if trimmed := calibration.trimmed_share:
        why = f"{percent(trimmed)} of the parts were left out as suspects before the limit was set"
    return f"{percent(rate)} are expected to be flagged falsely, at most {percent(bound)} for certain: {why}."


def window_in_words(report: NightReport) -> str:
    """The production dates in words."""
    first, last = report.run.window_start, report.run.window_end
    if first == last:
        return f"{first:%A}, {first.day} {first:%B %Y}"
    return f"{first.day} {first:%B %Y} to {last.day} {last:%B %Y}"


def time_in(moment: Any, zone: Any) -> str:
    """A moment in a zone, with the zone's abbreviation; naive moments are UTC, missing ones a dash."""
    if pd.isna(moment):
        return "\u2013"
    return f"{utc(moment).astimezone(zone):%Y-%m-%d %H:%M %Z}"


def utc(moment: datetime) -> datetime:
    """The moment in UTC, where it also is if it carries no zone."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def text(value: Any) -> str:
    """Text for people; a dash for what is missing."""
    return "\u2013" if pd.isna(value) or value == "" else str(value)


def integer(value: int) -> str:
    """12345 as 12 345, with narrow spaces that do not break: a comma would mean another thing in half of Europe."""
    return f"{value:,}".replace(",", "\u202f")


def counted(value: int, noun: str) -> str:
    """A number with what it counts: ``1 part``, ``2 parts``."""
    return f"{integer(value)} {noun}{'' if value == 1 else 's'}"


def number(value: float) -> str:
    """Four digits."""
    return f"{value:.4g}"


def percent(fraction: float) -> str:
    """A share in per cent, three digits."""
    return f"{100 * fraction:.3g}\u00a0%"


def reason_counts(reasons: pd.Series) -> list[tuple[str, int]]:
    """How often each reason occurs, the most frequent first; what follows a colon is detail."""
    return Counter(str(reason).partition(":")[0] for reason in reasons).most_common()


def tone(report: NightReport) -> str:
    """How the night is to be taken: ``alert``, ``gap`` or ``clear``."""
    if report.flagged_images or accounting_problem(report) or report.withheld:
        return "alert"
    if report.judged.empty or report.counts.failed or report.uninspected_parts or report.never_seen:
        return "gap"
    return "clear"
