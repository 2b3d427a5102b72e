"""How well heat maps point at defects that are drawn into good images which the detector never saw.

    python tests/benchmarks/localisation.py elpv-mono --out var/localisation

The data are `elpv-mono` or `elpv-poly` (package elpv-dataset), `brick`, `grass` or `gravel` (package scikit-image),
`weave` (computed) or a folder of good images. A detector is trained on one part of them; into each of the others every
sort of defect is drawn in turn. OUT gets `localisation.md`, the table, and `KIND.png`, pictures to look at: image,
outline of the mask, overlay of the heat.
"""

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track

from ganomaly import Detector, DetectorConfig
from ganomaly.config import read_toml
from ganomaly.evaluation.baselines import PatchGaussian, PixelGaussian
from ganomaly.evaluation.drawn_defects import CONTRASTS, KINDS, SIZES
from ganomaly.evaluation.localisation import (
    LocalisationRow,
    MapScorer,
    WithoutNetwork,
    draw_sheet,
    mean_by_kind,
    measure_localisation,
)
from ganomaly.evaluation.protocols import IMAGE_SUFFIXES, elpv
from ganomaly.evaluation.textures import TEXTURES, texture
from ganomaly.images.preparation import prepare_images, read_image
from ganomaly.parts.roles import ROLES, split_by_part

LINES = Path(__file__).parents[2] / "deployments" / "lines"
ELPV = ("elpv-mono", "elpv-poly")

Images = list[np.ndarray]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
say = Console(stderr=True)


@app.command(help=__doc__)
def main(
    data: Annotated[str, typer.Argument(help=f"{', '.join((*ELPV, *TEXTURES))}, or a folder of good images.")],
    out: Annotated[Path, typer.Option(help="Folder for the table and the pictures.")],
    config: Annotated[
        Path | None, typer.Option(help="TOML file; default: the line's own, else the detector's defaults.")
    ] = None,
    train_images: Annotated[int, typer.Option(help="At most so many good images train and calibrate.")] = 1000,
    test_images: Annotated[int, typer.Option(help="At most so many good images carry defects.")] = 40,
    crop_px: Annotated[int, typer.Option(help="Side of a surface's crops, 32 to 128.")] = 128,
    epochs: Annotated[int | None, typer.Option(help="Instead of the configuration's.")] = None,
    seed: Annotated[int, typer.Option(help="Deals out the images, draws weights and defects.")] = 0,
) -> None:
    """Train, draw, measure, write."""
    train, parts, test = good_images(data, train_images, test_images, crop_px, seed)
    out.mkdir(parents=True, exist_ok=True)  # before minutes of training
    settings = configure(data, config, epochs, seed)
    say.print(f"{len(train)} images train and calibrate, {len(test)} carry defects; {settings.recipe.summary}")
    started = time.monotonic()
    detector = fit(train, parts, settings, by_stripe=data in TEXTURES)
    seconds = time.monotonic() - started
    sorts = len(KINDS) * len(SIZES) * len(CONTRASTS)
    rows = {
        name: list(track(measure_localisation(locator, test, seed=seed), name, total=sorts, console=say))
        for name, locator in {config_name(settings): detector, **baselines(settings, train)}.items()
    }
    text = "\n".join([conditions(data, detector, len(train), seconds, seed), *tables(rows)])
    (out / "localisation.md").write_text(text + "\n", encoding="utf-8")
    for kind in KINDS:
        sheet = draw_sheet(detector, test, kind, seed=seed)
        cv2.imwrite(str(out / f"{kind}.png"), sheet[:, :, ::-1])
    typer.echo(text)
    say.print(f"pictures: {out}/KIND.png")


def fit(images: Images, parts: list[str], settings: DetectorConfig, *, by_stripe: bool) -> Detector:
    """A detector of these images. Crops of a surface are dealt out by stripe, and all of a stripe set the limit.

    A stripe is no part: `Detector.fit` would take one crop of each, which are too few for any promise.
    """
    if not by_stripe:
        return Detector.fit(images, parts=parts, config=settings)
    detector, promise = Detector(settings), settings.calibration
    prepared = list(detector.prepare_all(images))
    roles = split_by_part(
        parts,
        fit_fraction=promise.fit_fraction,
        calibrate_fraction=promise.calibrate_fraction,
        seed=settings.training.seed,
    )
    pixels = {role: detector.stack(prepared, roles == role) for role in ROLES}
    for _ in detector.train(pixels["train"]):
        pass
    detector.calibrate(np.concatenate([pixels["train"], pixels["fit"]]), pixels["calibrate"])
    return detector


