"""The production lines: one TOML file each, every setting validated, and the meaning of an object's key."""

import re
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fnmatch import translate
from functools import cached_property, lru_cache
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ganomaly.config import DetectorConfig, read_toml, validation_message
from ganomaly.errors import ConfigError
from ganomaly.images.regions import RegionRules, Zone
from tasks.lines.names import list_lines

LINE_NAME = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"

# what each named field of a key pattern may contain; a field never crosses a folder
_FIELD_PATTERNS = {
    "date": "",  # as its format says
    "part": r"[^/\x00]+",  # S3 takes a NUL, PostgreSQL does not
    "view": r"[^/\x00]+",
    "ext": r"[A-Za-z0-9]+",
}
_ISO_DATE = "%Y-%m-%d"
_DATE_PATTERNS = {"%Y": "[0-9]{4}", "%y": "[0-9]{2}", "%m": "[0-9]{2}", "%d": "[0-9]{2}"}


OUTPUTS = "reports/"
"""Where the pipeline writes: never an image of a line."""
IGNORED = (
    *("*.json", "*.xml", "*.txt", "*.csv", "*.log", "*.ini", "*.md5", "*.sha1", "*.sha256", "*.crc"),
    *("*.part", "*.partial", "*.tmp", "*.lock", "Thumbs.db", ".DS_Store", "._*"),
)
"""Names of files that stand beside images: what cameras and people note, what file managers leave."""


@dataclass(frozen=True)
class KeyFields:
    """What the key of an image says.

    Attributes:
        date: of production.
        part: where the pattern has none, each image is a part of its own, named by its key below the prefix.
        view: ``""`` where the pattern has none.
    """

    date: date
    part: str
    view: str


class ImagesConfig(BaseModel):
    """Table ``[images]``: where the line's images lie in the bucket and what their keys mean."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: Annotated[str, Field(pattern=r"^([^/].*/)?$")]  # ends with "/": "elpv" must not list "elpv-mono" as well
    key_pattern: str = "{date}/{part}/{view}.{ext}"
    max_bytes: Annotated[int, Field(ge=1)] = 200_000_000  # a larger object is no image and is not fetched
    ignore: tuple[Annotated[str, Field(min_length=1)], ...] = IGNORED  # shell patterns of names that are no images
    mm_per_px: Annotated[float, Field(gt=0)] | None = None  # of the camera image; None: sizes are told in pixels alone
    mask: Annotated[str, Field(min_length=1)] | None = None  # key of an image, black where nothing is looked at
    normal_list: Annotated[str, Field(min_length=1)] | None = None  # key of a CSV file; None: every usable image

    @field_validator("key_pattern")
    @classmethod
    def _check_key_pattern(cls, pattern: str) -> str:
        pieces = _pattern_pieces(pattern)
        fields = [piece.field for piece in pieces if piece.field is not None]
        if unknown := [field for field in fields if field not in _FIELD_PATTERNS]:
            raise ValueError(f"{{{unknown[0]}}} is not a field; allowed: {', '.join(_FIELD_PATTERNS)}")
        if "date" not in fields:
            raise ValueError("must contain {date}")
        if len(set(fields)) < len(fields):
            raise ValueError("a field may stand in it only once")
        if any(piece.literal == "" and piece.field is not None for piece in pieces[1:]):
            raise ValueError("two fields need a character between them, or nobody knows where one ends")
        return pattern


Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


class ScoringConfig(BaseModel):
    """Table ``[scoring]``: how the nightly run cuts its work. Changes speed and memory, never a score."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard_size: Annotated[int, Field(ge=1)] = 10_000  # images of one Prefect task
    chunk_size: Annotated[int, Field(ge=1)] = 256  # images scored and committed together
    fetch_threads: Annotated[int, Field(ge=1, le=64)] = 8
    dask: Annotated[int, Field(ge=1, le=256)] | Annotated[str, Field(pattern=r"^(tcp|tls)://.+:\d+$")] | None = None
    lookback_days: Annotated[int, Field(ge=0, le=31)] = 1  # earlier days on which the nightly run looks for late images
    days_off: tuple[Weekday, ...] = ()  # days on which no images are expected: a night without any is no alarm
    survey: bool = True  # each night looks through the whole prefix for objects that no run has looked at


