"""`ganomaly fit`: train and calibrate a detector on a folder of images of good parts."""

# ruff: noqa: PLC0415 - heavy modules are imported where they are needed, so that `--help` answers at once

import hashlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from ganomaly.cli.common import Device, UsageProblemError, find_images, ignored, plain_errors, progress, shown

if TYPE_CHECKING:
    from ganomaly import Detector, DetectorConfig
    from ganomaly.images.preparation import Prepared
    from ganomaly.parts.roles import Plan

NAMED_UNUSABLE = 5


def fit(
    folder: Annotated[Path, typer.Argument(help="Folder with images of good parts, read with all folders below it.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="MODEL", help="Folder to write the detector to.")],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "--recipe",
            metavar="FILE",
            help="TOML file with input (features or pixels) and any of the tables recipe, quality, features, training, "
            "calibration and, for pixels, network, score.",
        ),
    ] = None,
    part_pattern: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Where the part id stands in a path below FOLDER: a regular expression with a group, such as "
            "'([^/]+)_view\\d'. Without it only near-duplicates count as one part.",
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGE",
            help="Image of the camera image's size, black where nothing is looked at. Polygons do the same: "
            "recipe.include and recipe.ignore of --config.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=10_000, help="Instead of training.epochs.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of training.seed.")] = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the detector that is in MODEL.")] = False,
) -> None:
    """Train and calibrate a detector on images of good parts.

    A folder with the layout of MVTec AD (train/good, test) is learned from train/good alone. Images that are
    near-duplicates, such as photos of one part with another exposure, count as one part. Hidden files and folders and
    links to folders are left out; images that cannot be judged are counted by reason and left out of the training.
    """
    with plain_errors():
        _check_output(output, overwrite=overwrite)
        settings = _with_mask(_settings(config, epochs, seed), mask)
        folder = _good_parts(folder)
        images, others = find_images(folder)
        typer.echo(f"{shown(folder)}: {len(images)} images{ignored(others)}")
        parts = None if part_pattern is None else _parts(images, part_pattern)
        _fit(folder, images, parts, settings, device, output)


def _good_parts(folder: Path) -> Path:
    """Where the images of good parts lie: a benchmark's folder holds defective ones beside them."""
    good = folder / "train" / "good"
    if not good.is_dir():
        return folder
    typer.secho(f"note: {shown(folder)} has train/good: learns from that alone", fg="yellow", err=True)
    return good


def _settings(file: Path | None, epochs: int | None, seed: int | None) -> "DetectorConfig":
    from ganomaly import DetectorConfig, load_config
    from ganomaly.config import read_toml, why_pixels

    config = DetectorConfig() if file is None else load_config(file)
    stated = {} if file is None else read_toml(file)
    if "input" not in stated and (reason := why_pixels(stated)) is not None:
        typer.secho(
            f"note: learns from pixels, which see much less than features, because {reason}; "
            'input = "pixels" or "features" in --config decides it',
            fg="yellow",
            err=True,
        )
    changes = {name: value for name, value in (("epochs", epochs), ("seed", seed)) if value is not None}
    return config.model_copy(update={"training": config.training.model_copy(update=changes)})


def _with_mask(config: "DetectorConfig", mask: Path | None) -> "DetectorConfig":
    from ganomaly.images.areas import as_mask

    if mask is None:
        return config
    try:
        found = as_mask(mask.read_bytes())
    except ValueError as error:
        raise UsageProblemError(f"{mask}: {error}") from None
    return config.model_copy(update={"recipe": config.recipe.model_copy(update={"mask": found})})


def _parts(images: Sequence[Path], pattern: str) -> list[str]:
    from ganomaly.parts.part_names import parts_from_names

    return parts_from_names([path.as_posix() for path in images], pattern)