def good_images(data: str, n_train: int, n_test: int, crop_px: int, seed: int) -> tuple[Images, list[str], Images]:
    """Images to train with, their parts, and images to draw into: a fifth at least, on other parts."""
    if data in TEXTURES:
        surface = texture(data, side_px=crop_px, train_images=n_train, test_normal=n_test, test_abnormal=1, seed=seed)
        chosen, normal = surface.split.train, surface.split.test[:n_test]
        return list(surface.data.images[chosen]), surface.data.parts[chosen].tolist(), list(surface.data.images[normal])
    files = good_files(data)
    order = np.random.default_rng(seed).permutation(len(files))
    n_test = min(n_test, len(files) // 5)
    test, train = order[:n_test], order[n_test : n_test + n_train]
    images = {i: read_image(files[i]) for i in [*test, *train]}
    return [images[i] for i in train], [str(files[i]) for i in train], [images[i] for i in test]


def good_files(data: str) -> list[Path]:
    """Paths of the good images of a data set or of a folder."""
    if data in ELPV:
        cells = elpv(data.removeprefix("elpv-"))
        return [path for path, label in zip(cells.images, cells.labels, strict=True) if label == "normal"]
    files = sorted(path for path in Path(data).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise typer.BadParameter(f"{data}: neither {', '.join((*ELPV, *TEXTURES))} nor a folder with images")
    return files


def configure(data: str, path: Path | None, epochs: int | None, seed: int) -> DetectorConfig:
    """The detector's part of a configuration or line file; the gate is open for surfaces, which may well be smooth."""
    line = LINES / f"{data}.toml"
    values = read_toml(path or line) if path or line.is_file() else {}
    values = {name: table for name, table in values.items() if name in DetectorConfig.model_fields}
    if data in TEXTURES:
        values.setdefault("quality", {"min_sharpness": 0.0})
    training = values.get("training", {}) | {"seed": seed} | ({} if epochs is None else {"epochs": epochs})
    return DetectorConfig.model_validate({"input": "pixels"} | values | {"training": training})


def config_name(settings: DetectorConfig) -> str:
    """What the detector is called in the table."""
    return f"{settings.model.kind}, {settings.score.method}"


def baselines(settings: DetectorConfig, images: Images) -> dict[str, WithoutNetwork]:
    """What needs no network and has maps, fitted on all images that the detector was given."""
    prepared = [image.pixels for image in prepare_images(images, settings.recipe, settings.quality) if image.usable]
    pixels = np.array(prepared)
    fitted: dict[str, MapScorer] = {
        "patch Gaussian": PatchGaussian.fit(pixels),
        "pixel Gaussian": PixelGaussian.fit(pixels),
    }
    return {name: WithoutNetwork(settings, scorer) for name, scorer in fitted.items()}


def conditions(data: str, detector: Detector, n_train: int, seconds: float, seed: int) -> str:
    """What the table was measured with."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=LINES, capture_output=True, text=True, check=False
    ).stdout.strip()
    config = detector.config
    surface = "" if detector.judge.heads is None else f"A surface? {detector.judge.heads.summary}. "
    return (
        f"# Localisation on {data}\n\n{n_train} good images train and calibrate ({seconds:.0f} s, "
        f"{config.training.epochs} epochs); {config.recipe.summary}. Each cell: image AUROC / pixel AUROC / AUPRO; "
        f"a map that knows nothing has a pixel AUROC of 0.5 and an AUPRO of 0.15. {surface}"
        f"Seed {seed}, commit {commit or 'unknown'}, torch {torch.__version__} on {detector.device}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}.\n"
    )


def tables(rows: dict[str, list[LocalisationRow]]) -> list[str]:
    """Means for each kind, then every sort; a column for each method."""
    head = [f"{' | '.join(rows)} |", f"{' | '.join('---:' for _ in rows)} |"]
    means = {name: mean_by_kind(of_method) for name, of_method in rows.items()}
    lines = [f"| kind, mean of all | {head[0]}", f"| --- | {head[1]}"]
    lines += [f"| {kind} | " + " | ".join(cell(m[kind]) for m in means.values()) + " |" for kind in KINDS]
    every = [np.mean(list(m.values()), axis=0) for m in means.values()]
    lines += ["| all kinds | " + " | ".join(cell(values) for values in every) + " |"]
    clear = [
        np.mean(list(mean_by_kind([r for r in of if r.contrast != "faint"]).values()), axis=0) for of in rows.values()
    ]
    lines += ["| all kinds, medium and strong | " + " | ".join(cell(values) for values in clear) + " |", ""]
    lines += [f"| kind | size | contrast | images | {head[0]}", f"| --- | --- | --- | ---: | {head[1]}"]
    for same in zip(*rows.values(), strict=True):
        cells = " | ".join(cell((row.image_auroc, row.pixel_auroc, row.aupro)) for row in same)
        lines += [f"| {same[0].kind} | {same[0].size} | {same[0].contrast} | {same[0].images} | {cells} |"]
    return lines


def cell(figures: Sequence[float]) -> str:
    """Image AUROC, pixel AUROC and AUPRO."""
    return " / ".join(f"{figure:.2f}" for figure in figures)


if __name__ == "__main__":
    app()
