"""The command ``ganomaly``: fit, score and inspect a detector on plain folders, without any service.

Heavy modules are imported inside the functions that need them, so that ``--help`` answers at once.
"""

# ruff: noqa: PLC0415 - see above

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ganomaly.spreadsheets import spreadsheet_safe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ganomaly import Detector, DetectorConfig, ImageScore
    from ganomaly.images.preparation import Prepared
    from ganomaly.parts.roles import Plan

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Learn from images of good parts what a good part looks like, and flag images that look otherwise.",
)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
SCORE_COLUMNS = ("path", "raw_score", "normalised_score", "p_value", "verdict", "reason")
CHUNK = 64
"""Images decoded, judged and written at a time: memory stays flat however many there are."""
NAMED_UNUSABLE = 5

Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Model = Annotated[Path, typer.Argument(help="Folder of a detector that `ganomaly fit` wrote.")]


class UsageProblemError(ValueError):
    """A folder or file on the command line that cannot be used as asked."""


@app.command()
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
            "calibration and, for pixels, model, network, score.",
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
    epochs: Annotated[int | None, typer.Option(min=1, max=10_000, help="Instead of training.epochs.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of training.seed.")] = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the detector that is in MODEL.")] = False,
) -> None:
    """Train and calibrate a detector on images of good parts.

    Images that are near-duplicates, such as photos of one part with another exposure, count as one part. Hidden files
    and folders and links to folders are left out; images that cannot be judged are counted by reason and left out of
    the training.
    """
    with plain_errors():
        _check_output(output, overwrite=overwrite)
        settings = _settings(config, epochs, seed)
        images, _ = find_images(folder)
        parts = None if part_pattern is None else _parts(images, part_pattern)
        _fit(folder, images, parts, settings, device, output)


