"""Decide about a challenger, act on it, and tell: report store, MLflow, Prefect."""

from dataclasses import dataclass

from prefect import task
from prefect.logging import get_run_logger

from tasks.errors import OperatingError
from tasks.night.pinned import PinnedModel
from tasks.promotion.alias import move_champion, record_what_is_found
from tasks.promotion.approval import ask_for_approval
from tasks.promotion.compare import Comparison
from tasks.promotion.figures import draw
from tasks.promotion.gate import Gate
from tasks.registry.reaching import ModelRegistryError
from tasks.registry.versions import CHALLENGER, CHAMPION, ModelVersion, model_name
from tasks.steps import NETWORK_STEP, quote, show_markdown
from tasks.store.rows import Promotion, PromotionOutcome
from tasks.systems import Systems
from tasks.training.card import with_history

STATUS: dict[PromotionOutcome, str] = {
    "promoted": CHAMPION,
    "rolled_back": CHAMPION,
    "found": CHAMPION,
    "refused": "refused",
    "waiting": "waiting",
}
"""Tag ``status`` of a version in MLflow, by what was decided about it."""
NOBODY = "flow promote-model"
"""Who wants a promotion where nobody is named."""


class PromotionError(OperatingError):
    """A promotion that cannot be asked for as it is."""


@dataclass(frozen=True)
class Candidates:
    """The version that wants to become champion, and the one that is."""

    wanted: ModelVersion
    champion: ModelVersion | None


def check_request(version: int | None, without_gate: str | None) -> None:
    """Refuse to make the challenger champion unseen, which is what an empty version field would mean.

    Raises:
        PromotionError: if a reason is given to compare nothing, but no version.
    """
    if without_gate is not None and version is None:
        raise PromotionError(
            "without the gate the version must be named: --version N, or `version` in Prefect's UI; "
            "`inspection decisions LINE` lists former champions, and `inspection rollback LINE` finds the last one"
        )


@task(name="find-candidates", **NETWORK_STEP, persist_result=False)
def find_candidates(systems: Systems, version: int | None) -> Candidates:
    """The version asked for, or the challenger; and the champion, which is written down if no row explains it.

    Raises:
        PromotionError: if there is nothing to promote; says why and what to do.
    """
    line, registry = systems.line.name, systems.registry
    record_what_is_found(systems)
    champion = registry.champion(line)
    wanted = registry.challenger(line) if version is None else registry.version(line, version)
    if wanted is None:
        way_out = f"train one with `inspection train {line}`" if version is None else "MLflow's page of it lists them"
        what = "challenger" if version is None else f"version {version}"
        raise PromotionError(f"{model_name(line)} has no {what} in MLflow at {registry.address}; {way_out}")
    if champion is not None and champion.version == wanted.version:
        raise PromotionError(f"{wanted.uri} is the champion already")
    return Candidates(wanted, champion)


def former_champion(systems: Systems) -> int:
    """The version to go back to: the champion before the one that is, without those that were gone back from.

    Raises:
        PromotionError: if the records name none.
    """
    line, stack = systems.line.name, list[int]()
    for row in systems.store.decisions.promotions(line):
        if row.alias != CHAMPION:
            continue
        if row.outcome == "rolled_back" and row.version in stack:
            stack = stack[: stack.index(row.version) + 1]  # whoever went back does not come from there again
        elif row.version not in stack[-1:]:
            stack.append(row.version)
    now = systems.registry.champion(line)
    if now is not None and now.version in stack:
        stack = stack[: stack.index(now.version)]
    if not stack:
        raise PromotionError(
            f"{model_name(line)} never had another champion; give the version that is to judge: --version N"
        )
    return stack[-1]


def check_champion(candidates: Candidates) -> ModelVersion:
    """The champion to compare with.

    Raises:
        PromotionError: if there is none: then the gate has nothing to ask.
    """
    if candidates.champion is None:
        raise PromotionError(
            f"{candidates.wanted.name} has no champion to compare with; to make a version the champion without the "
            f"gate, give the reason: --version {candidates.wanted.version} --without-gate REASON"
        )
    return candidates.champion


def settle(
    systems: Systems, candidates: Candidates, gate: Gate, *, approved_by: str | None, who: str, flow_run_id: str
) -> Promotion:
    """Act on what the gate found: refuse, promote, or let it wait for a person, unless one has approved it already.

    Raises:
        PromotionError: if the approval has no name.
        PromotionConflictError: if the champion changed meanwhile.
    """
    if gate.outcome == "failed":
        return _keep(systems, candidates, gate, "refused", who, gate.summary, flow_run_id)
    if gate.outcome == "passed" and not systems.line.models.require_approval:
        return _move(systems, candidates, gate, who, gate.summary, flow_run_id)
    open_question = gate.summary if gate.outcome == "not shown" else "models.require_approval is set"
    if approved_by is None:
        return _keep(systems, candidates, gate, "waiting", who, open_question, flow_run_id)
    return _approve(systems, candidates, gate, approved_by, open_question, flow_run_id)


def ask_a_person(
    systems: Systems, candidates: Candidates, gate: Gate, waiting: Promotion, *, flow_run_id: str
) -> Promotion:
    """Pause until somebody has answered in Prefect's UI, and act on it.

    Raises:
        PromotionError: if the answer has no name.
        PromotionConflictError: if the champion changed meanwhile.
    """
    get_run_logger().warning("%s waits for a person's approval in Prefect's UI: %s", candidates.wanted.uri, waiting.why)
    answer = ask_for_approval(candidates.wanted.uri, gate, waiting.why)
    if answer is None:
        return _keep(systems, candidates, gate, "refused", waiting.who, "nobody answered", flow_run_id)
    if not answer.approve:
        said = f"{answer.approver} said no: {answer.comment}"
        return _keep(systems, candidates, gate, "refused", answer.approver, said, flow_run_id)
    said = f"{waiting.why}; {answer.comment}".rstrip("; ")
    return _approve(systems, candidates, gate, answer.approver, said, flow_run_id)


