"""What another limit would have flagged in past nights, from stored scores and findings; and a version that has it."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, timedelta

import pandas as pd
from scipy.stats import binomtest

from tasks.errors import OperatingError
from tasks.night.pinned import PinnedModel
from tasks.systems import Systems

Part = tuple[date, str]
"""Production date and name."""


class NoScoresError(OperatingError):
    """The champion has not judged anything yet."""


@dataclass(frozen=True)
class Flagging:
    """What one limit flags.

    Attributes:
        false_reject_rate: that it promises.
        limit: raw score above which an image is flagged.
        parts: number of parts with an image above it.
        share: of all judged parts, in [0, 1].
        interval: 95 % interval of that share for nights like these (Wilson 1927).
        defects: parts among them that a person found defective.
        good: parts among them that a person found good.
    """

    false_reject_rate: float
    limit: float
    parts: int
    share: float
    interval: tuple[float, float]
    defects: int
    good: int


@dataclass(frozen=True)
class WhatIf:
    """The limit that is, and another one, on the same nights.

    Attributes:
        model_version: whose scores these are.
        start: first production date.
        end: last production date.
        parts: that were judged.
        defects: parts that a person found defective.
        good: parts that a person found good.
        now: what the limit flagged.
        then: what the other one would have flagged.
        newly_missed: defective parts that the other one would have let pass, at most a few.
    """

    model_version: int
    start: date
    end: date
    parts: int
    defects: int
    good: int
    now: Flagging
    then: Flagging
    newly_missed: tuple[str, ...]


def what_if(systems: Systems, model: PinnedModel, false_reject_rate: float, nights: int) -> WhatIf:
    """What the limit for another false-reject rate would have flagged in the newest nights that the model judged.

    Nothing is judged anew. Findings of people are of parts that they were shown, mostly flagged ones: how many defects
    a limit misses can be told only where somebody looked at parts that passed.

    Args:
        systems: of the line.
        model: whose scores are looked at.
        false_reject_rate: of the other limit, in (0, 1).
        nights: production dates, counted back from the newest recorded one.

    Raises:
        NoScoresError: if the model judged nothing in these nights.
        TrainingDataError: if its calibration images are too few for the rate.
    """
    line, calibration = systems.line.name, model.detector.calibrated
    other = calibration.with_rate(false_reject_rate)
    end = systems.store.images.newest_day(line, systems.line.today()) or date.min
    start = max(date.min, end - timedelta(days=nights - 1)) if end != date.min else end
    scores = systems.store.scores.of_window(line, start, end, model.version.version, calibration.id)
    # names of parts may come again on another day
    worst = scores.dropna(subset=["raw_score"]).groupby(["production_date", "part"])["raw_score"].max()
    if worst.empty:
        raise NoScoresError(f"{model.version.uri} judged nothing of {line} from {start} to {end}; give more --nights")
    findings = systems.store.decisions.part_findings(line, start, end)
    defects, good = ({part for part, said in findings.items() if said == one} for one in ("defect", "good"))
    now = _flagging(worst, calibration.false_reject_rate, calibration.limit, defects, good)
    then = _flagging(worst, false_reject_rate, other.limit, defects, good)
    judged = set(worst.index)
    passed = {part for part in defects & judged if now.limit < worst[part] <= then.limit}
    counts = len(defects & judged), len(good & judged)
    return WhatIf(
        model.version.version,
        start,
        end,
        len(worst),
        *counts,
        now,
        then,
        tuple(part for _, part in sorted(passed, key=worst.get)[::-1][:5]),
    )


def _flagging(
    worst: "pd.Series[float]", rate: float, limit: float, defects: Collection[Part], good: Collection[Part]
) -> Flagging:
    flagged = set(worst.index[worst > limit])
    share = binomtest(len(flagged), len(worst)).proportion_ci(method="wilson")
    return Flagging(
        rate,
        limit,
        len(flagged),
        len(flagged) / len(worst),
        (float(share.low), float(share.high)),
        len(flagged & set(defects)),
        len(flagged & set(good)),
    )