class ModelsConfig(BaseModel):
    """Table ``[models]``: what a new model of the line learns from, and what it must show to become champion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    training_days: Annotated[int, Field(ge=1, le=36500)] | None = (
        None  # newest production dates to learn from; None: all
    )
    golden_prefix: Annotated[str, Field(pattern=r"^[^/].*/$")] | None = None  # None: golden/<line>/
    recent_days: Annotated[int, Field(ge=1, le=366)] = 7  # newest production dates that both models judge in the gate
    recent_images: Annotated[int, Field(ge=1)] = 1000  # at most so many of them
    shadow: bool = False  # nights let @challenger judge beside the champion
    max_ms_per_image: Annotated[float, Field(gt=0)] | None = None  # a slower challenger is refused
    require_approval: bool = False  # a person decides, whatever the gate found


class RegionsConfig(BaseModel):
    """Table ``[regions]``: which regions of a flagged image count. Takes effect at once and moves no verdict."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_area_mm2: Annotated[float, Field(ge=0)] = 0.0  # smaller regions do not count; needs images.mm_per_px
    min_area_px: Annotated[float, Field(ge=0)] = 0.0  # likewise, in square pixels of the camera image
    zones: tuple[Zone, ...] = ()  # where only hotter regions count


class LineConfig(DetectorConfig):
    """One production line: a detector's configuration and where the line's images are."""

    name: Annotated[str, Field(pattern=rf"^{LINE_NAME}$", max_length=63)]
    description: str = ""
    attribution: str = ""  # whom the images belong to; printed in the report
    timezone: str = "UTC"
    images: ImagesConfig
    scoring: ScoringConfig = ScoringConfig()
    models: ModelsConfig = ModelsConfig()
    regions: RegionsConfig = RegionsConfig()

    @model_validator(mode="before")
    @classmethod
    def _default_prefix(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        images = values.get("images", {})
        if not isinstance(images, dict):
            return values
        return {**values, "images": {"prefix": f"images/{values.get('name')}/", **images}}

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, name: str) -> str:
        if name not in available_timezones():
            raise ValueError("is not a time zone; use an IANA name such as UTC or Europe/Berlin")
        return name

    @model_validator(mode="after")
    def _check_min_area(self) -> Self:
        if self.regions.min_area_mm2 and self.images.mm_per_px is None:
            raise ValueError(
                f"regions.min_area_mm2 = {self.regions.min_area_mm2:g}: needs images.mm_per_px, the millimetres of a "
                "pixel; or set regions.min_area_px"
            )
        return self

    @model_validator(mode="after")
    def _check_prefix(self) -> Self:
        if self.is_own(self.images.prefix):
            raise ValueError(
                f"images.prefix = {self.images.prefix!r}: lies where the pipeline keeps its own objects, {OUTPUTS!r} "
                f"and {self.golden_prefix!r}; images need another folder, or models.golden_prefix another"
            )
        return self

    @property
    def region_rules(self) -> RegionRules:
        """Which regions of a flagged image count."""
        mm2_per_px2 = (self.images.mm_per_px or 1.0) ** 2
        return RegionRules(max(self.regions.min_area_px, self.regions.min_area_mm2 / mm2_per_px2), self.regions.zones)

    @property
    def detector(self) -> DetectorConfig:
        """The part of the configuration that is saved inside the model."""
        return DetectorConfig(**{name: getattr(self, name) for name in DetectorConfig.model_fields})

    @property
    def golden_prefix(self) -> str:
        """Key prefix of the line's golden set."""
        return self.models.golden_prefix or f"golden/{self.name}/"

    def parse_key(self, key: str) -> KeyFields | None:
        """The fields of an object's key, or None when the key is not that of an image of this line."""
        if (match := self._key_regex.fullmatch(key)) is None:
            return None
        fields = match.groupdict()
        if (day := _as_date(fields["date"], self._date_format)) is None:
            return None
        part = fields.get("part") or key.removeprefix(self.images.prefix)
        return KeyFields(day, part, sys.intern(fields.get("view", "")))  # a few, of a million images

    def ignores(self, key: str) -> bool:
        """Whether an object is no image and nobody need be told: a folder's own entry, or a name in `images.ignore`."""
        return self._ignored_regex.fullmatch(key.rpartition("/")[2].lower()) is not None

    def is_own(self, key: str) -> bool:
        """Whether an object is what the pipeline itself keeps in the bucket, wherever images lie."""
        one = key in (self.images.mask, self.images.normal_list)
        return one or key.startswith((OUTPUTS, self.golden_prefix))

    def today(self) -> date:
        """The date at the line."""
        return datetime.now(UTC).astimezone(ZoneInfo(self.timezone)).date()

    def works_on(self, day: date) -> bool:
        """Whether images of a production date are expected."""
        return get_args(Weekday)[day.weekday()] not in self.scoring.days_off

    def prefix_for(self, day: date) -> str:
        """The longest key prefix that all images of one production date share."""
        prefix = self.images.prefix
        for piece in _pattern_pieces(self.images.key_pattern):
            prefix += piece.literal
            if piece.field != "date":
                break
            prefix += day.strftime(self._date_format)
        return prefix

    def listing_prefixes(self, start: date, end: date) -> list[str]:
        """What to list to see every image from `start` to `end` inclusive, each object once.

        One prefix for each date where the keys begin with the date, otherwise one for the line: the caller still
        compares `parse_key(key).date` with the window.
        """
        days = (start + timedelta(days=n) for n in range((end - start).days + 1))
        return list(dict.fromkeys(self.prefix_for(day) for day in days))

    @cached_property
    def _ignored_regex(self) -> re.Pattern[str]:
        return re.compile("|".join(["", *(translate(pattern.lower()) for pattern in self.images.ignore)]))

    @cached_property
    def _key_regex(self) -> re.Pattern[str]:
        regex = re.escape(self.images.prefix)
        for piece in _pattern_pieces(self.images.key_pattern):
            regex += re.escape(piece.literal)
            if piece.field is not None:
                inside = _date_regex(piece.date_format) if piece.field == "date" else _FIELD_PATTERNS[piece.field]
                regex += f"(?P<{piece.field}>{inside})"
        return re.compile(regex)

    @cached_property
    def _date_format(self) -> str:
        return next(piece.date_format for piece in _pattern_pieces(self.images.key_pattern) if piece.field == "date")


