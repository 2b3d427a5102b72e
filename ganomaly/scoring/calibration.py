"""From a raw score to a verdict: conformal p-value, reject limit, normalised score; fitted on held-out normal images.

For exchangeable images the p-value p = (1 + #{c_i >= s}) / (n + 1) of a good part is at most alpha with probability at
most alpha, whatever the score and the network (Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World").

That is an average over all calibrations that might have been drawn; the one that was drawn may lie above it. For
independent images the true false-reject rate of one calibration is distributed as a Beta variable (Vovk 2012,
"Conditional validity of inductive conformal predictors", section 2), so that a somewhat higher limit keeps the rate
with a confidence 1 - delta of one's choice.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import bdtr

from ganomaly.errors import TrainingDataError

MOST_MORE = 1.2
"""Times the calibration images that were asked for: others have to be left to learn from."""


class CalibrationConfig(BaseModel):
    """The promise, and how many of the normal images are held back to keep it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    false_reject_rate: float = Field(
        0.05, gt=0, lt=1, description="alpha: the share of good parts that may be flagged; decides the reject limit"
    )
    sure_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="the share of good parts that may be flagged as sure, less than false_reject_rate: a second, "
        "stricter limit. It moves no verdict, and takes at least 1/rate - 1 calibration images; none: no flag is "
        "called sure",
    )
    confidence: float | None = Field(
        None,
        ge=0.5,
        lt=1,
        description="1 - delta: how sure it is that this calibration keeps the rate, at the price of a higher limit "
        "and more images; none: it is kept on average over calibrations",
    )
    calibrate_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="about the share of the parts that only sets the limit: the rate is not wasted",
    )
    statistics_fraction: float = Field(
        0.1, ge=0, lt=1, description="share of the parts that fits the score without training the networks"
    )
    cross_fit: Literal["auto", "never"] = Field(
        "never",
        description="auto: where few parts could be held out, statistics are fitted several times, each time without "
        "some of the parts, and every part calibrates; never: some parts are held out however few there are. Default: "
        "auto for features, never for pixels, whose networks would be trained several times",
    )
    trim: float = Field(
        0.0,
        ge=0,
        le=0.2,
        description="features: share of the parts that look least like all others and are left out before anything is "
        "learned, where defects may hide among the images; where they were good parts, up to this share more good "
        "parts are flagged",
    )
    near_duplicates: Literal["group", "ignore"] = Field(
        "group",
        description="group: images that look like photos of one part count as one part, whatever their part ids; "
        "ignore: only part ids count",
    )

    @model_validator(mode="after")
    def _is_stricter(self) -> Self:
        if self.sure_rate is not None and self.sure_rate >= self.false_reject_rate:
            raise ValueError(
                f"sure_rate = {self.sure_rate:g}: must be less than false_reject_rate = {self.false_reject_rate:g}"
            )
        return self

    @model_validator(mode="after")
    def _leaves_images_for_training(self) -> Self:
        if self.calibrate_fraction + self.statistics_fraction >= 1:
            raise ValueError(
                f"calibrate_fraction + statistics_fraction = {self.calibrate_fraction + self.statistics_fraction:g}: "
                "must be less than 1, the rest trains the networks"
            )
        return self


def required_calibration_images(false_reject_rate: float, confidence: float | None = None) -> int:
    """The smallest n for which an image can be flagged at all.

    On average: n >= 1/alpha - 1. With confidence 1 - delta: also (1 - alpha)^n <= delta, the chance that not even the
    highest calibration score lies among the highest alpha of all.
    """
    on_average = math.ceil(1 / false_reject_rate - 1 - 1e-9)
    if confidence is None:
        return on_average
    return max(on_average, math.ceil(math.log1p(-confidence) / math.log1p(-false_reject_rate) - 1e-9))


