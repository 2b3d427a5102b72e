"""The verdicts of detectors on images, each judged once by each detector."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, date, datetime
from random import Random
from typing import Any

import pandas as pd
import sqlalchemy as sa

from ganomaly.images.regions import Region
from tasks.store.database import Database, rows_among
from tasks.store.images import ids_of, in_window, insert_images
from tasks.store.rows import FailureRecord, JudgedImage, ScoreRecord, ScoringRun, StoredScore
from tasks.store.runs import insert_failures, run_of
from tasks.store.tables import image_table, region_table, run_table, score_table

_SCORE_COLUMNS = (
    *("raw_score", "normalised_score", "p_value", "verdict", "reason", "heat_map_key"),
    *("model_version", "calibration_id", "run_id"),
)
_IMAGE_COLUMNS = ("key", "etag", "part", "view", "production_date", "captured_at")
_STORED_SCORES = sa.select(
    *(
        (image_table if field.name in ("key", "etag", "line") else score_table).c[field.name]
        for field in fields(StoredScore)
    )
).join_from(score_table, image_table, image_table.c.id == score_table.c.image_id)


class Scores:
    """Table `score`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def commit(
        self, run_id: str, judged: Sequence[JudgedImage], failures: Sequence[FailureRecord]
    ) -> set[tuple[str, str]]:
        """Record one chunk of a run; all or none.

        Images are inserted unless they are known, verdicts unless the run's detector has judged the image before, in
        any run, and failures unless this run has named them. Gives (key, etag) of those verdicts that are this run's,
        by this call or by one whose worker died before it could count.

        Raises:
            LookupError: there is no such run.
            sqlalchemy.exc.IntegrityError: an unusable image with a score, or a verdict without one.
        """
        now = datetime.now(UTC)
        if not judged and not failures:
            return set()
        return self._database.write(lambda connection: self._commit(connection, run_id, judged, failures, now))

    def _commit(
        self,
        connection: sa.Connection,
        run_id: str,
        judged: Sequence[JudgedImage],
        failures: Sequence[FailureRecord],
        now: datetime,
    ) -> set[tuple[str, str]]:
        run = run_of(connection, run_id)
        images = [row.image for row in judged]
        insert_images(self._database, connection, run.line, images, now)
        ids = ids_of(connection, run.line, [(image.key, image.etag) for image in images])
        scores = {ids[row.image.key, row.image.etag]: row.score for row in judged}
        inserted = self._insert_scores(connection, run, scores, now)
        regions = {ids[row.image.key, row.image.etag]: row.regions for row in judged if row.regions}
        self._insert_regions(connection, run, regions)
        insert_failures(self._database, connection, run_id, failures)
        return {image for image, image_id in ids.items() if image_id in inserted}

    def _insert_scores(
        self, connection: sa.Connection, run: ScoringRun, scores: dict[int, ScoreRecord], now: datetime
    ) -> set[int]:
        """Gives the ids of images whose scores are this run's."""
        if not scores:
            return set()
        detector = {"model_version": run.model_version, "calibration_id": run.calibration_id}
        common = {**detector, "run_id": run.id, "scored_at": now}
        values = [{**asdict(score), **common, "image_id": image_id} for image_id, score in sorted(scores.items())]
        table = score_table.c
        connection.execute(self._database.insert_new(score_table), values)
        query = sa.select(table.image_id).where(*_judged_by(run.model_version, run.calibration_id))
        mine = query.where(table.run_id == run.id)
        return {row.image_id for row in rows_among(connection, mine, table.image_id, scores)}

    def _insert_regions(
        self, connection: sa.Connection, run: ScoringRun, regions: Mapping[int, Sequence[Region]]
    ) -> None:
        common = {"model_version": run.model_version, "calibration_id": run.calibration_id, "run_id": run.id}
        values = [
            {**asdict(region), **common, "image_id": image_id, "place": place}
            for image_id, of_image in sorted(regions.items())
            for place, region in enumerate(of_image, start=1)
        ]
        if values:
            connection.execute(self._database.insert_new(region_table), values)

    def regions(self, line: str, start: date, end: date, model_version: int, calibration_id: str) -> pd.DataFrame:
        """The regions of one detector's flagged images of the window, by key, the hottest first.

        Columns: key, etag, part, view, production_date, place (from 1) and those of `Region`.
        """
        table = region_table.c
        query = (
            sa.select(
                *(image_table.c[name] for name in ("key", "etag", "part", "view", "production_date")),
                table.place,
                *(table[column.name] for column in fields(Region)),
            )
            .join(region_table, table.image_id == image_table.c.id)
            .where(*in_window(line, start, end))
            .where(table.model_version == model_version, table.calibration_id == calibration_id)
            .order_by(image_table.c.key, image_table.c.etag, table.place)
        )
        return self._database.frame(query, {"place": "int64"})

    def since(
        self,
        line: str,
        start: date,
        end: date,
        model_version: int,
        calibration_id: str,
        since: datetime,
        *,
        besides: str,
    ) -> bool:
        """Whether a run other than `besides` has recorded a verdict of this detector on the window since then."""
        query = (
            sa.select(score_table.c.id)
            .join(image_table, score_table.c.image_id == image_table.c.id)
            .where(*in_window(line, start, end), *_judged_by(model_version, calibration_id))
            .where(score_table.c.scored_at >= since, score_table.c.run_id != besides)
            .limit(1)
        )
        return bool(self._database.rows(query))

    def judged(
        self, line: str, start: date, end: date, model_version: int, calibration_id: str
    ) -> dict[tuple[str, str], str]:
        """(key, etag) -> verdict of every image of the window that this detector has judged, in any run."""
        query = (
            sa.select(image_table.c.key, image_table.c.etag, score_table.c.verdict)
            .join(score_table, score_table.c.image_id == image_table.c.id)
            .where(*in_window(line, start, end), *_judged_by(model_version, calibration_id))
        )
        return self._database.read(
            lambda connection: {(key, etag): sys.intern(verdict) for key, etag, verdict in connection.execute(query)}
        )

    def of_window(self, line: str, start: date, end: date, model_version: int, calibration_id: str) -> pd.DataFrame:
        """All verdicts of one detector on the window's images, worst first, unusable ones last.

        Columns: key, etag, part, view, production_date, captured_at, raw_score, normalised_score, p_value, verdict,
        reason, heat_map_key, model_version, calibration_id, run_id. Missing scores are NaN, missing texts None.
        """
        query = (
            sa.select(
                *(image_table.c[name] for name in _IMAGE_COLUMNS), *(score_table.c[name] for name in _SCORE_COLUMNS)
            )
            .join(score_table, score_table.c.image_id == image_table.c.id)
            .where(*in_window(line, start, end), *_judged_by(model_version, calibration_id))
            .order_by(score_table.c.raw_score.desc().nulls_last(), image_table.c.key, image_table.c.etag)
        )
        floats = dict.fromkeys(("raw_score", "normalised_score", "p_value"), "float64")
        return self._database.frame(query, {**floats, "model_version": "int64"})

    def raw(self, line: str, start: date, end: date, model_version: int, calibration_id: str) -> "pd.Series[float]":
        """The raw scores of one detector on the window's images that could be judged, in no particular order."""
        query = (
            sa.select(score_table.c.raw_score)
            .join(image_table, score_table.c.image_id == image_table.c.id)
            .where(*in_window(line, start, end), *_judged_by(model_version, calibration_id))
            .where(score_table.c.raw_score.is_not(None))
        )
        return self._database.frame(query, {"raw_score": "float64"})["raw_score"]

    def of_images(self, image_ids: Sequence[int]) -> list[StoredScore]:
        """All verdicts on these images, of every detector; oldest first."""
        rows = self._database.read(
            lambda connection: rows_among(connection, _STORED_SCORES, score_table.c.image_id, image_ids)
        )
        found = [StoredScore(**row._asdict()) for row in rows]
        return sorted(found, key=lambda score: (score.scored_at, score.image_id))

    def flagged_parts(self, line: str, day: date, limit: int = 100) -> pd.DataFrame:
        """The parts of a production date that are flagged, worst first: one row for each, that of its worst image.

        The verdicts are those of one detector, that of the newest completed run over the day, or of the newest run
        where none completed. Objects that were replaced later still count.

        Columns: part, flagged_images, image_id, key, etag, view, captured_at, raw_score, normalised_score, p_value,
        heat_map_key, model_version, calibration_id, run_id.
        """
        ranked = _flagged_images(line, day).subquery()
        query = (
            sa.select(*(column for column in ranked.c if column.name != "place"))
            .where(ranked.c.place == 1)
            .order_by(ranked.c.raw_score.desc(), ranked.c.part)
            .limit(limit)
        )
        floats = dict.fromkeys(("raw_score", "normalised_score", "p_value"), "float64")
        whole = dict.fromkeys(("flagged_images", "image_id", "model_version"), "int64")
        return self._database.frame(query, floats | whole)

    def ever_flagged(self, line: str, start: date, end: date) -> set[tuple[date, str]]:
        """(production date, name) of the parts of the window of which any detector ever flagged an image."""
        query = (
            sa.select(image_table.c.production_date, image_table.c.part)
            .join(score_table, score_table.c.image_id == image_table.c.id)
            # written out: a database finds its index of flagged images only for this very text
            .where(*in_window(line, start, end), score_table.c.verdict == sa.literal_column("'flagged'"))
            .distinct()
        )
        return {(row.production_date, row.part) for row in self._database.rows(query)}

    def sample(self, run_id: str, n: int, seed: int) -> list[StoredScore]:
        """Up to `n` random scores that this run wrote, unusable images left out; the same for the same seed."""
        table = score_table.c
        judged = (table.run_id == run_id, table.verdict != "unusable")
        images = sa.select(image_table.c.id).join(score_table, table.image_id == image_table.c.id).where(*judged)

        def step(connection: sa.Connection) -> list[Any]:
            ids = connection.scalars(images.order_by(image_table.c.key, image_table.c.etag)).all()
            chosen = Random(seed).sample(ids, min(n, len(ids)))  # noqa: S311 nothing is secret about it
            return rows_among(connection, _STORED_SCORES.where(table.run_id == run_id), table.image_id, chosen)

        found = [StoredScore(**row._asdict()) for row in self._database.read(step)]
        return sorted(found, key=lambda score: (score.key, score.etag))


