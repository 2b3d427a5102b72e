"""Flow ``promote-model``: the gate between a challenger and the line's nights; without the gate, the way back."""

from dataclasses import dataclass

from prefect import flow, runtime

from tasks.night.pinned import pin_model
from tasks.promotion.approval import can_be_asked
from tasks.promotion.compare import compare_models
from tasks.promotion.promote import (
    NOBODY,
    ask_a_person,
    check_champion,
    check_request,
    find_candidates,
    move_without_gate,
    settle,
    show,
    tell_mlflow,
)
from tasks.store.rows import Promotion
from tasks.systems import open_systems


@dataclass(frozen=True)
class PromotionResult:
    """A decision about a version.

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
    who: str = NOBODY,
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
        without_gate: the reason for which `version` becomes champion without any comparison: the way back.
        who: wants it; a person's name where there is no gate.
        device: `auto`, `cpu` or `cuda`.
    """
    check_request(version, without_gate)
    systems, flow_run_id = open_systems(line), runtime.flow_run.id or ""
    candidates = find_candidates(systems, version)
    if without_gate is not None:
        decision = move_without_gate(systems, candidates, without_gate, who=who, flow_run_id=flow_run_id)
        tell_mlflow(systems, candidates, decision)
        show(systems, candidates, decision, None)
        return PromotionResult(decision, "")
    champion = pin_model(systems, check_champion(candidates).version, device)
    challenger = pin_model(systems, candidates.wanted.version, device)
    comparison = compare_models(systems, challenger, champion, may_miss)
    gate = comparison.gate
    decision = settle(systems, candidates, gate, approved_by=approved_by, who=who, flow_run_id=flow_run_id)
    tell_mlflow(systems, candidates, decision, comparison, (challenger, champion))
    if decision.outcome == "waiting" and can_be_asked():
        decision = ask_a_person(systems, candidates, gate, decision, flow_run_id=flow_run_id)
        tell_mlflow(systems, candidates, decision)
    show(systems, candidates, decision, comparison)
    return PromotionResult(decision, gate.as_markdown())
