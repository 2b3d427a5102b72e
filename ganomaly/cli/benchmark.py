"""`ganomaly benchmark`: measure a detector with its defaults on folders with known defects."""

# ruff: noqa: PLC0415 - heavy modules are imported where they are needed, so that `--help` answers at once

import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ganomaly.cli.common import Device, UsageProblemError, plain_errors

if TYPE_CHECKING:
    from ganomaly.evaluation.folders import InspectionSet

SOLAR_CELLS = ("elpv-mono", "elpv-poly")


def benchmark(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER...",
            help="Folders in the layout of MVTec AD (train/good, test/good, test/KIND, ground_truth/KIND), or the "
            "solar cells elpv-mono and elpv-poly of the package elpv-dataset.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Gets folders.csv and folders.md.")
    ] = Path("benchmark"),
    seeds: Annotated[list[str] | None, typer.Option(metavar="0,1,...", help="Of weights, splits and draws.")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The detector's settings, as for `ganomaly fit`.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=2, help="Learn from so many images only, drawn by the seed.")
    ] = None,
    part_pattern: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Where the part id stands in a file name.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Learn from a folder's good images, judge its test images, and say how good that is.

    AUROC, AUPRO and AUPIMO, flagged good images against the promise, missed defects, seconds and images per second,
    beside the detector's own scores and what needs no network. Nothing is chosen on test images. What is finished is
    written at once; a set that cannot be measured is named at the end, and the exit code is then 1.
    """
    with plain_errors():
        from ganomaly import DetectorConfig, load_config
        from ganomaly.errors import TrainingDivergedError
        from ganomaly.evaluation.folder_tables import markdown
        from ganomaly.evaluation.folders import DETECTOR, few, run_set
        from ganomaly.evaluation.machine import describe_machine
        from ganomaly.evaluation.tables import write_csv

        sets = _sets(folders)
        settings = DetectorConfig() if config is None else load_config(config)
        machine, command = describe_machine(device).summary, shlex.join(["ganomaly", *sys.argv[1:]])
        output.mkdir(parents=True, exist_ok=True)
        rows, failed = [], False
        for load in sets:
            for seed in numbers(seeds) or (0,):
                data = load(seed) if images is None else few(load(seed), images, seed)
                judged = f"learns from {len(data.train)} images, judges {len(data.test)}"
                typer.echo(f"{data.name}, seed {seed}: {judged} ...")
                try:
                    for row in run_set(data, settings, seed, part_pattern=part_pattern, device=device):
                        rows.append(row)
                        if row.method == DETECTOR:
                            typer.echo(
                                f"  AUROC {row.auroc:.3f}, good flagged {row.false_rejects:.1%}, defects missed "
                                f"{row.escapes:.0%}, fit {row.fit_s:.0f} s, {row.images_per_s:.0f} images/s"
                            )
                except (ValueError, TrainingDivergedError) as error:  # such as too few images
                    failed = True
                    typer.secho(f"  {data.name}, seed {seed}: {error}", fg="red", err=True)
                if rows:
                    write_csv(rows, output / "folders.csv")
                    (output / "folders.md").write_text(markdown(rows, command, machine), encoding="utf-8")
        if rows:
            typer.echo(markdown(rows, command, machine))
            typer.echo(f"also in {output / 'folders.md'} and {output / 'folders.csv'}")
        if failed:
            raise typer.Exit(1)


def _sets(names: list[str]) -> "list[Callable[[int], InspectionSet]]":
    """How to load each set for a seed; all folders are looked at before any work begins."""
    from ganomaly.evaluation.folders import read_folder, solar_cells

    found: list[Callable[[int], InspectionSet]] = []
    folders: set[str] = set()
    for name in names:
        if name in SOLAR_CELLS:
            found.append(partial(solar_cells, name))
            continue
        folder = read_folder(Path(name).resolve())
        if folder.name in folders:
            raise UsageProblemError(
                f"two folders are named {folder.name}, and a table could not tell them apart: rename one"
            )
        folders.add(folder.name)
        found.append(partial(lambda data, _seed: data, folder))
    return found


def listed(texts: list[str] | None) -> tuple[str, ...] | None:
    """The words of "a,b" or of the option given twice; None where it was not given."""
    if not texts:
        return None
    return tuple(word.strip() for text in texts for word in text.split(",") if word.strip())


def numbers(texts: list[str] | None) -> tuple[int, ...] | None:
    """Seeds of "0,1"; None where they were not given.

    Raises:
        UsageProblemError: for anything but whole numbers.
    """
    words = listed(texts)
    if words is None:
        return None
    if not words or not all(word.isdecimal() for word in words):
        raise UsageProblemError(
            f"--seeds {','.join(texts or [])}: must be whole numbers from 0 up, separated by commas"
        )
    return tuple(map(int, words))
