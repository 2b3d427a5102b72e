"""Parts among the images to learn from that look least like all others: perhaps defects that nobody noticed."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ganomaly.images.preparation import Prepared
from ganomaly.parts.roles import Plan, plan_roles
from ganomaly.scoring.calibration import CalibrationConfig

FOLDS, TRUSTED = 5, 0.75
SUSPECT = "suspect"
"""The reason why an image of such a part is not learned from."""

Judged = Callable[[NDArray[np.intp], NDArray[np.bool_]], NDArray[np.float64]]
"""Raw scores of images with a role by scores that were fitted on the other folds: folds, and which may be fitted on."""


def without_suspects(
    plan: Plan,
    prepared: Sequence[Prepared],
    parts: Sequence[str] | None,
    config: CalibrationConfig,
    seed: int,
    judged: Judged,
) -> Plan:
    """The plan for all but `config.trim` of the parts; those look least like all others.

    Scores are fitted on some parts and judge the rest in turn, so that a defect does not vouch for itself; and then
    once more on the most usual parts alone, so that defects do not vouch for one another (as the robust estimates of
    Rousseeuw and Van Driessen 1999 begin).

    Raises:
        TrainingDataError: if too few images are left.
    """
    n_suspects = round(config.trim * plan.n_parts)
    if n_suspects == 0:
        return plan
    names, part_m = np.unique(plan.parts[plan.roles != ""], return_inverse=True)
    fold_of = np.random.default_rng(seed).permutation(len(names)) % FOLDS
    worst_of, trusted = np.zeros(len(names)), np.ones(len(names), dtype=bool)
    for _ in range(2):
        raw_m = judged(fold_of[part_m], trusted[part_m])
        worst_of[:] = 0
        np.maximum.at(worst_of, part_m, raw_m)
        trusted = worst_of <= np.quantile(worst_of, TRUSTED)
    suspected = np.isin(plan.parts, names[np.argsort(-worst_of, kind="stable")[:n_suspects]])
    left = [
        Prepared(None, one.figures, SUSPECT, "looks least like all others (calibration.trim)") if out else one
        for one, out in zip(prepared, suspected.tolist(), strict=True)
    ]
    suspects = tuple(np.flatnonzero(suspected).tolist())
    return replace(plan_roles(left, parts, config, seed), suspects=suspects, trimmed_share=n_suspects / plan.n_parts)
