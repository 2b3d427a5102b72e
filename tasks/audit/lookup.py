"""The records as a person looks them up: runs of a line, flagged parts of a day; and what to say when there are none.

Neither MLflow nor Prefect nor torch is needed for that, and none is imported.
"""

from dataclasses import dataclass
from datetime import date
from itertools import islice

import pandas as pd

from ganomaly.errors import ConfigError
from tasks.bucket.bucket import ObjectStore
from tasks.bucket.failures import ObjectStoreError
from tasks.errors import OperatingError
from tasks.lines.names import list_lines
from tasks.process import set_up_process
from tasks.settings import Settings
from tasks.store.rows import ScoringRun
from tasks.store.store import ReportStore

STORE_PATIENCE_S = 15.0
S3_READ_TIMEOUT_S = 5.0
S3_ATTEMPTS = 2
SUGGESTIONS = 5
RUNS_OF_A_DAY = 100


class NothingRecordedError(OperatingError):
    """No part or key of this name is in the records."""


@dataclass(frozen=True)
class FlaggedDay:
    """The parts of a production date that are flagged.

    Attributes:
        line: its name.
        day: the production date.
        run: whose model version's verdicts these are; they are not complete unless it is.
        parts: worst first, see `Scores.flagged_parts`.
        limit: how many there are at most.
    """

    line: str
    day: date
    run: ScoringRun
    parts: pd.DataFrame
    limit: int


@dataclass(frozen=True)
class Archive:
    """Where records and images are. No line file is needed: the line may be gone."""

    settings: Settings
    store: ReportStore
    objects: ObjectStore

    @property
    def address(self) -> str:
        """The report store for people, without a password."""
        return f"the report store {self.store.url.render_as_string(hide_password=True)}"


def open_archive() -> Archive:
    """Read the settings and open the report store. A person waits: what does not answer is soon given up.

    Who looks something up creates no store and upgrades none: it may be a copy, or the address may be wrong.

    Raises:
        ReportStoreError: if the report store cannot be reached.
        SchemaError: if there is none, or its tables are older or newer than the code.
    """
    set_up_process()
    settings = Settings()
    store = ReportStore(settings.store_url, patience_s=STORE_PATIENCE_S)
    store.check()
    objects = ObjectStore(
        settings.bucket, settings.s3_endpoint_url, read_timeout_s=S3_READ_TIMEOUT_S, attempts=S3_ATTEMPTS
    )
    return Archive(settings, store, objects)


def list_runs(archive: Archive, line: str, last: int) -> list[ScoringRun]:
    """The newest `last` runs of a line, newest first.

    Raises:
        NothingRecordedError: if there is none; says how to make one.
    """
    runs = archive.store.runs.of_line(line, last)
    if not runs:
        raise NothingRecordedError(
            f"{archive.address} knows no run of line {line!r}; "
            f"{_no_such_line(archive, line) or f'run `inspection nightly {line}`'}"
        )
    return runs


def list_flagged(archive: Archive, line: str, day: date, limit: int) -> FlaggedDay:
    """A day's flagged parts; of several runs the newest completed one says which model's verdicts count.

    Raises:
        NothingRecordedError: if no run covers that day: then nobody can say that no part is flagged.
    """
    runs = archive.store.runs.of_line(line, RUNS_OF_A_DAY, day)
    if not runs:
        raise NothingRecordedError(
            f"{archive.address} knows no run of line {line!r} over {day}; "
            f"{_no_such_line(archive, line) or f'run `inspection nightly {line} --date {day}`'}"
        )
    run = next((run for run in runs if run.state == "completed"), runs[0])
    return FlaggedDay(line, day, run, archive.store.scores.flagged_parts(line, day, limit), limit)


def lines_of(archive: Archive, line: str | None) -> list[str]:
    """The line asked for, or every one that has a file."""
    return [line] if line else list_lines(archive.settings.lines_dir)


def nothing_recorded(archive: Archive, asked: str, line: str | None) -> NothingRecordedError:
    """The error that says what was looked for, where, and the nearest way out."""
    where = f"line {line}" if line else "any line"
    way_out = (line and _no_such_line(archive, line)) or _way_out(archive, asked, line)
    return NothingRecordedError(f"{archive.address} knows no part and no key {asked!r} of {where}; {way_out}")


def _no_such_line(archive: Archive, line: str) -> str:
    folder = archive.settings.lines_dir
    known = list_lines(folder)
    return "" if line in known else f"there is no {line}.toml in {folder}; lines there: {', '.join(known) or 'none'}"


def _way_out(archive: Archive, asked: str, line: str | None) -> str:
    """Whether the bucket knows better: the part's or key's image may be there and not yet recorded."""
    from tasks.lines.line import load_line  # noqa: PLC0415 - it brings torch, for which a quick look must not wait

    try:
        keys = [found.key for found in islice(archive.objects.list_objects(asked), SUGGESTIONS)] if asked else []
    except ObjectStoreError as error:
        return f"whether the bucket has it was not checked: {error}"
    if recorded := [key for key in keys if archive.store.images.find(key, line)]:
        return f"did you mean {', '.join(map(repr, recorded))}?"
    for name in lines_of(archive, line):
        try:
            config = load_line(name, archive.settings.lines_dir)
        except ConfigError:  # somebody else's mistake: `inspection lines` names it
            continue
        for key in keys:
            if fields := config.parse_key(key):
                return (
                    f"the bucket holds {key!r}, which is not recorded: "
                    f"run `inspection ingest {name} --from {fields.date} --to {fields.date}`"
                )
    if keys:
        return f"the bucket holds {', '.join(map(repr, keys))}, which is no image of a line"
    return (
        f"nor does a key in {archive.objects.uri()} begin like that; give the part as the report names it, or the "
        f"whole key, or record new images with `inspection ingest {line or 'LINE'}`"
    )
