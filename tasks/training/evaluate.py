"""How a night's verdicts compare with labels that neither training nor calibration saw."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from sklearn.metrics import roc_auc_score


@dataclass(frozen=True)
class Evaluation:
    """Verdicts against the truth, over images that were judged and have a label.

    Attributes:
        auroc: area under the ROC curve of the raw scores, in [0, 1].
        normal: number of good images.
        false_rejects: how many of them were flagged.
        defective: number of defective images.
        escapes: how many of them were not flagged.
    """

    auroc: float
    normal: int
    false_rejects: int
    defective: int
    escapes: int

    @property
    def false_reject_rate(self) -> float:
        """Share of the good images that were flagged."""
        return self.false_rejects / self.normal

    @property
    def escape_rate(self) -> float:
        """Share of the defective images that were not flagged."""
        return self.escapes / self.defective


def evaluate(scores: pd.DataFrame, is_defective: Mapping[str, bool]) -> Evaluation:
    """Compare verdicts with labels.

    Args:
        scores: columns key, raw_score, verdict.
        is_defective: truth by key; images without a label are left out.

    Raises:
        ValueError: if no good or no defective image was judged.
    """
    judged = scores[(scores["verdict"] != "unusable") & scores["key"].isin(is_defective.keys())]
    defective = judged["key"].map(is_defective).astype(bool)
    flagged = judged["verdict"] == "flagged"
    if defective.all() or not defective.any():
        raise ValueError(
            f"{len(judged)} labelled images were judged, {int(defective.sum())} of them defective: "
            "it takes at least one good and one defective image"
        )
    return Evaluation(
        auroc=float(roc_auc_score(defective, judged["raw_score"])),
        normal=int((~defective).sum()),
        false_rejects=int((flagged & ~defective).sum()),
        defective=int(defective.sum()),
        escapes=int((~flagged & defective).sum()),
    )
