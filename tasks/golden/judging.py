"""Judge the same images with several detectors, and what their verdicts on golden images are worth."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ganomaly import Detector
from ganomaly.images.preparation import prepare_image
from tasks.golden.golden_set import GoldenImage, fetch_golden, read_golden_set
from tasks.systems import Systems
from tasks.training.evaluate import Evaluation, evaluate

AT_ONCE = 32
"""Images that are judged together."""


@dataclass(frozen=True)
class Judgements:
    """What several detectors say about the same images.

    Attributes:
        scores: a table for each detector, a row for each image in the same order; columns key, raw_score,
            normalised_score, verdict, reason; missing scores are NaN.
        seconds: what each took for all images, preparation included.
    """

    scores: Mapping[str, pd.DataFrame]
    seconds: Mapping[str, float]

    def ms_per_image(self, name: str) -> float:
        """Time of one image, in milliseconds; NaN where there was none."""
        count = len(self.scores[name])
        return 1000 * self.seconds[name] / count if count else float("nan")


def judge_with(detectors: Mapping[str, Detector], images: Iterable[tuple[str, bytes]]) -> Judgements:
    """Judge encoded images, named by their keys, with each detector: in turns, so that all see the same machine."""
    rows: dict[str, list[tuple[object, ...]]] = {name: [] for name in detectors}
    seconds = dict.fromkeys(detectors, 0.0)
    coming = iter(images)
    while some := list(islice(coming, AT_ONCE)):
        for name, detector in detectors.items():
            started = time.perf_counter()
            prepared = [prepare_image(data, detector.config.recipe, detector.config.quality) for _, data in some]
            every = np.ones(len(prepared), dtype=bool)
            scores = iter(detector.score_prepared(detector.stack(prepared, every)))  # noqa: PD013 - no table
            seconds[name] += time.perf_counter() - started
            for (key, _), found in zip(some, prepared, strict=True):
                if found.usable:
                    score = next(scores)
                    rows[name].append((key, score.raw, score.normalised, score.verdict, None))
                else:
                    rows[name].append((key, None, None, "unusable", found.reason))
    columns = ["key", "raw_score", "normalised_score", "verdict", "reason"]
    floats = {"raw_score": "float64", "normalised_score": "float64"}
    tables = {name: pd.DataFrame(found, columns=columns).astype(floats) for name, found in rows.items()}
    return Judgements(tables, seconds)


@dataclass(frozen=True)
class GoldenJudgements:
    """What detectors say about a golden set.

    Attributes:
        images: with their SHA-256, in the order of the set.
        judged: their rows are in the same order; the key is the image's name.
    """

    images: tuple[GoldenImage, ...]
    judged: Judgements

    @property
    def defective_n(self) -> NDArray[np.bool_]:
        """Whether each image shows a defect."""
        return np.array([image.is_defective for image in self.images], dtype=bool)

    def evaluation(self, name: str) -> Evaluation | None:
        """A detector's verdicts against the truth; None where no good or no defective image was judged."""
        truth = {image.image: image.is_defective for image in self.images}
        try:
            return evaluate(self.judged.scores[name], truth)
        except ValueError:
            return None


def judge_golden(systems: Systems, detectors: Mapping[str, Detector]) -> GoldenJudgements:
    """Judge the line's golden set, which may be empty.

    Raises:
        GoldenSetError: if it cannot be read.
    """
    images: list[GoldenImage] = []

    def fetched() -> Iterable[tuple[str, bytes]]:
        for image, data in fetch_golden(systems, read_golden_set(systems)):
            images.append(image)
            yield image.image, data

    judged = judge_with(detectors, fetched())
    return GoldenJudgements(tuple(images), judged)