def without_waste(n_images: int, false_reject_rate: float, confidence: float | None = None) -> int:
    """The number of calibration images nearest to another whose p-values meet the rate: (n + 1) * rate is whole.

    p-values come in steps of 1 / (n + 1): 51 images keep a rate of 5 % by flagging 2 of 52, which is 3.8 %, and miss
    defects for it; 59 flag 3 of 60. Too few images stay as they are, and so do those of a promise with a confidence,
    which wastes nothing in this way.
    """
    if confidence is not None or n_images < required_calibration_images(false_reject_rate):
        return n_images
    beyond = math.floor((n_images + 1) * false_reject_rate + 1e-9)
    below, above = (math.ceil(k / false_reject_rate - 1e-9) - 1 for k in (beyond, beyond + 1))
    return above if above - n_images < n_images - below and above <= MOST_MORE * n_images else below


def too_few_images(n_images: int, false_reject_rate: float, confidence: float | None) -> str | None:
    """What is wrong with a number of calibration images, None if it is enough."""
    needed = required_calibration_images(false_reject_rate, confidence)
    if n_images >= needed:
        return None
    if confidence is None:
        return f"a false-reject rate of {false_reject_rate:g} takes at least {needed} (n >= 1/rate - 1)"
    return (
        f"a false-reject rate of {false_reject_rate:g} with confidence {confidence:g} takes at least {needed} "
        "((1 - rate)^n <= 1 - confidence)"
    )


def plausible_false_rejects(images: int, n_calibration: int, n_above: int) -> int | None:
    """How many of a night's good images can be flagged without surprise: the 95 % quantile.

    With n calibration images of which k - 1 score above the limit, the true false-reject rate is distributed as
    Beta(k, n + 1 - k), so that the number among m good images is beta-binomial (Vovk 2012, section 2).

    Args:
        images: m, good ones.
        n_calibration: n.
        n_above: k - 1; less than the rate alone would allow where the promise has a confidence.

    Returns:
        None where no image can be flagged.
    """
    k, rest = n_above + 1, n_calibration - n_above
    if k < 1 or rest < 1:
        return None
    j = np.arange(images, dtype=np.float64)
    log_ratios = np.log((images - j) * (k + j)) - np.log((j + 1) * (rest + images - j - 1))
    log_none = math.lgamma(rest + images) + math.lgamma(k + rest) - math.lgamma(rest) - math.lgamma(k + rest + images)
    cumulative = np.cumsum(np.exp(np.concatenate([[log_none], log_none + np.cumsum(log_ratios)])))
    return min(int(np.searchsorted(cumulative, 0.95)), images)


