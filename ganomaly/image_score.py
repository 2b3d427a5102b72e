"""The answer of a detector about an image."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "flagged", "unusable"]


@dataclass(frozen=True)
class ImageScore:
    """Scores and verdict of one image.

    Attributes:
        raw: anomaly score from 0 up, higher for less normal; None when unusable.
        normalised: score in [0, 1), 0.5 at the reject limit; None when unusable.
        p_value: share of normal images that look at least as unusual, in (0, 1]; None when unusable.
        verdict: ``ok``, ``flagged`` or ``unusable``.
        sure: whether it lies beyond the stricter limit, too, see `CalibrationConfig.sure_rate`.
        reason: why the image cannot be judged, one short word; None unless unusable.
        detail: the reason with the value found and what is allowed; None unless unusable.
    """

    raw: float | None
    normalised: float | None
    p_value: float | None
    verdict: Verdict
    reason: str | None = None
    detail: str | None = None
    sure: bool = False
