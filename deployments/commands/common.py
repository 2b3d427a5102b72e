"""Shared by all of the pipeline's commands: their options, and errors in one line."""

import getpass
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from pydantic import ValidationError

Line = Annotated[str, typer.Argument(help="The line, as in deployments/lines/<line>.toml.")]
Day = Annotated[
    datetime | None, typer.Option("--date", formats=["%Y-%m-%d"], help="Production date; default yesterday.")
]
First = Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First production date.")]
Last = Annotated[datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last production date, included.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
PartOrKey = Annotated[str, typer.Argument(help="A part as the report names it, or the whole key of one image.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


PREFECT_IS_AWAY = ("Failed to reach API", "Timed out while attempting to connect to ephemeral Prefect API server")
FLOW_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


class _WithoutTraceback(logging.Filter):
    """Leaves out of Prefect's log how its engine came to an error that is told in one line anyway."""

    def __init__(self, expected: tuple[type[Exception], ...]) -> None:
        super().__init__()
        self._expected = expected

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record pass, without a traceback of an expected error."""
        if record.exc_info and isinstance(record.exc_info[1], self._expected):
            record.exc_info = None
        return True


@contextmanager
def plain_errors() -> Iterator[None]:
    """Say what is wrong in one line: a user needs the thing, the value and the way out, not a traceback."""
    # Prefect's temporary server would report its use to its makers, and log an error where it cannot
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # on a busy machine it takes longer to start than the 20 s that it is given
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    from pydantic import ValidationError

    from ganomaly import ConfigError, DetectorFileError, TrainingDataError, TrainingDivergedError
    from infra.local_s3 import LocalS3Error
    from tasks.errors import OperatingError

    expected = (
        ConfigError,
        DetectorFileError,
        LocalS3Error,
        OperatingError,
        TrainingDataError,
        TrainingDivergedError,
    )
    plain = _WithoutTraceback((*expected, ValidationError))
    for name in FLOW_LOGGERS:
        logging.getLogger(name).addFilter(plain)
    try:
        yield
    except expected as error:
        _fail(str(error))
    except ValidationError as error:
        _fail(_mistakes(error))
    except RuntimeError as error:
        if not str(error).startswith(PREFECT_IS_AWAY):
            raise
        _fail(
            f"Prefect: {error}; start its server (`prefect server start`), or unset PREFECT_API_URL to do without one"
        )
    finally:
        for name in FLOW_LOGGERS:
            logging.getLogger(name).removeFilter(plain)


def _fail(message: str) -> NoReturn:
    typer.secho(f"error: {message}", fg="red", err=True)
    raise typer.Exit(1) from None


def _mistakes(error: "ValidationError") -> str:
    """Mistakes in settings or options, one line for each, by the name that a person gave them."""
    lines = []
    for mistake in error.errors(include_url=False):
        name = ".".join(map(str, mistake["loc"]))
        name = f"INSPECTION_{name.upper()}" if name and error.title == "Settings" else name
        lines.append(f"{name}: {mistake['msg']}" if name else mistake["msg"].removeprefix("Value error, "))
    return "\n".join(lines)


def user_name() -> str:
    """Name of the user; empty where the system has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def as_day(value: datetime | None) -> date | None:
    """The date of an option."""
    return None if value is None else value.date()
