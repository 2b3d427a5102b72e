"""The production lines: one TOML file each, every setting validated, and the meaning of an object's key."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from fnmatch import translate
from functools import cached_property
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal, get_args
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ganomaly.config import DetectorConfig, read_toml, validation_message
from ganomaly.errors import ConfigError
from tasks.lines.names import list_lines

LINE_NAME = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"

# what each named field of a key pattern may contain; a field never crosses a folder
_FIELD_PATTERNS = {
    "date": r"\d{4}-\d{2}-\d{2}",
    "part": r"[^/\x00]+",  # S3 takes a NUL, PostgreSQL does not
    "view": r"[^/\x00]+",
    "ext": r"[A-Za-z0-9]+",
}


IGNORED = (
    *("*.json", "*.xml", "*.txt", "*.csv", "*.log", "*.ini", "*.md5", "*.sha1", "*.sha256", "*.crc"),
    *("*.part", "*.partial", "*.tmp", "*.lock", "Thumbs.db", ".DS_Store", "._*"),
)
"""Names of files that stand beside images: what cameras and people note, what file managers leave."""


@dataclass(frozen=True)
class KeyFields:
    """What the key of an image says: production date, part, and view (``""`` where the pattern has none)."""

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
    normal_list: Annotated[str, Field(min_length=1)] | None = None  # key of a CSV file; None: every usable image

    @field_validator("key_pattern")
    @classmethod
    def _check_key_pattern(cls, pattern: str) -> str:
        pieces = _pattern_pieces(pattern)
        fields = [field for _, field in pieces if field is not None]
        if unknown := [field for field in fields if field not in _FIELD_PATTERNS]:
            raise ValueError(f"{{{unknown[0]}}} is not a field; allowed: {', '.join(_FIELD_PATTERNS)}")
        if missing := [field for field in ("date", "part") if field not in fields]:
            raise ValueError(f"must contain {{{missing[0]}}}")
        if len(set(fields)) < len(fields):
            raise ValueError("a field may stand in it only once")
        if any(literal == "" and field is not None for literal, field in pieces[1:]):
            raise ValueError("two fields need a character between them, or nobody knows where one ends")
        return pattern


Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


class ScoringConfig(BaseModel):
    """Table ``[scoring]``: how the nightly run cuts its work. Changes speed and memory, never a score."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard_size: Annotated[int, Field(ge=1)] = 10_000  # images of one Prefect task
    chunk_size: Annotated[int, Field(ge=1)] = 256  # images scored and committed together
    fetch_threads: Annotated[int, Field(ge=1, le=64)] = 8
    lookback_days: Annotated[int, Field(ge=0, le=31)] = 1  # earlier days on which the nightly run looks for late images
    days_off: tuple[Weekday, ...] = ()  # days on which no images are expected: a night without any is no alarm
    survey: bool = True  # each night looks through the whole prefix for objects that no run has looked at


class LineConfig(DetectorConfig):
    """One production line: a detector's configuration and where the line's images are."""

    name: Annotated[str, Field(pattern=rf"^{LINE_NAME}$", max_length=63)]
    description: str = ""
    attribution: str = ""  # whom the images belong to; printed in the report
    timezone: str = "UTC"
    images: ImagesConfig
    scoring: ScoringConfig = ScoringConfig()

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

    @property
    def detector(self) -> DetectorConfig:
        """The part of the configuration that is saved inside the model."""
        return DetectorConfig(**{name: getattr(self, name) for name in DetectorConfig.model_fields})

    def parse_key(self, key: str) -> KeyFields | None:
        """The fields of an object's key, or None when the key is not that of an image of this line."""
        if (match := self._key_regex.fullmatch(key)) is None:
            return None
        fields = match.groupdict()
        try:
            day = date.fromisoformat(fields["date"])
        except ValueError:  # 2026-02-31
            return None
        return KeyFields(day, fields["part"], sys.intern(fields.get("view", "")))  # a few, of a million images

    def ignores(self, key: str) -> bool:
        """Whether an object is no image and nobody need be told: a folder's own entry, or a name in `images.ignore`."""
        return self._ignored_regex.fullmatch(key.rpartition("/")[2].lower()) is not None

    def works_on(self, day: date) -> bool:
        """Whether images of a production date are expected."""
        return get_args(Weekday)[day.weekday()] not in self.scoring.days_off

    def prefix_for(self, day: date) -> str:
        """The longest key prefix that all images of one production date share."""
        prefix = self.images.prefix
        for literal, field in _pattern_pieces(self.images.key_pattern):
            prefix += literal
            if field != "date":
                break
            prefix += day.isoformat()
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
        for literal, field in _pattern_pieces(self.images.key_pattern):
            regex += re.escape(literal)
            regex += "" if field is None else f"(?P<{field}>{_FIELD_PATTERNS[field]})"
        return re.compile(regex)


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


def _pattern_pieces(pattern: str) -> list[tuple[str, str | None]]:
    """Cut ``"{date}/{part}.png"`` into (text before, field) pairs; the field is None after the last one."""
    return list(_checked_pieces(pattern))


def _checked_pieces(pattern: str) -> Iterator[tuple[str, str | None]]:
    for literal, field, spec, conversion in Formatter().parse(pattern):
        if spec or conversion:
            raise ValueError(f"{{{field}}} takes no format")
        yield literal, field
