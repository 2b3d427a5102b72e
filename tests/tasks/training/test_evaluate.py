"""Verdicts against labels."""

import pandas as pd
import pytest

from tasks.training.evaluate import evaluate

SCORES = pd.DataFrame(
    [
        ("good-1", 0.1, "ok"),
        ("good-2", 0.9, "flagged"),
        ("bad-1", 0.8, "flagged"),
        ("bad-2", 0.3, "ok"),
        ("unlabelled", 5.0, "flagged"),
        ("broken", float("nan"), "unusable"),
    ],
    columns=["key", "raw_score", "verdict"],
)
TRUTH = {"good-1": False, "good-2": False, "bad-1": True, "bad-2": True, "broken": True, "elsewhere": True}


def test_rates_and_auroc() -> None:
    """Broken if unlabelled or unusable images count, or if false rejects and escapes are mixed up."""
    found = evaluate(SCORES, TRUTH)
    assert found.auroc == pytest.approx(0.5)  # of 4 pairs good-1 is below both, good-2 above both
    assert (found.normal, found.false_rejects, found.defective, found.escapes) == (2, 1, 2, 1)
    assert (found.false_reject_rate, found.escape_rate) == (0.5, 0.5)


def test_one_kind_only_is_refused() -> None:
    """Broken if rates are invented where no good or no defective image was judged."""
    with pytest.raises(ValueError, match="at least one good and one defective"):
        evaluate(SCORES, {"good-1": False})
