"""Alembic migrations of the report store."""