def move_without_gate(
    systems: Systems, candidates: Candidates, reason: str, *, who: str, flow_run_id: str
) -> Promotion:
    """Make a version champion because a person says so.

    Raises:
        PromotionError: if nobody or no reason is named.
        PromotionConflictError: if the champion changed meanwhile.
    """
    if not reason.strip() or who.strip() in ("", NOBODY):
        raise PromotionError("a promotion without the gate needs a reason and the name of who wants it (--who)")
    rows = systems.store.decisions.promotions(systems.line.name)
    was_champion = any(row.alias == CHAMPION and row.version == candidates.wanted.version for row in rows)
    return move_champion(
        systems,
        candidates.wanted,
        candidates.champion,
        who=who,
        why=f"without the gate: {reason.strip()}",
        outcome="rolled_back" if was_champion else "promoted",
        flow_run_id=flow_run_id,
    )


def tell_mlflow(
    systems: Systems,
    candidates: Candidates,
    row: Promotion,
    comparison: Comparison | None = None,
    models: tuple[PinnedModel, PinnedModel] | None = None,
) -> None:
    """Let the versions' pages say what was decided. The decision stands in the report store: a failure is a warning."""
    try:
        _tell_mlflow(systems, candidates, row, quote(comparison), quote(models))
    except ModelRegistryError as error:
        get_run_logger().warning("the pages in MLflow do not say what was decided: %s", error)


@task(name="tell-mlflow", **NETWORK_STEP, persist_result=False)
def _tell_mlflow(
    systems: Systems,
    candidates: Candidates,
    row: Promotion,
    comparison: Comparison | None,
    models: tuple[PinnedModel, PinnedModel] | None,
) -> None:
    """Let the versions' pages say what was decided, and put the gate's figures beside the challenger's training."""
    registry, rows = systems.registry, systems.store.decisions.promotions(systems.line.name)
    tags = {"status": STATUS[row.outcome], "decided": f"{row.promoted_at:%Y-%m-%d} {row.who}: {row.why}"[:4000]}
    if comparison is not None:
        tags["gate"] = comparison.gate.outcome
    versions = [(candidates.wanted, tags)]
    if row.alias == CHAMPION and candidates.champion is not None:
        versions.append((candidates.champion, {"status": "former champion"}))
    for version, new_tags in versions:
        history = [one for one in rows if one.version == version.version]
        registry.describe(version, with_history(registry.description(version), history), new_tags)
    if comparison is None or models is None:
        return
    folder = f"promotion/{row.promoted_at:%Y%m%dT%H%M%SZ}"
    decision = as_markdown(candidates, row, comparison)
    texts = {f"{folder}/gate.json": comparison.gate.as_json(), f"{folder}/gate.md": decision}
    detectors = {CHALLENGER: models[0].detector, CHAMPION: models[1].detector}
    figures = {f"{folder}/{name}.png": one for name, one in draw(systems, comparison, detectors).items()}
    registry.log_to(candidates.wanted, texts, figures)


def show(systems: Systems, candidates: Candidates, row: Promotion, comparison: Comparison | None) -> None:
    """Log the outcome and show it in the Prefect UI."""
    get_run_logger().info("%s: %s: %s", candidates.wanted.uri, row.outcome, row.why)
    show_markdown(
        as_markdown(candidates, row, comparison),
        key=f"promotion-{systems.line.name}",
        description=candidates.wanted.uri,
    )


def as_markdown(candidates: Candidates, row: Promotion, comparison: Comparison | None) -> str:
    """A decision on one screen."""
    champion = candidates.champion.uri if candidates.champion else "no champion"
    head = f"# {candidates.wanted.uri} against {champion}: {row.outcome}"
    text = f"{head}\n\n{row.who}, {row.promoted_at:%Y-%m-%d %H:%M} UTC: {row.why}"
    if comparison is None:
        return text
    return "\n\n".join([text, comparison.gate.as_markdown(), comparison.shadow_summary]).rstrip()


def _approve(
    systems: Systems, candidates: Candidates, gate: Gate, approver: str, why: str, flow_run_id: str
) -> Promotion:
    if not approver.strip():
        raise PromotionError("an approval needs the name of who approves (--who)")
    return _move(systems, candidates, gate, approver, f"approved by {approver}; {why}", flow_run_id)


def _move(systems: Systems, candidates: Candidates, gate: Gate, who: str, why: str, flow_run_id: str) -> Promotion:
    return move_champion(
        systems, candidates.wanted, candidates.champion, who=who, why=why, gate=gate.as_json(), flow_run_id=flow_run_id
    )


def _keep(
    systems: Systems,
    candidates: Candidates,
    gate: Gate,
    outcome: PromotionOutcome,
    who: str,
    why: str,
    flow_run_id: str,
) -> Promotion:
    """Record that the challenger stays one."""
    return systems.store.decisions.record_promotion(
        systems.line.name,
        model_name=candidates.wanted.name,
        alias=CHALLENGER,
        version=candidates.wanted.version,
        previous_version=candidates.champion.version if candidates.champion else None,
        who=who,
        why=why,
        outcome=outcome,
        gate=gate.as_json(),
        flow_run_id=flow_run_id,
    )
