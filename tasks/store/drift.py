"""How far each night was from what is usual on its line, and who released a suspect one. Rows are only ever added."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import date

import pandas as pd
import sqlalchemy as sa

from tasks.store.database import Database, columns, rows_among
from tasks.store.rows import DriftRecord, Release
from tasks.store.tables import drift_table, image_table, release_table, run_table

FIGURES = ("brightness", "contrast", "sharpness", "red", "blue", "centre_x", "centre_y")
"""Quality figures of images that are compared."""


class Drift:
    """Tables `drift` and `release`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def figures(self, line: str, images: Sequence[tuple[str, str]]) -> pd.DataFrame:
        """Quality figures of those of the images (key, etag) that were usable when they were recorded.

        Columns: key, production_date and `FIGURES`; missing ones are NaN.
        """
        names = ("key", "etag", "production_date", *FIGURES)
        query = sa.select(*(image_table.c[name] for name in names))
        query = query.where(image_table.c.line == line, image_table.c.usable)
        wanted = set(images)
        found = self._database.read(
            lambda connection: rows_among(connection, query, image_table.c.key, {key for key, _ in images})
        )
        rows = [tuple(row) for row in found if (row.key, row.etag) in wanted]
        frame = pd.DataFrame(rows, columns=list(names)).drop(columns="etag")
        return frame.astype(dict.fromkeys(FIGURES, "float64"))

    def record(self, run_id: str, rows: Sequence[DriftRecord]) -> None:
        """Record the figures of a run; each once."""
        values = [{**asdict(row), "run_id": run_id} for row in rows]
        if values:
            self._database.write(lambda connection: connection.execute(self._database.insert_new(drift_table), values))

    def of_run(self, run_id: str) -> list[DriftRecord]:
        """The figures of a run."""
        query = sa.select(*columns(drift_table, DriftRecord)).where(drift_table.c.run_id == run_id)
        return [DriftRecord(**row._asdict()) for row in self._database.rows(query.order_by(drift_table.c.id))]

    def history(self, line: str, last: int) -> pd.DataFrame:
        """Figures of the line's newest completed single nights, oldest first: one run, the newest, for each date.

        Columns: day, figure, above_usual, allowed, changed.
        """
        run, table = run_table.c, drift_table.c
        newest = sa.func.row_number().over(partition_by=run.window_end, order_by=(run.started_at.desc(), run.id.desc()))
        has_figures = sa.exists().where(table.run_id == run.id)
        ranked = (
            sa.select(run.id, run.window_end.label("day"), newest.label("place"))
            .where(run.line == line, run.window_start == run.window_end, has_figures)
            .subquery()
        )
        days = (
            sa.select(ranked.c.id, ranked.c.day)
            .where(ranked.c.place == 1)
            .order_by(ranked.c.day.desc())
            .limit(last)
            .subquery()
        )
        query = (
            sa.select(days.c.day, table.figure, table.above_usual, table.allowed, table.changed)
            .join(days, days.c.id == table.run_id)
            .order_by(days.c.day, table.id)
        )
        return self._database.frame(query, {"above_usual": "float64", "allowed": "float64", "changed": "bool"})

    def release(self, row: Release) -> None:
        """Record that the verdicts of a window may be used."""
        insert = self._database.insert_new(release_table).values(**asdict(row))
        self._database.write(lambda connection: connection.execute(insert))

    def last_release(self, line: str, start: date, end: date, model_version: int) -> Release | None:
        """The newest release of a version's verdicts on a window."""
        table = release_table.c
        query = (
            sa.select(*columns(release_table, Release))
            .where(table.line == line, table.window_start == start, table.window_end == end)
            .where(table.model_version == model_version)
            .order_by(table.released_at.desc())
            .limit(1)
        )
        return next((Release(**row._asdict()) for row in self._database.rows(query)), None)
