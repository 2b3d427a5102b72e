"""The gate: what a challenger must show on the same images as the champion before it may judge a plant's parts.

Each check gives a figure and one of three outcomes: passed, failed, or not shown, where there is nothing to show it on.
One that failed refuses the challenger; one that is not shown leaves the decision to a person.
"""

import json
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ganomaly.scoring.calibration import Calibration, plausible_false_rejects
from tasks.golden.judging import GoldenJudgements, Judgements
from tasks.registry.versions import CHALLENGER, CHAMPION

NAMED = 5
BOOTSTRAPS = 2000
BOOTSTRAP_SEED = 0
DRAW_SEED = 0
MAX_UNUSABLE = 0.01
"""Share of recent images that only the champion can judge, beyond which a challenger's recipe does not fit the line."""
RELOAD_TOLERANCE = 1e-4
"""Relative: what adding in another order can do to a score, see docs/audit.md."""

Outcome = Literal["passed", "failed", "not shown"]


@dataclass(frozen=True)
class Check:
    """One of the gate's questions.

    Attributes:
        name: of the question.
        outcome: its answer.
        figure: what was measured, in words.
        images: names of the images that decided it, at most a few.
    """

    name: str
    outcome: Outcome
    figure: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gate:
    """All checks of a challenger."""

    checks: tuple[Check, ...]

    @property
    def outcome(self) -> Outcome:
        """Failed if any check is; otherwise not shown if any is not."""
        outcomes = {check.outcome for check in self.checks}
        return "failed" if "failed" in outcomes else "not shown" if "not shown" in outcomes else "passed"

    @property
    def summary(self) -> str:
        """The checks that did not pass, with their figures; otherwise that all passed."""
        others = [check for check in self.checks if check.outcome != "passed"]
        if not others:
            return "all checks passed"
        return "; ".join(f"{check.name} {check.outcome}: {check.figure}" for check in others)

    def as_json(self) -> str:
        """For the report store and MLflow."""
        return json.dumps({"outcome": self.outcome, "checks": [asdict(check) for check in self.checks]})

    def as_markdown(self) -> str:
        """A table for people."""
        rows = [f"| {check.name} | **{check.outcome}** | {_cell(check)} |" for check in self.checks]
        return "\n".join(["| check | | measured |", "| --- | --- | --- |", *rows])


def _cell(check: Check) -> str:
    text = check.figure + (f": {', '.join(check.images)}" if check.images else "")
    return text.replace("|", "\\|").replace("\n", " ")


def decide(
    golden: GoldenJudgements,
    recent: Judgements,
    unseen: Mapping[str, Hashable],
    calibration: Calibration,
    *,
    reload_difference: float | None,
    max_ms_per_image: float | None,
    may_miss: Collection[str],
) -> Gate:
    """Ask all of the gate's questions.

    Args:
        golden: both models' judgements of the golden set, under the names ``challenger`` and ``champion``.
        recent: both models' judgements of recent normal images, likewise.
        unseen: key -> part of those whose parts neither model learned from.
        calibration: the challenger's.
        reload_difference: largest relative difference of its scores after it was fetched anew; None if none was
            compared.
        max_ms_per_image: the line's limit; None if there is none.
        may_miss: golden defects that the challenger may miss although the champion finds them.
    """
    good = [image for image in golden.images if not image.is_defective]
    return Gate(
        (
            _defects_found(golden, may_miss),
            _auroc(golden),
            _false_rejects(
                _one_of_each_part(golden.judged.scores[CHALLENGER], {image.image: image.part for image in good}),
                _one_of_each_part(recent.scores[CHALLENGER], unseen),
                calibration,
            ),
            _recipe(recent),
            _time(recent, golden.judged, max_ms_per_image),
            _reload(reload_difference),
        )
    )


def _defects_found(golden: GoldenJudgements, may_miss: Collection[str]) -> Check:
    name = "defects that the champion finds"
    defective = golden.defective_n
    if not defective.any():
        return Check(name, "not shown", "the golden set holds no defective image")
    found = {who: (table["verdict"] == "flagged").to_numpy() & defective for who, table in golden.judged.scores.items()}
    names = np.array([image.image for image in golden.images])
    lost = [str(one) for one in names[found[CHAMPION] & ~found[CHALLENGER]]]
    forbidden = [one for one in lost if one not in may_miss]
    figure = (
        f"challenger {found[CHALLENGER].sum()} of {defective.sum()}, champion {found[CHAMPION].sum()}; "
        f"{len(forbidden)} lost"
    )
    if len(lost) > len(forbidden):
        figure += f", and {len(lost) - len(forbidden)} more that were allowed"
    return Check(name, "failed" if forbidden else "passed", figure, tuple(forbidden[:NAMED]))


def _auroc(golden: GoldenJudgements) -> Check:
    name = "AUROC on the golden set"
    tables = golden.judged.scores
    judged = np.logical_and.reduce([table["raw_score"].notna().to_numpy() for table in tables.values()])
    defective = golden.defective_n
    if not (judged & defective).any() or not (judged & ~defective).any():
        return Check(name, "not shown", "it takes at least one good and one defective image that both models can judge")
    parts = np.array([image.part for image in golden.images])[judged]
    scores = [tables[who]["raw_score"].to_numpy()[judged] for who in (CHALLENGER, CHAMPION)]
    ours, theirs = (auroc(one, defective[judged]) for one in scores)
    low, high = auroc_difference(scores[0], scores[1], defective[judged], parts)
    figure = f"challenger {ours:.4f}, champion {theirs:.4f}; difference between {low:+.4f} and {high:+.4f} (95 %)"
    return Check(name, "failed" if high < 0 else "passed", figure)