@app.command()
def score(
    model: Model,
    folder: Annotated[Path, typer.Argument(help="Folder of images, read with all folders below it, or one image.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="CSV", help="Table to write, one row per image.")],
    overlays: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for a PNG with the heat map over the image, per flagged image only."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Judge images: one row per file with path, scores, p-value, verdict (ok, flagged, unusable) and reason.

    An image that cannot be judged is a row with the verdict unusable and its reason, never an error. The exit code is
    0 also when images are flagged.
    """
    from ganomaly import Detector

    with plain_errors():
        images, others = find_images(folder)
        root = folder if folder.is_dir() else folder.parent
        _check_table(output)
        _check_overlays(overlays, folder)
        detector = Detector.load(model, device=device)
        counts: Counter[str] = Counter()
        with _replacing(output) as table, _progress() as bar:
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(SCORE_COLUMNS)
            task = bar.add_task("scoring", total=len(images), figures="")
            for start in range(0, len(images), CHUNK):
                chunk = images[start : start + CHUNK]
                scores = detector.score([root / path for path in chunk])
                writer.writerows(_row(path, found) for path, found in zip(chunk, scores, strict=True))
                counts.update(found.verdict for found in scores)
                if overlays is not None:
                    _update_overlays(detector, root, chunk, scores, overlays)
                bar.update(task, advance=len(chunk), figures=f"{counts['flagged']} flagged")
        typer.echo(_score_summary(detector, counts, others, output))


@app.command()
def info(
    model: Model,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Say what a detector promises, what it sees and how it was trained."""
    from ganomaly import Detector

    with plain_errors():
        detector = Detector.load(model, device="cpu")
        facts = _facts(detector, model)
        if as_json:
            typer.echo(json.dumps(facts, indent=2))
            return
        typer.echo(facts["promise"])
        for name, value in facts.items():
            if name != "promise":
                typer.echo(f"  {name.replace('_', ' ')}: {_as_text(value)}")


def find_images(folder: Path) -> tuple[list[Path], int]:
    """List the images below a folder, or the one file itself.

    Args:
        folder: a folder or one image file.

    Returns:
        The paths relative to the folder, ascending, and how many other files there are. Hidden files and folders and
        links to folders are left out of both.

    Raises:
        UsageProblemError: if there is no such folder, or no image in it.
    """
    if folder.is_file():
        return [Path(folder.name)], 0
    if not folder.is_dir():
        raise UsageProblemError(f"{folder}: there is no such folder; give a folder with images")
    files = list(_visible_files(folder))
    images = sorted((path for path in files if path.suffix.lower() in IMAGE_SUFFIXES), key=Path.as_posix)
    others = len(files) - len(images)
    if not images:
        raise UsageProblemError(
            f"{folder}: no images found ({others} other files); images are files named *{', *'.join(IMAGE_SUFFIXES)}"
        )
    return images, others


def _visible_files(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:  # a folder that cannot be listed must not pass for an empty one
        raise error

    for here, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(here, name).relative_to(folder) for name in names if not name.startswith("."))


def _settings(file: Path | None, epochs: int | None, seed: int | None) -> "DetectorConfig":
    from ganomaly import DetectorConfig, load_config

    config = DetectorConfig() if file is None else load_config(file)
    changes = {name: value for name, value in (("epochs", epochs), ("seed", seed)) if value is not None}
    return config.model_copy(update={"training": config.training.model_copy(update=changes)})


def _parts(images: Sequence[Path], pattern: str) -> list[str]:
    from ganomaly.parts.roles import parts_from_names

    return parts_from_names([path.as_posix() for path in images], pattern)


def _fit(
    folder: Path, images: list[Path], parts: list[str] | None, config: "DetectorConfig", device: str, output: Path
) -> None:
    from ganomaly import Detector
    from ganomaly.evaluation.baseline_check import check_detector
    from ganomaly.images.preparation import fit_recipe
    from ganomaly.parts.roles import plan_roles, suspected_parts

    root = folder if folder.is_dir() else folder.parent
    recipe = fit_recipe(config.recipe, [root / path for path in images])
    config = config.model_copy(update={"recipe": recipe})
    detector = Detector(config, device=device, snapshot_id=_snapshot_id(root, images))
    with _progress() as bar:
        prepared = _prepare(bar, detector, [root / path for path in images])
        plan = plan_roles(prepared, parts, config.calibration, config.training.seed)
        _learn(bar, detector, prepared, plan)
    detector.save(output)
    check = check_detector(detector, prepared, plan)
    assert detector.calibration is not None
    typer.echo(f"{plan.summary}{_unusable_summary(images, prepared)}")
    for warning in (plan.warning, None if check is None else check.warning):
        if warning is not None:
            typer.secho(f"warning: {warning}", fg="yellow", err=True)
    if parts is None and (suspicion := suspected_parts([path.as_posix() for path in images])) is not None:
        typer.secho(f"note: {suspicion}", fg="yellow", err=True)
    typer.echo(f"recipe: {detector.config.recipe.summary}")
    if detector.judge.summary is not None:
        typer.echo(detector.judge.summary)
    typer.echo(detector.calibration.promise)
    typer.echo(f"saved to {_shown(output)}")


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
    lines += [f"  {_shown(path)}: {image.reason}: {image.detail}" for path, image in faults[:NAMED_UNUSABLE]]
    if len(faults) > NAMED_UNUSABLE:
        lines.append(f"  and {len(faults) - NAMED_UNUSABLE} more")
    return "\n".join(lines)


def _row(path: Path, found: "ImageScore") -> tuple[object, ...]:
    return spreadsheet_safe(_shown(path)), found.raw, found.normalised, found.p_value, found.verdict, found.reason


def _update_overlays(
    detector: "Detector", root: Path, images: Sequence[Path], scores: Sequence["ImageScore"], folder: Path
) -> None:
    """Write the overlays of flagged images; remove what an earlier run left for images that are not flagged now."""
    flagged = []
    for path, found in zip(images, scores, strict=True):
        if found.verdict == "flagged":
            flagged.append(path)
        else:
            _overlay_path(folder, path).unlink(missing_ok=True)
    prepared = list(detector.prepare_all([root / path for path in flagged]))
    for path, image in zip(flagged, prepared, strict=True):
        if image.pixels is not None:
            _write_overlay(detector, root / path, image.pixels, _overlay_path(folder, path))


def _overlay_path(folder: Path, path: Path) -> Path:
    return folder / path.with_name(f"{path.name}.png")


def _write_overlay(detector: "Detector", source: Path, pixels: "NDArray[np.uint8]", target: Path) -> None:
    import cv2

    from ganomaly.images.preparation import read_image
    from ganomaly.scoring.heatmap import draw_overlay

    image = read_image(source)
    heat = detector.config.recipe.to_image_pixels(detector.heat_maps(pixels[None])[0], image)
    _, png = cv2.imencode(".png", draw_overlay(image, heat)[:, :, ::-1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(png.tobytes())


def _score_summary(detector: "Detector", counts: Counter[str], others: int, output: Path) -> str:
    assert detector.calibration is not None
    verdicts = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("ok", "flagged", "unusable"))
    ignored = f"; {others} other files ignored" if others else ""
    return f"{counts.total()} images: {verdicts}{ignored}\n{detector.calibration.promise}\nscores in {_shown(output)}"


def _of_pixels(config: "DetectorConfig") -> dict[str, Any]:
    """Settings that only a detector of pixels has."""
    return {
        "model": config.model.model_dump(),
        "network": config.network.model_dump(),
        "score": config.score.method,
    }


def _facts(detector: "Detector", folder: Path) -> dict[str, Any]:
    from ganomaly.saving import CALIBRATION_FILE, DESCRIPTION_FILE, WEIGHTS_FILE

    calibration, config = detector.calibration, detector.config
    assert calibration is not None
    document = json.loads((folder / DESCRIPTION_FILE).read_bytes())
    files = (DESCRIPTION_FILE, WEIGHTS_FILE, CALIBRATION_FILE)
    return {
        "promise": calibration.promise,
        "input": config.input,
        "recipe": config.recipe.summary,
        **(_of_pixels(config) if config.input == "pixels" else {"features": config.features.model_dump(mode="json")}),
        "training": config.training.model_dump(),
        "looks": detector.judge.summary,
        "calibration": {
            "images": calibration.n_images,
            "false_reject_rate": calibration.false_reject_rate,
            "guaranteed_rate": calibration.guaranteed_rate,
            "confidence": calibration.confidence,
            "limit": calibration.limit,
            "id": calibration.id,
        },
        "snapshot_id": detector.snapshot_id,
        "format_version": document["format_version"],
        "versions": document["versions"],
        "size_bytes": sum((folder / name).stat().st_size for name in files),
    }


def _as_text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_as_text(item)}" for name, item in value.items() if item is not None)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _check_output(folder: Path, *, overwrite: bool) -> None:
    from ganomaly.saving import DESCRIPTION_FILE

    if folder.exists() and not folder.is_dir():
        raise UsageProblemError(f"{folder}: is a file; give a new folder for the detector")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / DESCRIPTION_FILE).is_file():
        raise UsageProblemError(f"{folder}: is not empty and holds no detector; give a new or empty folder")
    if not overwrite:
        raise UsageProblemError(f"{folder}: holds a detector; give --overwrite to replace it, or another folder")


def _check_table(output: Path) -> None:
    if output.exists() and not output.is_file():
        raise UsageProblemError(f"{output}: is no regular file; give the name of a CSV file to write")
    if output.suffix.lower() in IMAGE_SUFFIXES:
        raise UsageProblemError(f"{output}: is named like an image; give the name of a CSV file to write")


def _check_overlays(overlays: Path | None, folder: Path) -> None:
    if overlays is None:
        return
    if overlays.exists() and not overlays.is_dir():
        raise UsageProblemError(f"{overlays}: is a file; give a folder for the overlays")
    if folder.is_dir() and overlays.resolve().is_relative_to(folder.resolve()):
        raise UsageProblemError(
            f"{overlays}: lies in {folder}, where the next run would score the overlays; give a folder outside"
        )


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """Write to a neighbour of the file that takes its name at the end: readers never see half a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=Console(stderr=True),
    )


def _shown(path: Path) -> str:
    """The path as valid Unicode with forward slashes: names of other encodings would break table and terminal."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Say what is wrong in one line: a user needs the thing, the value and the way out, not a traceback."""
    import cv2

    from ganomaly import TrainingDivergedError

    # broken images are reported with their reason; OpenCV's lines would cut through the bar
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    except (OSError, ValueError, TrainingDivergedError) as error:
        message = str(error).encode("utf-8", "backslashreplace").decode("utf-8")
        typer.secho(f"error: {message}", fg="red", err=True)
        raise typer.Exit(1) from None
