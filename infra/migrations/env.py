"""Runs the migrations on the connection that `tasks.store.store` hands over; it reads no environment.

A new migration: change the tables in `tasks/store/tables.py`, write the next file in `versions/`, and run the store's
tests, which compare the two. Nothing goes back: an older software wants the backup that was made before the upgrade.
"""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
