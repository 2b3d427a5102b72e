"""The model card: what MLflow's page of a version says about it, in Markdown."""

from collections import Counter
from collections.abc import Sequence

from ganomaly import Detector
from tasks.golden.judging import GoldenJudgements
from tasks.registry.versions import CHALLENGER
from tasks.settings import code_version
from tasks.store.rows import Promotion
from tasks.training.choose import NormalImages

CARD = "# Detector of line"
"""Beginning of the part that is written once; above it stands what became of the version."""
HISTORY = "## What was decided about it"
"""Heading of the part that grows."""
MOST_DECISIONS = 5
MOST_LETTERS_OF_A_REASON = 300
MOST_DAYS = 31
"""More production dates are summed up by month: MLflow holds 5,000 letters."""
OUTCOMES = {
    "promoted": "became champion",
    "rolled_back": "became champion again",
    "found": "was found as champion",
    "refused": "was refused",
    "waiting": "waits for a person's approval",
}

MODEL_PAGE = (
    "Detector of production line `{line}`: it learned from images of good parts and says of each image how unlike "
    "them it is.\n\n"
    "- alias `champion`: the version that judges the nights\n"
    "- alias `challenger`: the newest trained version, until the gate or a person has decided about it\n"
    "- tag `status` of a version: `champion`, `challenger`, `refused`, `waiting` (for approval), `former champion`\n\n"
    "Promote with `prefect deployment run promote-model/{line}` or `inspection promote {line}`; go back with "
    "`inspection rollback {line}`. Each version's page says what it promises, what it learned from and what was "
    "decided about it; docs/models.md explains."
)


def model_card(
    line: str,
    detector: Detector,
    *,
    chosen: NormalImages,
    roles: dict[str, int],
    days: dict[str, int],
    changes: Sequence[str],
    golden: GoldenJudgements | None,
) -> str:
    """The card of a version that was just trained.

    Args:
        line: name.
        detector: calibrated.
        chosen: the images that it could learn from, and those that were left out.
        roles: number of images by role.
        days: number of images by production date.
        changes: what is not like the champion's snapshot, in words.
        golden: its verdicts on the golden set, under the name ``new``; None where the line has none.
    """
    calibration = detector.calibrated
    left_out = [f"- {count} left out: {reason}" for reason, count in chosen.left_out.items()] or ["- none left out"]
    if chosen.flagged_share:
        left_out.append(
            f"- if all that were flagged and not reviewed are good parts, the share of good parts that this version "
            f"flags can be up to {chosen.flagged_share:.1%} higher than promised"
        )
    lines = [
        "Nothing was decided about it yet.",
        "",
        f"{CARD} {line}",
        "## What it promises",
        calibration.promise,
        "## What it is",
        f"- input: {detector.config.input}; {detector.judge.summary or 'GANomaly on pixels'}",
        f"- recipe: {detector.config.recipe.summary}",
        f"- seed {detector.config.training.seed}, code {code_version()}",
        "## What it learned from",
        f"Snapshot `{detector.snapshot_id}` (its manifest is an artifact of the run), images of good parts only:",
        "",
        *(f"- {count} images to {role}" for role, count in sorted(roles.items())),
        *left_out,
        *(f"- not like the champion's snapshot: {words}" for words in changes),
        "",
        "| produced | images |\n| --- | ---: |\n" + "\n".join(f"| {day} | {n} |" for day, n in _by_time(days)),
        "## What it does on images with known verdicts",
        _golden_words(golden),
    ]
    return "\n".join(lines)


def _by_time(days: dict[str, int]) -> list[tuple[str, int]]:
    """Number of images by date, by month where there are many dates, and the newest months of many."""
    if len(days) <= MOST_DAYS:
        return sorted(days.items())
    months: Counter[str] = Counter()
    for day, count in days.items():
        months[day[:7]] += count
    return sorted(months.items())[-MOST_DAYS:]


def version_tags(detector: Detector, line: str) -> dict[str, str]:
    """What MLflow's list of versions can be searched by."""
    calibration = detector.calibrated
    return {
        "status": CHALLENGER,
        "line": line,
        "snapshot_id": detector.snapshot_id or "",
        "calibration_id": calibration.id,
        "code_version": code_version(),
        "false_reject_rate": str(calibration.false_reject_rate),
        "guaranteed_rate": f"{calibration.guaranteed_rate:.4f}",
        "input": detector.config.input,
        "looks": detector.judge.summary or "",
        "recipe": detector.config.recipe.summary,
        "seed": str(detector.config.training.seed),
    }


def _golden_words(golden: GoldenJudgements | None) -> str:
    if golden is None or not golden.images:
        return "The line has no golden set: nothing is known about defects. `inspection golden add` begins one."
    found = golden.evaluation("new")
    if found is None:
        return "The golden set does not hold both good and defective images that this version can judge."
    return (
        f"Golden set of {len(golden.images)} images, none of which it learned from: AUROC {found.auroc:.4f}, "
        f"{found.escapes} of {found.defective} defects missed, {found.false_rejects} of {found.normal} good images "
        "flagged."
    )


def with_history(description: str, rows: Sequence[Promotion]) -> str:
    """A version's description with all that was decided about it, the newest first; lists show its beginning."""
    before, heading, card = description.partition(HISTORY)[0].rstrip().partition(CARD)
    card = heading + card if heading else before
    newest = rows[-1]
    first = f"Version {newest.version} {OUTCOMES[newest.outcome]} on {newest.promoted_at:%Y-%m-%d} ({newest.who})."
    said = [
        f"- {row.promoted_at:%Y-%m-%d %H:%M} UTC: {OUTCOMES[row.outcome]} ({row.who}): "
        f"{row.why[:MOST_LETTERS_OF_A_REASON]}"
        for row in rows[: -MOST_DECISIONS - 1 : -1]
    ]
    return "\n".join([first, "", card, "", HISTORY, "", *said])
