"""Who works on what: one lease for each piece of work, such as scoring a line's window.

A second run waits until the lease is free and then finds nothing to do; that of a dead owner runs out. What keeps rows
single are the database's unique constraints: a run that was suspended for longer than its lease does no harm.
"""

import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from tasks.store.database import Database, ReportStoreError
from tasks.store.tables import lease_table

LEASE_S = 60.0
HEARTBEATS_PER_LEASE = 4
WAIT_S = 2.0

_log = logging.getLogger(__name__)


class Leases:
    """Table `lease`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def take(self, work: str, owner: str, seconds: float = LEASE_S) -> bool:
        """Take or renew the lease on `work` for the next seconds; whether it is `owner`'s now.

        It is not while another owner holds it whose time has not run out.
        """
        database = self._database
        insert = database.dialect.insert(lease_table)
        free = sa.or_(lease_table.c.owner == insert.excluded.owner, lease_table.c.expires_at <= database.clock())
        taken = {"owner": insert.excluded.owner, "expires_at": insert.excluded.expires_at}
        statement = insert.values(work=work, owner=owner, expires_at=database.clock(seconds))
        statement = statement.on_conflict_do_update(index_elements=["work"], set_=taken, where=free)
        return database.write(
            lambda connection: connection.execute(statement.returning(lease_table.c.work)).one_or_none() is not None
        )

    def drop(self, work: str, owner: str) -> None:
        """Give up the lease on `work`; another owner's is left alone."""
        mine = sa.and_(lease_table.c.work == work, lease_table.c.owner == owner)
        self._database.write(lambda connection: connection.execute(sa.delete(lease_table).where(mine)))

    @contextmanager
    def held(self, work: str, owner: str, seconds: float = LEASE_S) -> Iterator[None]:
        """Wait until nobody else works on it, then hold the lease while the block runs."""
        waiting = False
        while not self.take(work, owner, seconds):
            if not waiting:
                _log.warning("%s: somebody else is at work on it; waiting", work)
            waiting = True
            time.sleep(WAIT_S * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, nothing secret
        done = threading.Event()

        def beat() -> None:
            while not done.wait(seconds / HEARTBEATS_PER_LEASE):
                try:
                    self.take(work, owner, seconds)
                except ReportStoreError as error:  # the run itself will meet the same error and end with it
                    _log.warning("the lease on %s could not be renewed: %s", work, error)

        thread = threading.Thread(target=beat, name=f"lease on {work}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.drop(work, owner)


def is_alive(database: Database, owner: Any) -> sa.ColumnElement[bool]:
    """Whether an owner holds a lease that has not run out."""
    living: sa.ColumnElement[bool] = owner.in_(
        sa.select(lease_table.c.owner).where(lease_table.c.expires_at > database.clock())
    )
    return living
