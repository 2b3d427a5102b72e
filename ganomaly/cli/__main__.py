"""`python -m ganomaly.cli` is the command `ganomaly`."""

from ganomaly.cli import app

app()