def _flagged_images(line: str, day: date) -> sa.Select[Any]:
    """A day's flagged images with their `place` among those of the same part, the worst first."""
    run, image, score = run_table.c, image_table.c, score_table.c
    newest = (
        sa.select(run.model_version, run.calibration_id)
        .where(run.line == line, run.window_start <= day, run.window_end >= day)
        .order_by((run.state == "completed").desc(), run.started_at.desc(), run.id.desc())
        .limit(1)
        .subquery()
    )
    place = sa.func.row_number().over(order_by=(score.raw_score.desc(), image.key, image.etag), partition_by=image.part)
    flagged: sa.Select[Any] = (
        sa.select(
            image.part,
            sa.func.count().over(partition_by=image.part).label("flagged_images"),
            score.image_id,
            *(image.key, image.etag, image.view, image.captured_at),
            *(score.raw_score, score.normalised_score, score.p_value, score.heat_map_key),
            *(score.model_version, score.calibration_id, score.run_id),
            place.label("place"),
        )
        .join(score_table, score.image_id == image.id)
        .join(newest, sa.and_(*_judged_by(newest.c.model_version, newest.c.calibration_id)))
        # written out: a database finds its index of flagged images only for this very text
        .where(*in_window(line, day, day), score.verdict == sa.literal_column("'flagged'"))
    )
    return flagged


def _judged_by(model_version: Any, calibration_id: Any) -> tuple[sa.ColumnElement[bool], ...]:
    return score_table.c.model_version == model_version, score_table.c.calibration_id == calibration_id
