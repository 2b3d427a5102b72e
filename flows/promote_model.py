"""Flow ``promote-model``: the gate between a challenger and the line's nights; without the gate, the way back."""

from dataclasses import dataclass

from prefect import flow, runtime

from tasks.night.score import pin_model
from tasks.promotion.compare import compare_models
from tasks.promotion.promote import (
    check_champion,
    find_candidates,
    former_champion,
    move_without_gate,
    settle,
    show,
    tell_mlflow,
)
from tasks.steps import quote
from tasks.store.tables import Promotion
from tasks.systems import open_systems


@dataclass(frozen=True)
class PromotionResult:
    """What was decided about a version.

    Attributes:
        decision: as it was recorded.
        gate: the gate's checks as a Markdown table; empty where it was not asked.
    """

    decision: Promotion
    gate: str


@flow(name="promote-model", flow_run_name="promote {line}")
def promote_model(
    line: str,
    version: int | None = None,
    may_miss: tuple[str, ...] = (),
    approved_by: str | None = None,
    without_gate: str | None = None,
    who: str = "flow promote-model",
    device: str = "auto",
) -> PromotionResult:
    """Let challenger and champion judge the same images, and make the challenger champion if the gate lets it pass.

    What the gate could not show is left to a person, and every decision where the line says `models.require_approval`:
    the run pauses and asks in Prefect's UI. A refused version keeps `@challenger` and the reason.

    Args:
        line: the line, as in `deployments/lines/<line>.toml`.
        version: instead of `@challenger`.
        may_miss: golden images that the challenger may miss although the champion finds them.
        approved_by: the person who approves what the gate could not show; nobody is asked then.
        without_gate: the reason for which the version becomes champion without any comparison: the way back. Without
            a version, it is the champion before this one.
        who: wants it; a person where there is no gate.
        device: `auto`, `cpu` or `cuda`.
    """
    systems, flow_run_id = open_systems(line), runtime.flow_run.id or ""
    if without_gate is not None:
        candidates = find_candidates(systems, version or former_champion(systems))
        decision = move_without_gate(systems, candidates, without_gate, who=who, flow_run_id=flow_run_id)
        tell_mlflow(systems, candidates, decision)
        show(systems, candidates, decision, None)
        return PromotionResult(decision, "")
    candidates = find_candidates(systems, version)
    champion = pin_model(systems, check_champion(candidates).version, device)
    challenger = pin_model(systems, candidates.wanted.version, device)
    comparison = compare_models(systems, challenger, champion, may_miss)
    decision = settle(systems, candidates, comparison.gate, approved_by=approved_by, who=who, flow_run_id=flow_run_id)
    tell_mlflow(systems, candidates, decision, quote(comparison), (challenger, champion))
    show(systems, candidates, decision, comparison.gate)
    return PromotionResult(decision, comparison.gate.as_markdown())
