"""The command ``ganomaly``: detectors on plain folders, without any service; one module for each of its commands."""

import typer

from ganomaly.cli.benchmark import benchmark
from ganomaly.cli.export import export
from ganomaly.cli.fit import fit
from ganomaly.cli.info import info
from ganomaly.cli.paper import paper
from ganomaly.cli.score import score

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Learn from images of good parts what a good part looks like, and flag images that look otherwise.",
)
for command in (fit, score, info, export, benchmark, paper):
    app.command()(command)
