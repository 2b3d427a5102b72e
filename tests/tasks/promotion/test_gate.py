"""The gate's questions, each on judgements that are made for it."""

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from ganomaly import Calibration
from tasks.golden.golden_set import GoldenImage
from tasks.golden.judging import GoldenJudgements, Judgements
from tasks.promotion.gate import Gate, auroc, auroc_difference, decide
from tasks.registry.versions import CHALLENGER, CHAMPION

CALIBRATION = Calibration.fit(np.linspace(0, 1, 200), 0.05)
GOOD, BAD = 60, 20


def table(scores: list[float], names: list[str], limit: float = 0.5) -> pd.DataFrame:
    """Verdicts; NaN is unusable."""
    verdicts = ["unusable" if np.isnan(one) else "flagged" if one > limit else "ok" for one in scores]
    reasons = ["blurred" if verdict == "unusable" else None for verdict in verdicts]
    columns = {"key": names, "raw_score": scores, "normalised_score": scores, "verdict": verdicts, "reason": reasons}
    return pd.DataFrame(columns)


def ask(
    *,
    golden: tuple[list[float], list[float]] | None = None,
    recent: tuple[list[float], list[float]] | None = None,
    seconds: float = 1.0,
    reload: float | None = 0.0,
    limit_ms: float | None = None,
    may_miss: tuple[str, ...] = (),
) -> Gate:
    """The gate for scores by challenger and champion of 60 good and 20 defective golden, and of recent images."""
    kinds = ["good"] * GOOD + ["crack"] * BAD if golden != ([], []) else []
    images = tuple(GoldenImage(f"{n}.png", kind, part=f"p{n}") for n, kind in enumerate(kinds))
    golden = golden or (perfect(), perfect())
    recent = recent or ([0.1] * 100, [0.1] * 100)
    keys = [f"images/{n}.png" for n in range(len(recent[0]))]
    judged = {who: table(scores, [one.image for one in images]) for who, scores in zip(WHO, golden, strict=True)}
    today = {who: table(scores, keys) for who, scores in zip(WHO, recent, strict=True)}
    spent = {CHALLENGER: seconds, CHAMPION: 1.0}
    return decide(
        GoldenJudgements(images, Judgements(judged, spent)),
        Judgements(today, spent),
        {key: key for key in keys},
        CALIBRATION,
        reload_difference=reload,
        max_ms_per_image=limit_ms,
        may_miss=may_miss,
    )


WHO = (CHALLENGER, CHAMPION)


def perfect() -> list[float]:
    """Scores of a model that tells all golden images apart."""
    return [*np.linspace(0.1, 0.3, GOOD), *np.linspace(0.7, 0.9, BAD)]


def changed(scores: list[float], **by_place: float) -> list[float]:
    """The scores with some replaced: ``at_61=0.2``."""
    found = list(scores)
    for name, value in by_place.items():
        found[int(name.removeprefix("at_"))] = value
    return found


