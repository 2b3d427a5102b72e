"""Would something without a network serve a line better? Evidence from defects drawn into images that fitted nothing.

Nobody has defective images when a line starts, but everybody has held-out good ones: defects of known kinds are drawn
into them, and the detector has to tell these from the untouched ones better than the baselines do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ganomaly.detector import Detector
from ganomaly.evaluation.baselines import BASELINES, Scorer
from ganomaly.evaluation.drawn_defects import KINDS, Kind, draw_defect
from ganomaly.images.preparation import Prepared
from ganomaly.parts.roles import Plan

COMPARED = ("nearest_image", "patch_gaussian")
MAX_HELD_OUT = 64
MAX_FITTED = 2048
LEAST_HELD_OUT = 10
LEAST_GAIN = 0.1
"""AUROC that a baseline must surely be ahead by. Drawn defects are small and sharp, which favours patches: on elpv-poly
the patch Gaussian is surely ahead of the fused score by 0.06, but far behind on real defects."""
DOUBT = 0.01
RESAMPLED = 500


@dataclass(frozen=True)
class BaselineCheck:
    """How detector and best baseline tell drawn defects from good images.

    Attributes:
        baseline: name of the better baseline.
        baseline_auroc: its AUROC, mean over the kinds of defect, in [0, 1].
        detector_auroc: the detector's.
        surely_ahead_by: what the baseline is ahead by in all but 1 % of resampled sets of images; may be negative.
        images: held-out good images.
        kinds: the kinds of defect that could be drawn into them.
    """

    baseline: str
    baseline_auroc: float
    detector_auroc: float
    surely_ahead_by: float
    images: int
    kinds: tuple[Kind, ...]

    @property
    def warning(self) -> str | None:
        """What is wrong and what to do, for people; None unless the baseline is surely far ahead."""
        if self.surely_ahead_by <= LEAST_GAIN:
            return None
        return (
            f"without any network {self.baseline} serves this line better: with defects drawn into {self.images} "
            f"held-out good images (kinds: {', '.join(self.kinds)}) its AUROC is {self.baseline_auroc:.2f}, the "
            f"detector's {self.detector_auroc:.2f}. Raise training.epochs, add images of good parts, or try another "
            "score.method or recipe; if you have images of real defects, let `ganomaly benchmark` compare on those"
        )


def check_detector(detector: Detector, prepared: Sequence[Prepared], plan: Plan) -> BaselineCheck | None:
    """Compare a detector with what needs no network, on the images that it learned from and those that it did not.

    Returns:
        None where the question does not arise: for features, whose network nobody trained here, and for AnoGAN, which
        takes seconds for an image; and see `check_against_baselines`.
    """
    config = detector.config
    if config.input == "features" or config.model.kind == "anogan":
        return None
    fitted, held_out = (detector.stack(prepared, np.isin(plan.roles, r)) for r in (("train", "fit"), ("calibrate",)))
    assert isinstance(fitted, np.ndarray)
    assert isinstance(held_out, np.ndarray)
    return check_against_baselines(detector, fitted, held_out, seed=config.training.seed)


def check_against_baselines(
    detector: Scorer, fit_nhwc: NDArray[np.uint8], held_out_nhwc: NDArray[np.uint8], *, seed: int = 0
) -> BaselineCheck | None:
    """Compare a detector with what needs no network.

    Takes seconds: at most 64 images carry each kind of defect, and at most 2,048 fit the baselines.

    Args:
        detector: fitted; gives raw scores of prepared images.
        fit_nhwc: prepared good images that it was fitted on, uint8 (N, S, S, C).
        held_out_nhwc: prepared good images that it was not fitted on, uint8 (M, S, S, C).
        seed: draws the defects and resamples the images.

    Returns:
        None if there are too few images, or images in which no defect can be seen.
    """
    good = held_out_nhwc[:: max(1, -(-len(held_out_nhwc) // MAX_HELD_OUT))]
    drawn = {} if len(good) < LEAST_HELD_OUT or len(fit_nhwc) < 2 else _draw(good, seed)
    if not drawn:
        return None
    fitting = fit_nhwc[:: max(1, -(-len(fit_nhwc) // MAX_FITTED))]
    scorers = {name: BASELINES[name](fitting) for name in COMPARED}
    found = {name: _wins(scorer, good, list(drawn.values())) for name, scorer in scorers.items()}
    of_detector = _wins(detector, good, list(drawn.values()))
    best = max(COMPARED, key=lambda name: float(found[name].mean()))
    return BaselineCheck(
        baseline=best,
        baseline_auroc=float(found[best].mean()),
        detector_auroc=float(of_detector.mean()),
        surely_ahead_by=_surely(found[best] - of_detector, seed),
        images=len(good),
        kinds=tuple(drawn),
    )


def _draw(good_nhwc: NDArray[np.uint8], seed: int) -> dict[Kind, NDArray[np.uint8]]:
    """All images with each kind of defect; a kind that cannot be drawn into every image is left out."""
    drawn = {}
    for number, kind in enumerate(KINDS):
        rng = np.random.default_rng([seed, number])
        try:
            images = [
                draw_defect(image.squeeze(-1) if image.shape[-1] == 1 else image, kind, rng) for image in good_nhwc
            ]
        except ValueError:  # such as a texture patch in an image of one grey level
            continue
        drawn[kind] = np.stack([found.image for found in images]).reshape(good_nhwc.shape)
    return drawn


def _wins(scorer: Scorer, good_nhwc: NDArray[np.uint8], drawn: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """How often image m with a defect beats good image n, mean over the kinds, (N, N); the mean of it is the AUROC."""
    good_n = scorer.raw_scores(good_nhwc)
    wins = np.zeros((len(good_n), len(good_n)))
    for images in drawn:
        drawn_m = scorer.raw_scores(images)
        wins += (drawn_m > good_n[:, None]) + 0.5 * (drawn_m == good_n[:, None])
    return wins / len(drawn)


def _surely(gain_nm: NDArray[np.float64], seed: int) -> float:
    """The quantile `DOUBT` of the mean gain when images are drawn anew from those at hand."""
    n = len(gain_nm)
    weights_rn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLED) / n
    gains_r = np.einsum("rn,nm,rm->r", weights_rn, gain_nm, weights_rn, optimize=True)
    return float(np.quantile(gains_r, DOUBT))
