"""What the commands have in common: finding images, progress, errors in one line.

Heavy modules are imported inside the functions that need them, so that ``--help`` answers at once.
"""

# ruff: noqa: PLC0415 - see above

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp")

Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Model = Annotated[Path, typer.Argument(help="Folder of a detector that `ganomaly fit` wrote.")]


class UsageProblemError(ValueError):
    """A folder, file or option on the command line that cannot be used as asked."""


def find_images(folder: Path) -> tuple[list[Path], Counter[str]]:
    """List the images below a folder, or the one file itself.

    Args:
        folder: a folder or one image file.

    Returns:
        The paths relative to the folder, ascending, and how many other files there are of each suffix. Hidden files and
        folders and links to folders are left out of both.

    Raises:
        UsageProblemError: if there is no such folder, or no image in it.
    """
    if folder.is_file():
        return [Path(folder.name)], Counter()
    if not folder.is_dir():
        raise UsageProblemError(f"{folder}: there is no such folder; give a folder with images")
    files = list(_visible_files(folder))
    images = sorted((path for path in files if path.suffix.lower() in IMAGE_SUFFIXES), key=Path.as_posix)
    others = Counter(path.suffix.lower() for path in files if path.suffix.lower() not in IMAGE_SUFFIXES)
    if not images:
        raise UsageProblemError(
            f"{folder}: no images found{ignored(others)}; images are files named *{', *'.join(IMAGE_SUFFIXES)}"
        )
    return images, others


def ignored(others: Counter[str]) -> str:
    """What is said of files that are no images: ``; 3 other files ignored (2 .json, 1 without suffix)``."""
    if not others:
        return ""
    kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in others.most_common())
    return f"; {others.total()} other files ignored ({kinds})"


def _visible_files(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:  # a folder that cannot be listed must not pass for an empty one
        raise error

    for here, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(here, name) for name in names if not name.startswith("."))
        # a pipe or device may never end; a broken link is an image that cannot be read
        yield from (path.relative_to(folder) for path in paths if path.is_file() or not path.exists())


def progress() -> Progress:
    """A bar on standard error; a task says what it found in its field `figures`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=Console(stderr=True),
    )


def shown(path: Path) -> str:
    """The path as valid Unicode with forward slashes: names of other encodings would break table and terminal."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Say what is wrong in one line: a user needs the thing, the value and the way out, not a traceback.

    The process keeps freed memory for its next batch from here on.
    """
    import cv2

    from ganomaly import TrainingDivergedError
    from ganomaly.acceleration.memory import keep_freed_memory

    keep_freed_memory()

    # broken images are reported with their reason; OpenCV's lines would cut through the bar
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    except (OSError, ValueError, TrainingDivergedError) as error:
        message = str(error).encode("utf-8", "backslashreplace").decode("utf-8")
        typer.secho(f"error: {message}", fg="red", err=True)
        raise typer.Exit(1) from None
