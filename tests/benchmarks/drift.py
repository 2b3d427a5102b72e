"""How often an unchanged night is taken for a changed camera, and which changes are found.

    python -m tests.benchmarks.drift elpv-mono elpv-poly FOLDER ...

A set is a line of the demo, or a folder with train/good and test/good. What is usual is learned from the training
images, by the same code as in a night; a night is made of good images that training never saw. Prints Markdown.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import pandas as pd
import typer
from tqdm import tqdm

from deployments.demo.plant import LAST_DAY, LINES, week_of
from ganomaly import Detector
from ganomaly.config import DetectorConfig
from ganomaly.evaluation.machine import describe_machine
from ganomaly.images.preparation import prepare_image, read_image
from tasks.night.drift import MIN_IMAGES, SCORE, compare
from tasks.store.drift import FIGURES

Image = np.ndarray
Change = Callable[[Image], Image]
SEED = 0


def gain(factor: float) -> Change:
    """Less or more light."""
    return lambda image: np.clip(image * factor, 0, 255).astype(np.uint8)


def blur(share: float) -> Change:
    """Out of focus: deviation of a Gaussian as a share of the longer side."""
    return lambda image: cv2.GaussianBlur(image, (0, 0), share * max(image.shape[:2]))


def shift(share: float) -> Change:
    """The camera moved to the side, by a share of the longer side; what comes into view is mirrored."""

    def moved(image: Image) -> Image:
        height, width = image.shape[:2]
        matrix = np.array([[1, 0, share * max(height, width)], [0, 1, 0]], dtype=np.float64)
        return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)

    return moved


def dirt(share: float) -> Change:
    """Dark soft spots on the lens, always in the same places, of this diameter as a share of the longer side."""

    def dirty(image: Image) -> Image:
        height, width = image.shape[:2]
        mask = np.zeros((height, width), np.float32)
        for x, y in np.random.default_rng(SEED).uniform(0.1, 0.9, (5, 2)):
            cv2.circle(mask, (int(x * width), int(y * height)), max(1, int(share * max(height, width) / 2)), 1.0, -1)
        mask = cv2.GaussianBlur(mask, (0, 0), 0.01 * max(height, width))
        mask = mask if image.ndim == 2 else mask[..., None]
        return (image * (1 - 0.7 * mask)).astype(np.uint8)

    return dirty


def white_balance(factor: float) -> Change:
    """Less red; grey images stay as they are."""

    def warmer(image: Image) -> Image:
        if image.ndim == 2:
            return image
        return np.clip(image * np.array([factor, 1, 1]), 0, 255).astype(np.uint8)

    return warmer


CHANGES: dict[str, Change] = {
    **{f"light x {factor}": gain(factor) for factor in (0.9, 0.8, 0.6, 1.25)},
    **{f"blur {share:.1%} of the side": blur(share) for share in (0.002, 0.005, 0.01)},
    **{f"moved by {share:.0%}": shift(share) for share in (0.02, 0.05, 0.1)},
    **{f"five spots of {share:.0%}": dirt(share) for share in (0.03, 0.06)},
    **{f"red x {factor}": white_balance(factor) for factor in (0.95, 0.9, 0.8)},
}


def main(
    sets: Annotated[list[str], typer.Argument(help="Lines of the demo, or folders.")],
    night: Annotated[int, typer.Option(help="Images of a night.")] = 60,
    draws: Annotated[int, typer.Option(help="Unchanged nights of each kind and set.")] = 300,
) -> None:
    """Print the tables."""
    alarms, found = [], {}
    for name in sets:
        usual, days, good = images_of(name)
        detector = Detector.fit(usual, parts=None, config=DetectorConfig(), device="cpu")
        usual_figures, tonight = figures(usual, detector), figures(good, detector, scored=True)
        alarms.append(
            (Path(name).name, len(usual), *false_alarms(usual_figures, days, tonight, detector, night, draws))
        )
        some = [good[at] for at in np.linspace(0, len(good) - 1, min(len(good), night)).astype(int)]
        for change, apply in tqdm(CHANGES.items(), desc=Path(name).name):
            tonight = figures([apply(image) for image in some], detector, scored=True)
            found[Path(name).name, change] = changed_figures(tonight, usual_figures, days, detector)
    typer.echo(f"{describe_machine('cpu').summary}\n\n| set | usual images | halves of them | unseen good images |")
    typer.echo("| --- | ---: | ---: | ---: |")
    for name, count, halves, unseen in alarms:
        typer.echo(f"| {name} | {count} | {halves} | {unseen} |")
    names = [Path(name).name for name in sets]
    typer.echo("\n| change | " + " | ".join(names) + " |\n| --- |" + " --- |" * len(names))
    for change in CHANGES:
        typer.echo(f"| {change} | " + " | ".join(found[name, change] for name in names) + " |")


def images_of(name: str) -> tuple[list[Image], pd.Series, list[Image]]:
    """Training images with their production dates, and good ones that training never saw."""
    if name in LINES:
        cells = [cell for cell in week_of(name) if cell.defect_probability == 0]
        before = [cell for cell in cells if cell.day < LAST_DAY]
        paths, days = [cell.path for cell in before], [cell.day for cell in before]
        unseen = [cell.path for cell in cells if cell.day == LAST_DAY]
    else:
        paths, unseen = (sorted((Path(name) / part).iterdir()) for part in ("train/good", "test/good"))
        days = [LAST_DAY] * len(paths)
    recipe = DetectorConfig().recipe
    return [read_image(path, recipe) for path in paths], pd.Series(days), [read_image(path, recipe) for path in unseen]


def figures(images: Sequence[Image], detector: Detector, *, scored: bool = False) -> pd.DataFrame:
    """Quality figures of usable images and, where asked for, their raw scores."""
    config = detector.config
    prepared = [prepare_image(image, config.recipe, config.quality) for image in images]
    usable = [image for image in prepared if image.usable]
    table = pd.DataFrame(
        [{name: getattr(image.figures, name) for name in FIGURES} for image in usable], columns=FIGURES
    )
    if scored:
        every = np.ones(len(usable), dtype=bool)
        table[SCORE] = detector.raw_scores(detector.stack(usable, every)) if usable else []  # noqa: PD013 - no table
    return table


def changed_figures(tonight: pd.DataFrame, usual: pd.DataFrame, days: pd.Series, detector: Detector) -> str:
    """The names of the figures that a night would call changed; a dash for none."""
    if len(tonight) < MIN_IMAGES:
        return "too few usable"
    records = [compare(name, tonight[name], usual[name], days[: len(usual)]) for name in FIGURES]
    records.append(compare(SCORE, tonight[SCORE], pd.Series(detector.calibration.scores_n), None))
    return ", ".join(record.figure for record in records if record is not None and record.changed) or "none"


def false_alarms(
    usual: pd.DataFrame, days: pd.Series, unseen: pd.DataFrame, detector: Detector, night: int, draws: int
) -> tuple[str, str]:
    """Shares of unchanged nights that are suspect: one half of the usual images beside the other, and unseen images."""
    rng, halves, others = np.random.default_rng(SEED), 0, 0
    for _ in range(draws):
        order = rng.permutation(len(usual))
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        records = [compare(name, usual[name].iloc[first], usual[name].iloc[second], None) for name in FIGURES]
        halves += any(record is not None and record.changed for record in records)
        drawn = unseen.iloc[rng.permutation(len(unseen))[:night]]
        others += changed_figures(drawn, usual, days, detector) not in ("none", "too few usable")
    return f"{halves} of {draws}", f"{others} of {draws}" if len(unseen) >= MIN_IMAGES else f"only {len(unseen)}"


if __name__ == "__main__":
    typer.run(main)