NAN = float("nan")
CASES = {
    "alike": ({}, "passed", None),
    "a defect lost": (
        {"golden": (changed(perfect(), at_61=0.2), perfect())},
        "failed",
        "defects that the champion finds",
    ),
    "a defect lost that may be": (
        {"golden": (changed(perfect(), at_61=0.45), perfect()), "may_miss": ("61.png",)},
        "passed",
        None,
    ),
    "a defect that becomes unusable is lost": (
        {"golden": (changed(perfect(), at_61=NAN), perfect())},
        "failed",
        "defects that the champion finds",
    ),
    "a defect that only the challenger finds": ({"golden": (perfect(), changed(perfect(), at_61=0.4))}, "passed", None),
    "worse order, same verdicts": (
        {"golden": ([*np.linspace(0.3, 0.49, GOOD), *[0.51] * BAD], perfect())},
        "passed",
        None,
    ),
    "too many golden false rejects": (
        {"golden": ([*[0.6] * 12, *[0.1] * 48, *[0.9] * BAD], perfect())},
        "failed",
        "false rejects",
    ),
    "plausible golden false rejects": (
        {"golden": ([*[0.6] * 4, *[0.1] * 56, *[0.9] * BAD], perfect())},
        "passed",
        None,
    ),
    "many recent images flagged": ({"recent": ([0.6] * 20 + [0.1] * 80, [0.1] * 100)}, "not shown", "false rejects"),
    "recent images unusable": (
        {"recent": ([NAN] * 3 + [0.1] * 97, [0.1] * 100)},
        "failed",
        "recipe takes today's images",
    ),
    "one recent image unusable": ({"recent": ([NAN] + [0.1] * 99, [0.1] * 100)}, "passed", None),
    "unusable for both": ({"recent": ([NAN] * 50 + [0.1] * 50, [NAN] * 50 + [0.1] * 50)}, "passed", None),
    "slow": ({"seconds": 2.0, "limit_ms": 15.0}, "failed", "time per image"),
    "slow, and nobody minds": ({"seconds": 2.0}, "passed", None),
    "other scores after reload": ({"reload": 0.01}, "failed", "scores after reload"),
    "no golden set": ({"golden": ([], [])}, "not shown", "defects that the champion finds"),
    "nothing recent": ({"recent": ([], [])}, "not shown", "recipe takes today's images"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_the_gate_says(case: str) -> None:
    """Broken if a worse model passes, a good one is refused, or the wrong question is named."""
    arguments, outcome, name = CASES[case]
    gate = ask(**arguments)
    assert gate.outcome == outcome, gate.as_markdown()
    if name is not None:
        assert name in [check.name for check in gate.checks if check.outcome == outcome]
        assert name in gate.summary
    assert json.loads(gate.as_json())["outcome"] == outcome


def test_a_worse_auroc_is_refused_beyond_the_bootstraps_error() -> None:
    """Broken if noise refuses a model, or a clear loss does not."""
    rng = np.random.default_rng(0)
    good, bad = rng.normal(0.2, 0.05, GOOD), rng.normal(0.45, 0.05, BAD)
    worse = rng.permutation(np.concatenate([good, bad]))
    gate = ask(golden=(list(worse), [*good, *bad]))
    assert [check.outcome for check in gate.checks if check.name.startswith("AUROC")] == ["failed"]
    nearly = np.concatenate([good, bad]) + rng.normal(0, 0.001, GOOD + BAD)
    gate = ask(golden=(list(nearly), [*good, *bad]))
    assert [check.outcome for check in gate.checks if check.name.startswith("AUROC")] == ["passed"]


def test_ten_views_of_one_odd_part_are_one_false_reject() -> None:
    """Broken if a challenger is refused for one good part that was photographed often."""
    views = [GoldenImage(f"v{n}.png", "good", part="odd") for n in range(10)]
    images = (
        *views,
        *(GoldenImage(f"{n}.png", "good", part=f"p{n}") for n in range(50)),
        GoldenImage("d.png", "crack"),
    )
    scores = table([0.9] * 10 + [0.1] * 50 + [0.9], [image.image for image in images])
    golden = GoldenJudgements(images, Judgements({CHALLENGER: scores, CHAMPION: scores}, dict.fromkeys(WHO, 1.0)))
    recent = Judgements(dict.fromkeys(WHO, table([], [])), dict.fromkeys(WHO, 0.0))
    gate = decide(golden, recent, {}, CALIBRATION, reload_difference=0.0, max_ms_per_image=None, may_miss=())
    (check,) = [check for check in gate.checks if check.name == "false rejects"]
    assert check.figure.startswith("golden set: 1 of 51 flagged")


def test_auroc_is_scikit_learns() -> None:
    """Broken if ties or order are counted otherwise than the field does."""
    rng = np.random.default_rng(1)
    scores, defective = rng.integers(0, 10, 200).astype(float), rng.random(200) < 0.3
    assert auroc(scores, defective) == pytest.approx(roc_auc_score(defective, scores))


def test_the_interval_of_a_difference_covers_it() -> None:
    """Broken if the paired bootstrap's interval misses the true difference much more often than it says."""
    covered, widths = 0, []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        defective = np.arange(160) < 60
        shared = rng.normal(size=160)
        first, second = (defective * gain + shared + rng.normal(0, 0.5, 160) for gain in (1.0, 1.0))
        low, high = auroc_difference(first, second, defective, np.arange(160).astype(str))
        covered += low <= 0 <= high
        widths.append(high - low)
    assert covered >= 52
    assert max(widths) < 0.2


def test_images_of_one_part_are_drawn_together() -> None:
    """Broken if ten photos of one part count as ten parts."""
    rng = np.random.default_rng(2)
    defective = np.arange(40) < 20
    first, second = rng.normal(size=40) + defective, rng.normal(size=40) + defective
    alone = auroc_difference(first, second, defective, np.arange(40).astype(str))
    tenfold = [np.repeat(one, 10) for one in (first, second, defective)]
    together = auroc_difference(*tenfold, np.repeat(np.arange(40), 10).astype(str))
    apart = auroc_difference(*tenfold, np.arange(400).astype(str))
    width = [high - low for low, high in (alone, together, apart)]
    assert width[1] == pytest.approx(width[0])
    assert all(a > b for a, b in pairwise(width[1:]))
