"""What people and the pipeline decided: aliases that were moved, findings on parts. Rows are only ever added."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime

import sqlalchemy as sa

from tasks.store.database import Database, columns, rows_among
from tasks.store.images import in_window
from tasks.store.rows import Finding, Promotion, PromotionOutcome, Review
from tasks.store.tables import image_table, promotion_table, review_table


class Decisions:
    """Tables `promotion` and `review`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record_promotion(
        self,
        line: str,
        *,
        model_name: str,
        alias: str,
        version: int,
        previous_version: int | None,
        who: str,
        why: str,
        outcome: PromotionOutcome = "promoted",
        gate: str = "",
        flow_run_id: str = "",
    ) -> Promotion:
        """Record what was decided about a version and an alias."""
        now = datetime.now(UTC)
        promotion = Promotion(
            line, model_name, alias, version, previous_version, who, why, now, outcome, gate, flow_run_id
        )
        insert = self._database.insert_new(promotion_table).values(**asdict(promotion))
        self._database.write(lambda connection: connection.execute(insert))
        return promotion

    def last_promotion(self, line: str) -> Promotion | None:
        """The newest row that says which version is the line's champion."""
        return next((row for row in reversed(self.promotions(line)) if row.alias == "champion"), None)

    def promotions(self, line: str) -> list[Promotion]:
        """All that was decided about the line's versions, oldest first."""
        table = promotion_table.c
        query = sa.select(*columns(promotion_table, Promotion)).where(table.line == line)
        return [Promotion(**row._asdict()) for row in self._database.rows(query.order_by(table.id))]

    def record_review(self, line: str, image_id: int, finding: Finding, who: str, note: str = "") -> Review:
        """Record what a person found on the part that an image shows. Reviews are only ever added.

        Raises:
            LookupError: the line has no such image.
        """
        review = Review(image_id, finding, who, note, datetime.now(UTC))

        def step(connection: sa.Connection) -> None:
            known = sa.select(image_table.c.id).where(image_table.c.id == image_id, image_table.c.line == line)
            if connection.execute(known).one_or_none() is None:
                raise LookupError(f"the report store has no image {image_id} of line {line!r}")
            connection.execute(self._database.insert_new(review_table).values(**asdict(review)))

        self._database.write(step)
        return review

    def part_findings(self, line: str, start: date, end: date) -> dict[tuple[date, str], Finding]:
        """(production date, part) -> the newest finding on each part of the window that a person looked at.

        Names of parts may come again on another day.
        """
        query = (
            sa.select(image_table.c.production_date, image_table.c.part, review_table.c.finding)
            .join(review_table, review_table.c.image_id == image_table.c.id)
            .where(*in_window(line, start, end))
            .order_by(review_table.c.reviewed_at, review_table.c.id)
        )
        return {(row.production_date, row.part): row.finding for row in self._database.rows(query)}

    def reviews(self, image_ids: Sequence[int]) -> list[Review]:
        """All reviews of these images, oldest first."""
        query = sa.select(*columns(review_table, Review))
        rows = self._database.read(lambda connection: rows_among(connection, query, review_table.c.image_id, image_ids))
        return sorted((Review(**row._asdict()) for row in rows), key=lambda review: review.reviewed_at)
