"""Rows of the report store as Python sees them."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from ganomaly.images.regions import Region

RunState = Literal["running", "completed", "failed", "interrupted"]
Finding = Literal["defect", "good"]
PromotionOutcome = Literal["promoted", "refused", "waiting", "rolled_back", "found"]
"""What became of a model that wanted an alias. ``waiting``: it needs a person's approval; ``found``: MLflow had the
alias on this version although no row said so."""


@dataclass(frozen=True)
class ImageRecord:
    """One image as it was ingested. Figures are None where the image could not be decoded; `reason` when unusable."""

    key: str
    etag: str
    part: str
    view: str
    production_date: date
    captured_at: datetime
    size_bytes: int
    sha256: str
    usable: bool
    reason: str | None = None
    width_px: int | None = None
    height_px: int | None = None
    brightness: float | None = None
    contrast: float | None = None
    sharpness: float | None = None
    red: float | None = None
    blue: float | None = None
    centre_x: float | None = None
    centre_y: float | None = None


@dataclass(frozen=True)
class ScoreRecord:
    """What a detector says about one image; no scores when the verdict is ``unusable``."""

    verdict: Literal["ok", "flagged", "unusable"]
    raw_score: float | None = None
    normalised_score: float | None = None
    p_value: float | None = None
    reason: str | None = None
    heat_map_key: str | None = None


@dataclass(frozen=True)
class ShadowRecord:
    """What a challenger says about one image; no score when the verdict is ``unusable``."""

    verdict: Literal["ok", "flagged", "unusable"]
    normalised_score: float | None = None


@dataclass(frozen=True)
class JudgedImage:
    """An image and what a detector says about it; regions where it is flagged, the hottest first."""

    image: ImageRecord
    score: ScoreRecord
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True)
class FailureRecord:
    """An image that could not be judged in this run: vanished, changed, or not to be fetched."""

    key: str
    etag: str
    reason: str
    detail: str


@dataclass(frozen=True)
class ScoringRun:
    """One row of table `scoring_run`."""

    id: str
    line: str
    window_start: date
    window_end: date
    model_name: str
    model_version: int
    calibration_id: str
    snapshot_id: str
    code_version: str
    flow_run_id: str
    state: RunState
    message: str
    started_at: datetime
    finished_at: datetime | None
    listed: int
    scored: int
    already_scored: int
    unusable: int
    failed: int
    flagged: int
    report_key: str | None


@dataclass(frozen=True)
class Promotion:
    """One row of table `promotion`: what was decided about a version and an alias, by whom and why.

    Attributes:
        line: its name.
        model_name: the registered model.
        alias: that the version has now, or keeps.
        version: that was decided about.
        previous_version: that had the alias before.
        who: a person, or the flow.
        why: in words.
        promoted_at: when.
        outcome: what became of it.
        gate: the gate's checks as JSON, see `tasks.promotion.gate`; empty where it was not asked.
        flow_run_id: Prefect's.
    """

    line: str
    model_name: str
    alias: str
    version: int
    previous_version: int | None
    who: str
    why: str
    promoted_at: datetime
    outcome: PromotionOutcome = "promoted"
    gate: str = ""
    flow_run_id: str = ""


@dataclass(frozen=True)
class DriftRecord:
    """One figure of a night beside what is usual on the line.

    Attributes:
        figure: a quality figure of images, or ``score``.
        night_median: of the night's usable images.
        usual_median: of the images that the model learned from; of the calibration images for ``score``.
        above_usual: chance that an image of the night has a higher figure than a usual one, ties half, [0, 1].
        allowed: how far that may lie from one half.
        changed: whether it lies further.
    """

    figure: str
    night_median: float
    usual_median: float
    above_usual: float
    allowed: float
    changed: bool


@dataclass(frozen=True)
class Release:
    """One row of table `release`: somebody said that the verdicts of a suspect window may be used.

    Attributes:
        line: its name.
        window_start: first production date.
        window_end: last production date, included.
        model_version: whose verdicts.
        figures: that were not as usual then, separated by commas; another one withholds the window again.
        who: a person.
        why: in words.
        released_at: when.
    """

    line: str
    window_start: date
    window_end: date
    model_version: int
    figures: str
    who: str
    why: str
    released_at: datetime


@dataclass(frozen=True, kw_only=True)
class StoredImage(ImageRecord):
    """One row of table `image`."""

    id: int
    line: str
    recorded_at: datetime


@dataclass(frozen=True)
class StoredScore:
    """One row of table `score`, with what its image and line are."""

    image_id: int
    key: str
    etag: str
    line: str
    run_id: str
    model_version: int
    calibration_id: str
    raw_score: float | None
    normalised_score: float | None
    p_value: float | None
    verdict: Literal["ok", "flagged", "unusable"]
    reason: str | None
    heat_map_key: str | None
    scored_at: datetime


@dataclass(frozen=True, kw_only=True)
class StoredFailure(FailureRecord):
    """One row of table `failure`, with the time at which its run started."""

    run_id: str
    started_at: datetime


@dataclass(frozen=True)
class Review:
    """One row of table `review`: what a person found on the part that an image shows."""

    image_id: int
    finding: Finding
    who: str
    note: str
    reviewed_at: datetime
