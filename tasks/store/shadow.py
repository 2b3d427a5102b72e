"""What a challenger says beside the verdicts of nights: to be compared with them, never to be reported."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pandas as pd
import sqlalchemy as sa

from tasks.store.database import Database
from tasks.store.images import ids_of
from tasks.store.rows import ShadowRecord
from tasks.store.tables import image_table, score_table, shadow_table

Judge = tuple[int, str]
"""Version and calibration id."""


class Shadow:
    """Table `shadow`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def commit(self, run_id: str, line: str, judge: Judge, said: Mapping[tuple[str, str], ShadowRecord]) -> None:
        """Record what a challenger says of images (key, etag) that are recorded; each once."""
        common = {"run_id": run_id, "model_version": judge[0], "calibration_id": judge[1]}

        def step(connection: sa.Connection) -> None:
            ids = ids_of(connection, line, list(said))
            values = [
                {**asdict(said[image]), **common, "image_id": image_id} for image, image_id in sorted(ids.items())
            ]
            if values:
                connection.execute(self._database.insert_new(shadow_table), values)

        if said:
            self._database.write(step)

    def beside(self, line: str, challenger: Judge, champion: Judge) -> pd.DataFrame:
        """All images that a champion judged and a challenger beside it, by date and key.

        Columns: key, etag, part, production_date, champion, challenger (normalised scores, NaN where unusable),
        champion_verdict, challenger_verdict.
        """
        shadow, score, image = shadow_table.c, score_table.c, image_table.c
        query = (
            sa.select(
                *(image.key, image.etag, image.part, image.production_date),
                *(score.normalised_score.label("champion"), shadow.normalised_score.label("challenger")),
                *(score.verdict.label("champion_verdict"), shadow.verdict.label("challenger_verdict")),
            )
            .join(shadow_table, shadow.image_id == image.id)
            .join(score_table, score.image_id == image.id)
            .where(image.line == line, *_by(shadow_table, challenger), *_by(score_table, champion))
            .order_by(image.production_date, image.key, image.etag)
        )
        return self._database.frame(query, {"champion": "float64", "challenger": "float64"})


def _by(table: sa.Table, judge: Judge) -> Sequence[sa.ColumnElement[bool]]:
    return table.c.model_version == judge[0], table.c.calibration_id == judge[1]
