"""`ganomaly export`: write a detector so that it runs without torch and this package."""

# ruff: noqa: PLC0415 - heavy modules are imported where they are needed, so that `--help` answers at once

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ganomaly.cli.common import Model, find_images, plain_errors, shown


class Kind(StrEnum):
    """The runtimes that an export may be for."""

    onnx = "onnx"
    openvino = "openvino"


def export(
    model: Model,
    images: Annotated[
        Path,
        typer.Option(
            "--images",
            metavar="DIR",
            help="Images of the line's camera, good and defective: the export must judge them as the detector does.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write; must not exist.")],
    kind: Annotated[Kind, typer.Option("--format", help="The runtime that it is for.")] = Kind.onnx,
) -> None:
    """Write a folder that judges camera images without torch and this package.

    Quality gate, recipe, networks, scores and reject limit lie in one graph: pixels in; verdict, scores and heat map
    out. Beside it lie a program in Python, one in C++ and what was compared. An export whose scores or verdicts on the
    images are not those of the detector is refused.
    """
    from ganomaly import Detector
    from ganomaly.exporting.package import TOLERANCE, export_detector

    with plain_errors():
        names, _ = find_images(images)
        root = images if images.is_dir() else images.parent
        detector = Detector.load(model, device="cpu")
        found = export_detector(detector, [root / name for name in names], output, kind.value)
        megabytes = sum(path.stat().st_size for path in output.iterdir()) / 1e6
        over = f" ({found.passed_over} passed over: of another size, or not decodable)" if found.passed_over else ""
        typer.echo(
            f"{found.images} images judged by both, {found.scored} of them usable{over}: normalised scores differ by "
            f"at most {found.largest:.5f} (allowed {TOLERANCE:g}), {len(found.changed)} verdicts change"
        )
        for one in found.changed:
            typer.echo(
                f"  {one.image}: {one.verdict} at {one.normalised_score:.3f}, exported {one.exported_verdict} at "
                f"{one.exported_normalised_score:.3f}"
            )
        typer.echo(f"{shown(output)}: {megabytes:.0f} MB; try it: python {shown(output / 'judge.py')} IMAGE...")
