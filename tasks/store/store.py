"""The report store: every image, run, score, failure, review and promotion, and who works on what at the moment.

Everything is written with "insert unless it is there", each method in one transaction: repeating any step gives the
rows of an undisturbed run. Windows are production dates, first and last day included. Whoever reads by window and wants
only what lies in the bucket now compares with the listing. Tables stand in `tasks.store.tables`, rows in
`tasks.store.rows`.
"""

from types import TracebackType
from typing import Self

import sqlalchemy as sa

from tasks.store.database import PATIENCE_S, Database
from tasks.store.decisions import Decisions
from tasks.store.drift import Drift
from tasks.store.images import Images
from tasks.store.leases import Leases
from tasks.store.runs import Runs
from tasks.store.scores import Scores
from tasks.store.shadow import Shadow


class ReportStore:
    """The report store at `url`, see `Database`. Call `prepare()` once before anything else.

    Attributes:
        images: what was recorded.
        runs: what scoring runs did.
        scores: verdicts.
        shadow: what challengers said beside them.
        decisions: promotions of models, and findings of people.
        drift: how far nights were from what is usual, and who released suspect ones.
        leases: who works on what.
    """

    def __init__(self, url: str, patience_s: float = PATIENCE_S) -> None:
        self.database = Database(url, patience_s)
        self.images = Images(self.database)
        self.runs = Runs(self.database)
        self.scores = Scores(self.database)
        self.shadow = Shadow(self.database)
        self.decisions = Decisions(self.database)
        self.drift = Drift(self.database)
        self.leases = Leases(self.database)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> sa.URL:
        """The address."""
        return self.database.url

    def prepare(self) -> None:
        """See `Database.prepare`."""
        self.database.prepare()

    def check(self) -> None:
        """See `Database.check`."""
        self.database.check()

    def upgrade(self) -> None:
        """See `Database.upgrade`."""
        self.database.upgrade()

    def close(self) -> None:
        """Close all connections."""
        self.database.close()