def load_line(line: str, lines_dir: Path) -> LineConfig:
    """Read and validate `<lines_dir>/<line>.toml`.

    Raises:
        ConfigError: no such line (names the ones that exist), or a mistake in the file (names file, key, value and
            what is allowed).
    """
    path = lines_dir / f"{line}.toml"
    if not re.fullmatch(LINE_NAME, line) or not path.is_file():
        known = ", ".join(list_lines(lines_dir)) or "none"
        raise ConfigError(f"there is no line {line!r} in {lines_dir} (no {line}.toml); lines there: {known}")
    content = read_toml(path)
    try:
        config = LineConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(validation_message(path, error, LineConfig)) from None
    if config.name != line:
        raise ConfigError(f"{path}: name = {config.name!r}: must be {line!r}, the name of the file")
    return config


class _Piece(NamedTuple):
    """A part of a key pattern: a text and the field after it, which is None behind the last one."""

    literal: str
    field: str | None
    date_format: str


def _pattern_pieces(pattern: str) -> list[_Piece]:
    """Cut ``"{date:%Y/%m/%d}/{part}.png"`` into its pieces."""
    pieces = []
    for literal, field, spec, conversion in Formatter().parse(pattern):
        if conversion or (spec and field != "date"):
            raise ValueError(f"{{{field}}} takes no format")
        pieces.append(_Piece(literal, field, spec or _ISO_DATE))
        _date_regex(pieces[-1].date_format)
    return pieces


def _date_regex(date_format: str) -> str:
    codes = re.findall("%.?", date_format)
    if unknown := [code for code in codes if code not in _DATE_PATTERNS]:
        raise ValueError(f"{{date:{date_format}}}: {unknown[0]} is not allowed, only {', '.join(_DATE_PATTERNS)}")
    if sorted(code.lower() for code in codes) != ["%d", "%m", "%y"]:
        raise ValueError(f"{{date:{date_format}}}: needs year, month and day, each once")
    return "".join(_DATE_PATTERNS.get(piece, re.escape(piece)) for piece in re.split("(%.)", date_format))


@lru_cache(maxsize=4096)
def _as_date(text: str, date_format: str) -> date | None:
    """The date; None for a day that does not exist, such as 2026-02-31."""
    try:
        return datetime.strptime(text, date_format).replace(tzinfo=UTC).date()
    except ValueError:
        return None
