"""The images that were ever recorded. An image is (line, key, etag): an object that was replaced is two images."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime

import pandas as pd
import sqlalchemy as sa

from tasks.store.database import Database, rows_among
from tasks.store.rows import ImageRecord, StoredImage
from tasks.store.tables import image_table


class Images:
    """Table `image`. Everything is inserted unless it is there, so that repeating a step changes nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def commit(self, line: str, rows: Sequence[ImageRecord]) -> set[tuple[str, str]]:
        """Insert images unless they are known; all or none. Gives (key, etag) of those that this call inserted."""
        now = datetime.now(UTC)

        def step(connection: sa.Connection) -> set[tuple[str, str]]:
            insert_images(self._database, connection, line, rows, now)
            new = image_table.c.recorded_at == now
            return set(ids_of(connection, line, [(row.key, row.etag) for row in rows], new))

        return self._database.write(step) if rows else set()

    def known(self, line: str, start: date, end: date) -> dict[tuple[str, str], int]:
        """(key, etag) -> id of every image of the window that was ever recorded."""
        table = image_table.c
        query = sa.select(table.key, table.etag, table.id).where(*in_window(line, start, end))
        return {(row.key, row.etag): row.id for row in self._database.rows(query)}

    def among(self, line: str, images: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the images (key, etag) that were ever recorded."""
        return set(self._database.read(lambda connection: ids_of(connection, line, images)))

    def recorded(self, line: str, start: date, end: date) -> pd.DataFrame:
        """The window's images, fit to judge or not when they were recorded; ordered by key and ETag.

        Columns: id, key, etag, part, view, production_date, captured_at, size_bytes, sha256, usable, reason.
        """
        names = (
            *("id", "key", "etag", "part", "view", "production_date", "captured_at", "size_bytes", "sha256"),
            *("usable", "reason"),
        )
        query = (
            sa.select(*(image_table.c[name] for name in names))
            .where(*in_window(line, start, end))
            .order_by(image_table.c.key, image_table.c.etag)
        )
        return self._database.frame(query, {"id": "int64", "size_bytes": "int64", "usable": "bool"})

    def newest_day(self, line: str, today: date) -> date | None:
        """The newest production date up to today of which an image is recorded: a camera's clock may run ahead."""
        table = image_table.c
        query = sa.select(sa.func.max(table.production_date).label("day"))
        query = query.where(table.line == line, table.production_date <= today)
        return next((row.day for row in self._database.rows(query)), None)

    def find(self, part_or_key: str, line: str | None = None) -> list[StoredImage]:
        """All records of a part or of a key, in every version of the object that was seen; oldest first."""
        table = image_table.c
        query = sa.select(image_table).where(sa.or_(table.part == part_or_key, table.key == part_or_key))
        if line is not None:
            query = query.where(table.line == line)
        return [
            StoredImage(**row._asdict()) for row in self._database.rows(query.order_by(table.recorded_at, table.id))
        ]


def insert_images(
    database: Database, connection: sa.Connection, line: str, rows: Sequence[ImageRecord], now: datetime
) -> None:
    """Insert images that are not known yet, as part of a transaction."""
    # in the same order in every transaction, so that two that insert the same images do not block each other
    ordered = sorted({(row.key, row.etag): row for row in rows}.items())
    values = [{**asdict(row), "line": line, "recorded_at": now} for _, row in ordered]
    if values:
        connection.execute(database.insert_new(image_table), values)


def in_window(line: str, start: date, end: date) -> tuple[sa.ColumnElement[bool], ...]:
    """The images of a line's production dates."""
    return image_table.c.line == line, image_table.c.production_date.between(start, end)


def ids_of(
    connection: sa.Connection, line: str, images: Sequence[tuple[str, str]], *where: sa.ColumnElement[bool]
) -> dict[tuple[str, str], int]:
    """(key, etag) -> id of those of the line's images that are recorded, and meet `where`."""
    table, wanted = image_table.c, set(images)
    query = sa.select(table.key, table.etag, table.id).where(table.line == line, *where)
    rows = rows_among(connection, query, table.key, {key for key, _ in images})
    return {(row.key, row.etag): row.id for row in rows if (row.key, row.etag) in wanted}