@dataclass(frozen=True)
class Calibration:
    """Scores of held-out normal images and the limit they set.

    Attributes:
        scores_n: float64 (n,), ascending raw scores of the calibration images.
        false_reject_rate: alpha in (0, 1).
        confidence: 1 - delta in [0.5, 1): how surely the rate is kept; None when it is kept on average.
        fold_size: parts that were left out together when statistics were cross-fitted; 0 where calibration images
            were held out.
        trimmed_share: share of the parts that were left out as suspects, see `CalibrationConfig.trim`.
        sure_rate: a second promise, stricter than alpha, that takes part in no verdict; None for none.
    """

    scores_n: NDArray[np.float64]
    false_reject_rate: float
    confidence: float | None = None
    fold_size: int = 0
    trimmed_share: float = 0.0
    sure_rate: float | None = None

    @classmethod
    def fit(
        cls,
        scores: ArrayLike,
        false_reject_rate: float,
        confidence: float | None = None,
        fold_size: int = 0,
        trimmed_share: float = 0.0,
        sure_rate: float | None = None,
    ) -> Self:
        """Calibrate on raw scores (n,) of normal images, each given by statistics that did not see that image.

        Raises:
            TrainingDataError: with too few scores for the rate and confidence, see `required_calibration_images`.
            ValueError: if a score is not finite.
        """
        values = np.sort(np.asarray(scores, dtype=np.float64))
        if (fault := too_few_images(len(values), false_reject_rate, confidence)) is not None:
            raise TrainingDataError(
                f"{len(values)} calibration images are too few: {fault}; add normal images, raise "
                "calibration.calibrate_fraction or allow a higher calibration.false_reject_rate"
            )
        if not np.isfinite(values).all():
            raise ValueError("a calibration score is not finite: the networks or the score's statistics are broken")
        return cls(values, false_reject_rate, confidence, fold_size, trimmed_share, sure_rate)

    def with_rate(self, false_reject_rate: float) -> Self:
        """The calibration that the same scores give for another rate; no flag is sure if the rate is that strict.

        Raises:
            TrainingDataError: if they are too few for it.
        """
        sure_rate = self.sure_rate if self.sure_rate is not None and self.sure_rate < false_reject_rate else None
        rest = (self.confidence, self.fold_size, self.trimmed_share, sure_rate)
        return type(self).fit(self.scores_n, false_reject_rate, *rest)

    @property
    def sure(self) -> "Calibration | None":
        """The same scores with the second promise: what it flags is sure. None without one, or with too few scores."""
        if self.sure_rate is None or too_few_images(self.n_images, self.sure_rate, self.confidence):
            return None
        return Calibration(self.scores_n, self.sure_rate, self.confidence, self.fold_size, self.trimmed_share)

    @property
    def guaranteed_rate(self) -> float:
        """Upper bound of the expected share of good parts that are flagged, whatever the score and the distribution.

        Where images were held out, the false-reject rate itself. With cross-fitted statistics a new image is flagged if
        at most a calibration images are as high, each compared by the fit that saw neither (CV+, see
        `FoldScores.joined`). Put the new image into one more fold of m: the n + m images are exchangeable. Call those
        strange that at most a images *outside their fold* match. Of two strange images of different folds at least one
        is matched by the other; s of them make at least s (s - m) / 2 such pairs and at most s a, so that s <= 2a + m,
        and the share is at most (2a + m) / (n + m) (the counting of Barber, Candes, Ramdas and Tibshirani 2021,
        "Predictive inference with the jackknife+", proof of theorem 4). It is an upper bound for the worst score
        imaginable; what is observed lies near the rate itself (docs/detection.md).

        Where suspects were left out, a new good part is one that would have been left out, or it is like the rest: the
        share that was left out is added.
        """
        return min(1.0, self._bound_of_the_rest + self.trimmed_share)

    @property
    def _bound_of_the_rest(self) -> float:
        """`guaranteed_rate` of parts that would not have been left out as suspects."""
        if not self.fold_size:
            return self.false_reject_rate
        return (2 * self.n_above + self.fold_size) / (self.n_images + self.fold_size)

    @property
    def n_images(self) -> int:
        """Number n of calibration images."""
        return len(self.scores_n)

    @property
    def lowest(self) -> float:
        """The smallest calibration score, where the normalised score is 0."""
        return float(self.scores_n[0])

    @property
    def n_above(self) -> int:
        """How many calibration scores lie above the limit, or are tied with one that does.

        On average: p <= alpha allows floor(alpha (n + 1)) - 1 calibration scores at or above a flagged one. With
        confidence: the true rate of a limit with r scores above it is Beta(r + 1, n - r) for continuous scores, lower
        for tied ones, and exceeds alpha with the probability that at most r of n independent scores lie among the
        highest alpha of all. r is the largest for which that is at most delta.
        """
        on_average = math.floor(self.false_reject_rate * (self.n_images + 1) + 1e-9) - 1
        if self.confidence is None:
            return on_average
        exceeds_r = bdtr(np.arange(on_average + 1), self.n_images, self.false_reject_rate)
        return int(np.searchsorted(exceeds_r, 1 - self.confidence, side="right")) - 1

    @property
    def limit(self) -> float:
        """The rejecting calibration score: an image is flagged when its raw score is greater."""
        return float(self.scores_n[self.n_images - 1 - self.n_above])

    @property
    def p_value_limit(self) -> float:
        """An image is flagged when its p-value is at most this: alpha, or less where the promise has a confidence."""
        return self.false_reject_rate if self.confidence is None else (self.n_above + 1) / (self.n_images + 1)

    @property
    def id(self) -> str:
        """Content hash of scores, rate and confidence: 12 hexadecimal digits."""
        digest = hashlib.sha256(np.ascontiguousarray(self.scores_n, dtype="<f8").tobytes())
        digest.update(repr(float(self.false_reject_rate)).encode())
        if self.confidence is not None:
            digest.update(repr(float(self.confidence)).encode())
        if self.fold_size:
            digest.update(repr(self.fold_size).encode())
        if self.trimmed_share:
            digest.update(f"trimmed {self.trimmed_share!r}".encode())
        return digest.hexdigest()[:12]

    @property
    def promise(self) -> str:
        """What the limit promises, in a sentence or two for people."""
        said = self._promise_of_the_rest + self._promise_of_sure
        if not self.trimmed_share:
            return said
        return (
            f"{said} {self.trimmed_share:.1%} of the parts, which look least like all others, were left out as "
            f"suspects: if they were good, up to {self.guaranteed_rate:.2%} of good parts are flagged."
        )

    @property
    def _promise_of_sure(self) -> str:
        if self.sure_rate is None:
            return ""
        if (fault := too_few_images(self.n_images, self.sure_rate, self.confidence)) is not None:
            return f" No flag is sure: {fault}, there are {self.n_images} calibration images."
        assert self.sure is not None
        bound = self.sure.guaranteed_rate
        said = f" Sure are flags with a raw score above {self.sure.limit:.4f}: {self.sure_rate:.2%} of good parts"
        return f"{said}." if bound <= self.sure_rate + 1e-9 else f"{said}, guaranteed is at most {bound:.2%}."

    @property
    def _promise_of_the_rest(self) -> str:
        rate, limit = f"{self.false_reject_rate:.2%}", f"(raw score above {self.limit:.4f})"
        parts = f"of good parts like the {self.n_images} calibration images"
        if self.fold_size and self._bound_of_the_rest > self.false_reject_rate + 1e-9:
            return (
                f"{parts.capitalize()}, {rate} are expected to be flagged {limit}; guaranteed is at most "
                f"{self._bound_of_the_rest:.2%}, because statistics were cross-fitted on few parts. Holding out "
                f"{required_calibration_images(self.false_reject_rate, self.confidence)} of more parts guarantees the "
                "rate itself."
            )
        if self.confidence is None:
            return f"{parts.capitalize()}, at most {rate} are expected to be flagged {limit}."
        return f"With {100 * self.confidence:g}% confidence, at most {rate} {parts} are flagged {limit}."

    def p_value(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Conformal p-values in [1/(n+1), 1] of raw scores (m,)."""
        below = np.searchsorted(self.scores_n, np.asarray(scores, dtype=np.float64), side="left")
        p: NDArray[np.float64] = (1 + self.n_images - below) / (self.n_images + 1)
        return p

    def flagged(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """Whether raw scores (m,) exceed the limit, as p <= `p_value_limit` says. What is not a number is flagged."""
        return ~(np.asarray(scores, dtype=np.float64) <= self.limit)

    def is_sure(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """True for raw scores (m,) that the second promise flags, too; for none without one."""
        scores_m = np.asarray(scores, dtype=np.float64)
        return scores_m > self.sure.limit if self.sure is not None else np.zeros(scores_m.shape, dtype=bool)

    def normalise(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Normalised scores in [0, 1): r / (1 + r) with r = max(0, s - lowest) / (limit - lowest); 0.5 is the limit."""
        excess = np.maximum(0.0, np.asarray(scores, dtype=np.float64) - self.lowest)
        # all calibration scores alike: any excess is beyond the limit, down to the smallest that there is
        span = max(self.limit - self.lowest, np.spacing(abs(self.limit)))
        normalised: NDArray[np.float64] = excess / (excess + span)
        return np.minimum(normalised, np.nextafter(1.0, 0.0))
