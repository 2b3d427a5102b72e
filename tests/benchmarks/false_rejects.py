"""Do few images keep what they promise? Hundreds of draws of good images, each cross-fitted and tried on others.

    python -m tests.benchmarks.false_rejects elpv-mono elpv-poly --images 20,40,80 --draws 100
    python -m tests.benchmarks.false_rejects FOLDER --images 10 --part-pattern REGEX --rate 0.1

Of each set all good images are looked at once, at a small resolution. Each draw takes some of the parts, fits and
calibrates as a detector does, and judges one image of every other part: the share that is flagged, averaged over draws,
is what the promise is about. FOLDER has the layout of MVTec AD; `train/good` and `test/good` are pooled, so that parts
are exchangeable.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from ganomaly import Detector, DetectorConfig
from ganomaly.evaluation.datasets import elpv
from ganomaly.evaluation.folders import SUFFIXES
from ganomaly.images.preparation import ImageSource
from ganomaly.judges.features import BATCH, FeatureJudge
from ganomaly.parts.part_names import parts_from_names
from ganomaly.parts.roles import FOLDS
from ganomaly.scoring.calibration import Calibration
from ganomaly.scoring.score import NormalMaps
from ganomaly.scoring.scores import FittedScores, FoldScores, Judged


def good_images(data: str, pattern: str | None) -> tuple[list[ImageSource], np.ndarray]:
    """The good images of a set and the part of each."""
    if data in ("elpv-mono", "elpv-poly"):
        cells = elpv("mono" if data == "elpv-mono" else "poly")
        normal = np.flatnonzero(cells.labels == "normal")
        return [cells.images[at] for at in normal.tolist()], cells.parts[normal]
    paths = sorted(p for half in ("train", "test") for p in (Path(data) / half / "good").glob("*"))
    paths = [path for path in paths if path.suffix.lower() in SUFFIXES]
    names = [path.name for path in paths]
    return list(paths), np.array(names if pattern is None else parts_from_names(names, pattern))


def main(
    data: Annotated[list[str], typer.Argument(help="elpv-mono, elpv-poly or folders.")],
    images: Annotated[str, typer.Option(help="Parts to learn from.")] = "20,40,80",
    draws: Annotated[int, typer.Option(min=2)] = 100,
    rate: Annotated[float, typer.Option(help="False-reject rate that is asked for.")] = 0.05,
    resolution: Annotated[int, typer.Option(help="Longer side, px.")] = 128,
    part_pattern: Annotated[str | None, typer.Option(help="Where the part id stands in a file name.")] = None,
) -> None:
    """Print a table of promised, guaranteed and observed shares of good images that are flagged."""
    torch.set_num_threads(1)
    typer.echo("| data | parts | draws | promised | guaranteed | observed, mean of draws | worst tenth of draws |")
    typer.echo("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in data:
        sources, parts = good_images(name, part_pattern)
        config = DetectorConfig.model_validate(
            {"input": "features", "recipe": {"resolution": resolution, "align": "none"}}
        )
        config = config.fitted_to(sources)
        detector = Detector(config, device="cpu")
        assert isinstance(detector.judge, FeatureJudge)
        prepared = list(detector.prepare_all(sources))
        usable = np.array([one.usable for one in prepared])
        pixels = [one.pixels for one in prepared if one.pixels is not None]
        vectors = detector.judge.vectors.of_all(pixels)[np.arange(len(pixels))]
        for n in (int(text) for text in images.split(",")):
            shares, guaranteed = [], 0.0
            for seed in range(draws):
                share, guaranteed = one_draw(vectors, parts[usable], n, rate, seed, detector.judge)
                shares.append(share)
            worst = np.quantile(shares, 0.9)
            figures = f"{rate:.1%} | {guaranteed:.1%} | {np.mean(shares):.1%} | {worst:.1%}"
            typer.echo(f"| {Path(name).name} | {n} | {draws} | {figures} |")


def one_draw(
    vectors: np.ndarray, parts: np.ndarray, n: int, rate: float, seed: int, judge: FeatureJudge
) -> tuple[float, float]:
    """The share of one image of each other part that is flagged, and the guaranteed rate."""
    rng = np.random.default_rng(seed)
    names = rng.permutation(np.unique(parts))
    folds = min(FOLDS, n)
    fold_of = {name: at % folds for at, name in enumerate(names[:n].tolist())}
    learned = np.flatnonzero(np.isin(parts, names[:n]))
    fold = np.array([fold_of[part] for part in parts[learned].tolist()])
    calibrates = one_of_each(parts[learned], rng)
    others = np.flatnonzero(~np.isin(parts, names[:n]))
    tested = vectors[others[one_of_each(parts[others], rng)]]
    held_out, of_fits = np.zeros(len(learned)), np.zeros((folds, len(tested)))
    for k in range(folds):
        fitted = fit(vectors[learned[fold != k]], judge)
        held_out[fold == k] = scores(fitted, vectors[learned[fold == k]])
        of_fits[k] = scores(fitted, tested)
    fold_size = int(np.bincount(fold[calibrates]).max())
    calibration = Calibration.fit(held_out[calibrates], rate, fold_size=fold_size)
    joined = FoldScores.of(held_out[calibrates], fold[calibrates]).joined(torch.from_numpy(of_fits)).numpy()
    return float(calibration.flagged(joined).mean()), calibration.guaranteed_rate


def one_of_each(parts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The index of one image of each part."""
    order = rng.permutation(len(parts))
    return order[np.unique(parts[order], return_index=True)[1]]


def fit(vectors_nlk: np.ndarray, judge: FeatureJudge) -> FittedScores:
    """The scores of some images."""
    x_nlk = torch.from_numpy(vectors_nlk.astype(np.float32))
    mean_k, scale_k = x_nlk.mean((0, 1)), x_nlk.std((0, 1)) + 1e-4
    standard = (x_nlk - mean_k) / scale_k
    normal = NormalMaps(lambda: standard.split(BATCH), judge.vectors.grid, len(x_nlk), None, 0)
    return FittedScores.fit(mean_k, scale_k, normal, judge.vectors.n_fields)


def scores(fitted: FittedScores, vectors_nlk: np.ndarray) -> np.ndarray:
    """Scores of some images by one fit."""
    x_nlk = torch.from_numpy(vectors_nlk.astype(np.float32))
    return Judged([fitted.maps(x_nlk, None)], [fitted.deviations(x_nlk)], [None]).score_b


if __name__ == "__main__":
    typer.run(main)