def _one_of_each_part(scores: pd.DataFrame, parts: Mapping[str, Hashable]) -> pd.DataFrame:
    """One image of each part, drawn by chance: the promise is about independent images, views of a part are none."""
    chosen = scores[scores["key"].isin(parts.keys())].sample(frac=1, random_state=DRAW_SEED)
    return chosen[~chosen["key"].map(parts).duplicated()]


def _false_rejects(good: pd.DataFrame, unseen: pd.DataFrame, calibration: Calibration) -> Check:
    """Good golden images decide. Of recent ones nobody has said that they are good: a defect may be among them."""
    name = "false rejects"
    golden_words, golden_worst = _flagged(good, calibration)
    recent_words, recent_worst = _flagged(unseen, calibration)
    words = [("golden set", golden_words), ("recent images that neither model learned from", recent_words)]
    figure = "; ".join(f"{what}: {said}" for what, said in words if said)
    if golden_worst:
        return Check(name, "failed", figure, golden_worst)
    if recent_worst:
        return Check(name, "not shown", f"{figure}; look whether these are good", recent_worst)
    if not figure:
        return Check(name, "not shown", "there is no good golden image, and no recent one that neither learned from")
    return Check(name, "passed", figure)


def _flagged(images: pd.DataFrame, calibration: Calibration) -> tuple[str, tuple[str, ...]]:
    """What was flagged in words, empty where nothing was judged; the worst where it is more than is plausible."""
    judged = images[images["verdict"] != "unusable"]
    if judged.empty:
        return "", ()
    flagged = judged["verdict"] == "flagged"
    most = plausible_false_rejects(len(judged), calibration.n_images, calibration.n_above)
    figure = f"{flagged.sum()} of {len(judged)} flagged, {most} are plausible"
    if most is None or flagged.sum() <= most:
        return figure, ()
    return figure, tuple(judged[flagged].nlargest(NAMED, "raw_score")["key"])


def _recipe(recent: Judgements) -> Check:
    name = "recipe takes today's images"
    ours, theirs = ((recent.scores[who]["verdict"] == "unusable").to_numpy() for who in (CHALLENGER, CHAMPION))
    if not len(ours):
        return Check(name, "not shown", "there are no recent images")
    lost = ours & ~theirs
    figure = f"{lost.sum()} of {len(ours)} recent images are unusable for the challenger alone"
    if not lost.any():
        return Check(name, "passed", figure)
    table = recent.scores[CHALLENGER][lost]
    reasons = ", ".join(f"{reason} {count}" for reason, count in table["reason"].value_counts().items())
    outcome: Outcome = "failed" if lost.mean() > MAX_UNUSABLE else "passed"
    return Check(name, outcome, f"{figure} ({reasons}; {MAX_UNUSABLE:.0%} are allowed)", tuple(table["key"][:NAMED]))


def _time(recent: Judgements, golden: Judgements, limit: float | None) -> Check:
    name = "time per image"
    judged = recent if len(recent.scores[CHALLENGER]) else golden
    ours, theirs = (judged.ms_per_image(who) for who in (CHALLENGER, CHAMPION))
    if np.isnan(ours):
        return Check(name, "not shown", "there was no image to judge")
    figure = f"challenger {ours:.1f} ms, champion {theirs:.1f} ms on this machine"
    if limit is None:
        return Check(name, "passed", f"{figure}; models.max_ms_per_image sets no limit")
    return Check(name, "failed" if ours > limit else "passed", f"{figure}; models.max_ms_per_image = {limit:g}")


def _reload(difference: float | None) -> Check:
    name = "scores after reload"
    if difference is None:
        return Check(name, "not shown", "there was no image to judge")
    figure = f"relative difference at most {difference:.1e} ({RELOAD_TOLERANCE:g} is allowed)"
    return Check(name, "failed" if difference > RELOAD_TOLERANCE else "passed", figure)


def auroc(scores_n: NDArray[np.float64], defective_n: NDArray[np.bool_]) -> float:
    """Area under the ROC curve: the share of pairs in which the defective image has the higher score, ties half."""
    return float(_wins(scores_n, defective_n).mean())


def auroc_difference(
    first_n: NDArray[np.float64],
    second_n: NDArray[np.float64],
    defective_n: NDArray[np.bool_],
    parts: Sequence[str] | NDArray[np.str_],
) -> tuple[float, float]:
    """Where the difference of two detectors' AUROC on the same images lies: first minus second, 95 %.

    Paired bootstrap (Efron and Tibshirani 1993, chapter 13, percentiles): parts are drawn with replacement, the good
    and the defective ones apart, and both detectors are evaluated on the same draw.
    """
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    weights = []
    for of_kind in (defective_n, ~defective_n):
        _, part_n = np.unique(np.asarray(parts)[of_kind], return_inverse=True)
        n_parts = int(part_n.max()) + 1
        weights.append(rng.multinomial(n_parts, np.full(n_parts, 1 / n_parts), size=BOOTSTRAPS)[:, part_n])
    defects, good = (weight.astype(np.float64) for weight in weights)
    difference = _wins(first_n, defective_n) - _wins(second_n, defective_n)
    drawn = np.einsum("bd,bd->b", defects, (difference @ good.T).T) / (defects.sum(axis=1) * good.sum(axis=1))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _wins(scores_n: NDArray[np.float64], defective_n: NDArray[np.bool_]) -> NDArray[np.float64]:
    """For each pair of a defective (row) and a good image (column): 1, or 0.5 for a tie, or 0."""
    defects, good = scores_n[defective_n][:, None], scores_n[~defective_n][None, :]
    wins: NDArray[np.float64] = (defects > good) + 0.5 * (defects == good)
    return wins
