"""What the report of one night says.

Pure: every function turns a `NightReport` into text or bytes. It asks no bucket, no database and no network.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import pandas as pd
import pyarrow as pa

from ganomaly.scoring.calibration import Calibration
from tasks.lines.line import LineConfig
from tasks.night.accounting import RunCounts
from tasks.store.rows import ScoringRun

SCORE_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "etag", "part", "view")),
        ("production_date", pa.date32()),
        ("captured_at", pa.timestamp("us", tz="UTC")),
        *((name, pa.float64()) for name in ("raw_score", "normalised_score", "p_value")),
        ("verdict", pa.string()),
        ("sure", pa.bool_()),
        *((name, pa.string()) for name in ("reason", "heat_map_key")),
        ("model_version", pa.int64()),
        *((name, pa.string()) for name in ("calibration_id", "run_id")),
    ]
)
REGION_COLUMNS = (
    *("key", "part", "view", "production_date", "place", "x", "y", "width", "height"),
    *("centre_x", "centre_y", "area_px", "extent_px", "heat", "counts"),
)
FAILURE_COLUMNS = ("key", "reason", "detail")
STRAY_KEY = "key_layout"
STRAY_SIZE = "object_too_large"
STRAY_REASONS = (STRAY_KEY, STRAY_SIZE)
VERDICTS = ("ok", "flagged", "unusable")


@dataclass(frozen=True)
class Picture:
    """A flagged image and the same image with its heat map laid over it, both as JPEG files of the same proportions."""

    image_jpeg: bytes
    overlay_jpeg: bytes


@dataclass(frozen=True, eq=False)
class NightReport:
    """Everything that the report of one window says.

    Attributes:
        line: the line.
        run: the scoring run, with the window, the model, by which every row of `scores` was judged, and the software.
        finished_at: end of the run; UTC where it carries no zone.
        calibration: that set the limit.
        recipe_summary: how a camera image became the network's input, in one line.
        counts: what this run did; the rows of `scores` may stem from earlier runs.
        scores: columns of `SCORE_SCHEMA`, one row for each image of the window (the key's present etag) that this
            model version has judged, in this run or before. Scores and p-value are NaN when unusable.
        failures: columns `FAILURE_COLUMNS`, one row for each image that could not be judged for an outside reason.
        pictures: the pictures of flagged images by key; the worst are enough.
        ignored: objects of the window that `images.ignore` names; they count nowhere.
        never_seen: objects under the line's prefix, outside the window, that no run has looked at, by folder.
        way_out: what a person can do about them.
        changes: what is not as usual with the camera or the process, a sentence each; empty where all is.
        withheld: whether the verdicts wait for somebody who releases them.
        released: who did, when and why; empty where nobody had to.
        figures: by their names, rows of the newest nights with columns day, above_usual, allowed, changed.
        regions: columns `REGION_COLUMNS`, one row for each region of a flagged image, the hottest of each image first.
    """

    line: LineConfig
    run: ScoringRun
    finished_at: datetime
    calibration: Calibration
    recipe_summary: str
    counts: RunCounts
    scores: pd.DataFrame
    failures: pd.DataFrame
    pictures: Mapping[str, Picture]
    ignored: int = 0
    never_seen: Mapping[str, int] = field(default_factory=dict)
    way_out: str = ""
    changes: tuple[str, ...] = ()
    withheld: bool = False
    released: str = ""
    figures: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    regions: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(REGION_COLUMNS)))

    def __post_init__(self) -> None:
        """Refuse tables that the report would misread.

        Raises:
            ValueError: naming the missing columns, the unknown verdicts or the key that has two rows.
        """
        _require_columns("scores", self.scores, SCORE_SCHEMA.names)
        _require_columns("failures", self.failures, FAILURE_COLUMNS)
        _require_columns("regions", self.regions, REGION_COLUMNS)
        unknown = set(self.scores["verdict"]) - set(VERDICTS)
        if unknown:
            raise ValueError(f"scores: verdict {sorted(map(str, unknown))} is none of {', '.join(VERDICTS)}")
        nameless = self.scores.loc[self.scores["part"].isna(), "key"]
        if len(nameless):
            raise ValueError(f"scores: no part for key {nameless.iloc[0]!r}: an image of no known part is its own part")
        repeated = self.scores.loc[self.scores["key"].duplicated(), "key"]
        if len(repeated):
            raise ValueError(
                f"scores: {len(repeated)} keys have more than one row, for example {repeated.iloc[0]!r}: "
                "pass only the row of each key's present etag"
            )

    @property
    def judged(self) -> pd.DataFrame:
        """Part, verdict and normalised score of the images that have one: verdict ok or flagged."""
        columns = ["production_date", "part", "verdict", "normalised_score"]
        return self.scores.loc[self.scores["verdict"] != "unusable", columns]

    @property
    def unusable(self) -> pd.DataFrame:
        """The images of the window that could not be judged, by key."""
        return self.scores[self.scores["verdict"] == "unusable"].sort_values("key")

    @property
    def flagged_file(self) -> str:
        """Name of the list of flagged parts: another one while the verdicts are withheld."""
        return "flagged-withheld.csv" if self.withheld else "flagged.csv"

    @property
    def regions_file(self) -> str:
        """Name of the list of regions, without its suffix: another one while the verdicts are withheld."""
        return "regions-withheld" if self.withheld else "regions"

    @property
    def days(self) -> str:
        """The window as options of a command."""
        first, last = self.run.window_start, self.run.window_end
        return f"--date {last}" if first == last else f"--from {first} --to {last}"

    @property
    def strays(self) -> pd.DataFrame:
        """Objects that cannot be images of the line, by their key or size; they count as unusable."""
        return self.failures[self.failures["reason"].isin(STRAY_REASONS)]

    @property
    def unusable_objects(self) -> int:
        """Number of images that could not be judged, with the objects that cannot be images of the line."""
        return len(self.unusable) + len(self.strays)

    @property
    def flagged_images(self) -> int:
        """Number of flagged images in the window, whichever run judged them."""
        return int((self.scores["verdict"] == "flagged").sum())

    @property
    def sure_images(self) -> int:
        """Number of flagged images that are sure."""
        return int(self.scores["sure"].sum())

    @property
    def judged_parts(self) -> int:
        """Number of parts with at least one image that could be judged."""
        return count_parts(self.judged)

    @property
    def uninspected_parts(self) -> int:
        """Number of parts none of whose recorded images could be judged."""
        return count_parts(self.scores) - self.judged_parts


@dataclass(frozen=True)
class FlaggedPart:
    """A part with at least one flagged image.

    Attributes:
        rank: 1 for the night's worst part.
        part: its name.
        images: the rows of its flagged images, worst first.
        judged_images: how many of its images could be judged.
    """

    rank: int
    part: str
    images: tuple[Any, ...]
    judged_images: int

    @property
    def is_sure(self) -> bool:
        """Whether one of its images is flagged and sure."""
        return any(image.sure for image in self.images)


def flagged_parts(report: NightReport) -> list[FlaggedPart]:
    """The flagged parts of the window, the one with the highest score first."""
    flagged = report.scores[report.scores["verdict"] == "flagged"]
    # the raw score orders where the normalised one is too close to 1 to tell two images apart
    flagged = flagged.sort_values(["raw_score", "key"], ascending=[False, True])
    images_of: dict[tuple[date, str], list[Any]] = {}
    for image in flagged.itertuples(index=False, name="FlaggedImage"):
        images_of.setdefault((image.production_date, image.part), []).append(image)
    judged = Counter(zip(report.judged["production_date"], report.judged["part"], strict=True))
    return [
        FlaggedPart(rank, part, tuple(images), judged[day, part])
        for rank, ((day, part), images) in enumerate(images_of.items(), start=1)
    ]


def count_parts(scores: pd.DataFrame) -> int:
    """Number of parts in rows of scores: names may come again on another day."""
    return len(scores[["production_date", "part"]].drop_duplicates())


def _require_columns(name: str, table: pd.DataFrame, columns: Iterable[str]) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(f"{name}: column{'' if len(missing) == 1 else 's'} {', '.join(missing)} missing")
