"""From a raw score to a verdict: conformal p-value, reject limit, normalised score; fitted on held-out normal images.

For exchangeable images the p-value p = (1 + #{c_i >= s}) / (n + 1) of a good part is at most alpha with probability at
most alpha, whatever the score and the network (Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World").
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ganomaly.errors import TrainingDataError


class CalibrationConfig(BaseModel):
    """The promise, and how many of the normal images are held back to keep it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    false_reject_rate: float = Field(
        0.05, gt=0, lt=1, description="alpha: the share of good parts that may be flagged; decides the reject limit"
    )
    calibrate_fraction: float = Field(0.2, gt=0, lt=1, description="share of the parts that only sets the limit")
    fit_fraction: float = Field(
        0.1, ge=0, lt=1, description="share of the parts that fits the score without training the networks"
    )

    @model_validator(mode="after")
    def _leaves_images_for_training(self) -> Self:
        if self.calibrate_fraction + self.fit_fraction >= 1:
            raise ValueError(
                f"calibrate_fraction + fit_fraction = {self.calibrate_fraction + self.fit_fraction:g}: "
                "must be less than 1, the rest trains the networks"
            )
        return self


def required_calibration_images(false_reject_rate: float) -> int:
    """The smallest n for which an image can be flagged at all: n >= 1/alpha - 1."""
    return math.ceil(1 / false_reject_rate - 1 - 1e-9)


@dataclass(frozen=True)
class Calibration:
    """Scores of held-out normal images and the limit they set.

    Attributes:
        scores_n: float64 (n,), ascending raw scores of the calibration images.
        false_reject_rate: alpha in (0, 1).
    """

    scores_n: NDArray[np.float64]
    false_reject_rate: float

    @classmethod
    def fit(cls, scores: ArrayLike, false_reject_rate: float) -> Self:
        """Calibrate on raw scores (n,) of normal images that neither trained the networks nor fitted the score.

        Raises:
            TrainingDataError: with too few scores for the rate (n < 1/alpha - 1).
            ValueError: if a score is not finite.
        """
        values = np.sort(np.asarray(scores, dtype=np.float64))
        needed = required_calibration_images(false_reject_rate)
        if len(values) < needed:
            raise TrainingDataError(
                f"{len(values)} calibration images are too few to promise a false-reject rate of "
                f"{false_reject_rate:g}: it takes at least {needed} (n >= 1/rate - 1); add normal images, raise "
                "calibration.calibrate_fraction or allow a higher calibration.false_reject_rate"
            )
        if not np.isfinite(values).all():
            raise ValueError("a calibration score is not finite: the networks or the score's statistics are broken")
        return cls(values, false_reject_rate)

    @property
    def n_images(self) -> int:
        """Number n of calibration images."""
        return len(self.scores_n)

    @property
    def lowest(self) -> float:
        """The smallest calibration score, where the normalised score is 0."""
        return float(self.scores_n[0])

    @property
    def limit(self) -> float:
        """The rejecting calibration score: an image is flagged when its raw score is greater.

        p <= alpha allows at most k = floor(alpha (n + 1)) - 1 calibration scores at or above s, so that s must exceed
        the (k + 1)-th largest of them.
        """
        allowed_at_or_above = math.floor(self.false_reject_rate * (self.n_images + 1) + 1e-9) - 1
        return float(self.scores_n[self.n_images - 1 - allowed_at_or_above])

    @property
    def id(self) -> str:
        """Content hash of scores and rate: 12 hexadecimal digits."""
        digest = hashlib.sha256(np.ascontiguousarray(self.scores_n, dtype="<f8").tobytes())
        digest.update(repr(float(self.false_reject_rate)).encode())
        return digest.hexdigest()[:12]

    @property
    def promise(self) -> str:
        """What the limit promises, in one sentence for people."""
        return (
            f"Of good parts like the {self.n_images} calibration images, at most "
            f"{self.false_reject_rate:.2%} are expected to be flagged (raw score above {self.limit:.4f})."
        )

    def p_value(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Conformal p-values in [1/(n+1), 1] of raw scores (m,)."""
        below = np.searchsorted(self.scores_n, np.asarray(scores, dtype=np.float64), side="left")
        p: NDArray[np.float64] = (1 + self.n_images - below) / (self.n_images + 1)
        return p

    def flagged(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """Whether raw scores (m,) exceed the limit; the same as p <= alpha. What is not a number is flagged."""
        return ~(np.asarray(scores, dtype=np.float64) <= self.limit)

    def normalise(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Normalised scores in [0, 1): r / (1 + r) with r = max(0, s - lowest) / (limit - lowest); 0.5 is the limit."""
        excess = np.maximum(0.0, np.asarray(scores, dtype=np.float64) - self.lowest)
        # all calibration scores alike: any excess is beyond the limit, down to the smallest that there is
        span = max(self.limit - self.lowest, np.spacing(abs(self.limit)))
        normalised: NDArray[np.float64] = excess / (excess + span)
        return np.minimum(normalised, np.nextafter(1.0, 0.0))
