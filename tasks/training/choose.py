"""Which recorded images count as normal: what a model learns from, and what two models are compared on."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import pandas as pd
from prefect import task
from prefect.logging import get_run_logger

from ganomaly import TrainingDataError
from tasks.golden.golden_set import fetch_golden, read_golden_set
from tasks.lines.window import Window
from tasks.night.listing import ListedImage
from tasks.steps import NETWORK_STEP
from tasks.systems import Systems
from tasks.training.normal_list import read_normal_list

FLAGGED = "flagged, and nobody said that it is good"
DEFECT = "a person found a defect"
GOLDEN = "in the golden set"


@dataclass(frozen=True)
class NormalImages:
    """Images that count as normal.

    Attributes:
        images: the newest version of each key, by key.
        left_out: how many images were not taken, by reason.
        flagged_share: share of the images that a model flagged and nobody reviewed, in [0, 1]: where they were good
            parts, what is calibrated on the rest flags more good parts than it promises, by at most this share.
    """

    images: tuple[ListedImage, ...]
    left_out: Mapping[str, int]
    flagged_share: float

    @property
    def summary(self) -> str:
        """What was taken and what was not, in one line."""
        left_out = "; ".join(f"{count} left out: {reason}" for reason, count in self.left_out.items())
        return f"{len(self.images)} normal images" + (f"; {left_out}" if left_out else "")


@task(name="choose-normal-images", **NETWORK_STEP, persist_result=False)
def choose_normal_images(systems: Systems, window: Window | None) -> NormalImages:
    """The recorded images of the window that count as normal.

    On a line that keeps a list of normal images, those that it names. Otherwise all images of parts of which no model
    flagged any image and no person found a defect; the newest finding of a person counts more than any model. Never
    what is in the golden set, neither the image nor its part.

    Whether they are fit to judge is found out anew by the recipe that trains: it may have changed since.

    Raises:
        TrainingDataError: if there are none; says where they were looked for.
        GoldenSetError: if the golden set cannot be read.
    """
    line = systems.line
    start, end = (window.start, window.end) if window else _all_days(systems)
    where = f"line {line.name}, {window or ('all dates' if start == date.min else f'{start} to {end}')}"
    recorded = systems.store.images.recorded(line.name, start, end)
    if recorded.empty:
        raise TrainingDataError(
            f"no images to train on: the report store knows no image of {where}; "
            f"record them first with `inspection ingest {line.name}`"
        )
    if line.images.normal_list is not None:
        normal = read_normal_list(systems)
        found, recorded = len(recorded), recorded[recorded["key"].isin(normal)]
        if recorded.empty:
            raise TrainingDataError(
                f"no images to train on: of {found} recorded images of {where} none is among the {len(normal)} keys of "
                f"{systems.objects.uri(line.images.normal_list)}"
            )
        reasons = pd.Series("", index=recorded.index)
    else:
        reasons = not_normal(systems, recorded, start, end)
    reasons[_in_golden_set(systems, recorded)] = GOLDEN
    newest = newest_of_each_key(recorded.assign(left_out=reasons))
    taken = newest[newest["left_out"] == ""]
    left_out = dict(Counter(reason for reason in newest["left_out"] if reason).most_common())
    chosen = NormalImages(as_listed(taken), left_out, float((newest["left_out"] == FLAGGED).mean()))
    if taken.empty:
        raise TrainingDataError(f"no images to train on of {where}: {chosen.summary}")
    get_run_logger().info("%s: %s", where, chosen.summary)
    return chosen


def not_normal(systems: Systems, recorded: pd.DataFrame, start: date, end: date) -> "pd.Series[str]":
    """Why each of the recorded images does not count as normal; empty where it does."""
    findings = systems.store.decisions.part_findings(systems.line.name, start, end)
    flagged = systems.store.scores.ever_flagged(systems.line.name, start, end)
    parts = list(zip(recorded["production_date"], recorded["part"], strict=True))
    said = [findings.get(part) for part in parts]
    reasons = pd.Series("", index=recorded.index)
    reasons[[part in flagged and finding != "good" for part, finding in zip(parts, said, strict=True)]] = FLAGGED
    reasons[[finding == "defect" for finding in said]] = DEFECT
    return reasons


def _in_golden_set(systems: Systems, recorded: pd.DataFrame) -> "pd.Series[bool]":
    """Whether an image, or another one of its part, is in the golden set."""
    golden = [image for image, _ in fetch_golden(systems, read_golden_set(systems))]
    same_image = recorded["sha256"].isin({image.sha256 for image in golden})
    return same_image | recorded["part"].isin({image.part for image in golden if image.part != image.image})


def newest_of_each_key(recorded: pd.DataFrame) -> pd.DataFrame:
    """A key that was replaced in the bucket has several rows: only the newest can still be fetched."""
    return recorded.sort_values(["key", "captured_at"]).drop_duplicates("key", keep="last")


def as_listed(recorded: pd.DataFrame) -> tuple[ListedImage, ...]:
    """Recorded images as those of a listing."""
    return tuple(
        ListedImage(row.key, row.etag, row.part, row.view, row.production_date, row.captured_at, int(row.size_bytes))
        for row in recorded.itertuples()
    )


def _all_days(systems: Systems) -> tuple[date, date]:
    """All production dates, or the newest of them, as `models.training_days` says."""
    days = systems.line.models.training_days
    newest = systems.store.images.newest_day(systems.line.name, systems.line.today()) if days else None
    return (date.min, date.max) if newest is None or days is None else (newest - timedelta(days=days - 1), newest)
