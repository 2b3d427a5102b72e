"""The list of images that are known to show good parts, as spreadsheets and scripts write it."""

import codecs
import csv
import io
from datetime import date

from prefect.logging import get_run_logger

from ganomaly import TrainingDataError
from tasks.systems import Systems

MOST_UNKNOWN = 0.1
"""A list of which a larger share is unknown is another line's, or is written otherwise than the keys are."""
NAMED = 5


def read_normal_list(systems: Systems) -> set[str]:
    """The keys in column ``key`` of the line's list of normal images.

    Raises:
        TrainingDataError: it has no such column, or a tenth of its keys and more were never recorded; names the first.
    """
    name, line = systems.line.images.normal_list, systems.line.name
    assert name is not None
    where = systems.objects.uri(name)
    reader = csv.DictReader(io.StringIO(as_text(systems.objects.get(name)), newline=None), strict=True)
    try:
        if "key" not in (reader.fieldnames or []):
            raise TrainingDataError(f"{where}: needs a column key; has {', '.join(reader.fieldnames or []) or 'none'}")
        keys = list(dict.fromkeys(key for row in reader if (key := (row["key"] or "").strip())))
    except csv.Error as error:  # a quote that is not closed would swallow the rest
        raise TrainingDataError(f"{where}, line {reader.line_num}: is no CSV table ({error})") from None
    recorded = set(systems.store.images.recorded(line, date.min, date.max)["key"])
    if not (unknown := [key for key in keys if key not in recorded]):
        return set(keys)
    share = f"{len(unknown)} of {len(keys)} keys ({len(unknown) / len(keys):.0%})"
    said = f"{where}: {share} were never recorded, for example {', '.join(map(repr, unknown[:NAMED]))}"
    if len(unknown) > MOST_UNKNOWN * len(keys):
        raise TrainingDataError(
            f"{said}. Keys must stand there as in the bucket, whole and in the same case, and be recorded first with "
            f"`inspection ingest {line}`"
        )
    get_run_logger().warning("%s; trained without them", said)
    return set(keys)


def as_text(data: bytes) -> str:
    """A text file's content: UTF-8 or UTF-16, with or without a byte-order mark, otherwise Windows' code page 1252."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    if b"\x00" in data[:2]:  # no text begins with NUL but UTF-16
        return data.decode("utf-16-be" if data[:1] == b"\x00" else "utf-16-le")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")