def _fit(
    folder: Path, images: list[Path], parts: list[str] | None, config: "DetectorConfig", device: str, output: Path
) -> None:
    from ganomaly import Detector
    from ganomaly.parts.part_names import suspected_parts

    root = folder if folder.is_dir() else folder.parent
    usual, config = config.quality, config.fitted_to([root / path for path in images])
    for moved in config.quality.moved_from(usual):
        typer.secho(f"note: {moved}", fg="yellow", err=True)
    detector = Detector(config, device=device, snapshot_id=_snapshot_id(root, images))
    with progress() as bar:
        prepared = _prepare(bar, detector, [root / path for path in images])
        plan = detector.plan(prepared, parts)
        _learn(bar, detector, prepared, plan)
    detector.save(output)
    typer.echo(f"{plan.summary}{_unusable_summary(images, prepared)}")
    if plan.suspects:
        named = ", ".join(shown(images[at]) for at in plan.suspects[:NAMED_UNUSABLE])
        more = f" and {len(plan.suspects) - NAMED_UNUSABLE} more" if len(plan.suspects) > NAMED_UNUSABLE else ""
        typer.echo(f"suspects, not learned from: {named}{more}; look at them")
    if plan.warning is not None:
        typer.secho(f"warning: {plan.warning}", fg="yellow", err=True)
    if parts is None and (suspicion := suspected_parts([path.as_posix() for path in images])) is not None:
        typer.secho(f"note: {suspicion}", fg="yellow", err=True)
    typer.echo(f"recipe: {detector.config.recipe.summary}")
    if detector.judge.summary is not None:
        typer.echo(detector.judge.summary)
    typer.echo(detector.calibrated.promise)
    typer.echo(f"saved to {shown(output)}")


def _prepare(bar: Progress, detector: "Detector", paths: Sequence[Path]) -> list["Prepared"]:
    task = bar.add_task("reading images", total=len(paths), figures="")
    prepared = []
    for image in detector.prepare_all(paths):
        prepared.append(image)
        bar.advance(task)
    return prepared


def _learn(bar: Progress, detector: "Detector", prepared: "Sequence[Prepared]", plan: "Plan") -> None:
    if plan.folds is not None:  # nothing is trained: the bar only shows that something goes on
        task = bar.add_task("cross-fitting", total=None, figures="")
    else:
        task = bar.add_task("training", total=detector.config.training.epochs, figures="")
    for stats in detector.learn(prepared, plan):
        losses = f"con {stats.loss_contextual:.4f}  enc {stats.loss_encoder:.4f}  adv {stats.loss_adversarial:.4f}"
        bar.update(task, advance=1, figures=f"{losses}  dis {stats.loss_discriminator:.4f}")


def _snapshot_id(root: Path, images: Sequence[Path]) -> str:
    """Content hash of the images by path: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in images:
        try:
            content = hashlib.sha256((root / path).read_bytes()).hexdigest()
        except OSError:  # preparation will say why it is unusable
            content = "unreadable"
        digest.update(repr((path.as_posix(), content)).encode())
    return digest.hexdigest()[:16]


def _unusable_summary(images: Sequence[Path], prepared: Sequence["Prepared"]) -> str:
    faults = [(path, image) for path, image in zip(images, prepared, strict=True) if not image.usable]
    if not faults:
        return ""
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(i.reason for _, i in faults).most_common())
    lines = [f"; {len(faults)} left out as unusable ({reasons}):"]
    lines += [f"  {shown(path)}: {image.reason}: {image.detail}" for path, image in faults[:NAMED_UNUSABLE]]
    if len(faults) > NAMED_UNUSABLE:
        lines.append(f"  and {len(faults) - NAMED_UNUSABLE} more")
    return "\n".join(lines)


def _check_output(folder: Path, *, overwrite: bool) -> None:
    from ganomaly.saving import DESCRIPTION_FILE

    if folder.exists() and not folder.is_dir():
        raise UsageProblemError(f"{folder}: is a file; give a new folder for the detector")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=there):  # better an error now than after the training
        pass
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / DESCRIPTION_FILE).is_file():
        raise UsageProblemError(f"{folder}: is not empty and holds no detector; give a new or empty folder")
    if not overwrite:
        raise UsageProblemError(f"{folder}: holds a detector; give --overwrite to replace it, or another folder")
