"""Move ``@champion``: under a lease, only from the version that one compared with, and never without a row."""

from prefect.logging import get_run_logger

from tasks.errors import OperatingError
from tasks.process import finish_before_stopping
from tasks.registry.versions import CHALLENGER, CHAMPION, ModelVersion
from tasks.store.rows import Promotion, PromotionOutcome
from tasks.store.runs import new_run_id
from tasks.systems import Systems


class PromotionConflictError(OperatingError):
    """The champion is another one than when the decision was taken."""


def move_champion(
    systems: Systems,
    version: ModelVersion,
    expected: ModelVersion | None,
    *,
    who: str,
    why: str,
    outcome: PromotionOutcome = "promoted",
    gate: str = "",
    flow_run_id: str = "",
) -> Promotion:
    """Point ``@champion`` at a version if it still points at the expected one, and record it.

    MLflow moves an alias in one step and the row is written after it: whoever is killed in between leaves a new
    champion, which `record_what_is_found` writes down later.

    Raises:
        PromotionConflictError: if the champion changed meanwhile; names both versions.
        RegistryUnreachableError: if MLflow does not answer.
    """
    line = systems.line.name
    with (
        systems.store.leases.held(f"{line} champion", new_run_id(), systems.settings.lease_s),
        finish_before_stopping(),
    ):
        now = systems.registry.champion(line)
        if (now and now.version) != (expected and expected.version):
            raise PromotionConflictError(
                f"{version.name}: the champion is version {now.version if now else 'none'} now and was "
                f"{f'version {expected.version}' if expected else 'none'} when this was decided; somebody promoted "
                "another version meanwhile. Nothing was changed: decide again"
            )
        systems.registry.set_alias(version, CHAMPION)
        row = systems.store.decisions.record_promotion(
            line,
            model_name=version.name,
            alias=CHAMPION,
            version=version.version,
            previous_version=expected.version if expected else None,
            who=who,
            why=why,
            outcome=outcome,
            gate=gate,
            flow_run_id=flow_run_id,
        )
        challenger = systems.registry.challenger(line)
        if challenger is not None and challenger.version == version.version:
            systems.registry.drop_alias(version, CHALLENGER)
    return row


def make_challenger(systems: Systems, version: ModelVersion) -> None:
    """Give a version ``@challenger``; one that had it and was never decided about is marked as superseded.

    Raises:
        RegistryUnreachableError: if MLflow does not answer.
    """
    registry, before = systems.registry, systems.registry.challenger(systems.line.name)
    registry.set_alias(version, CHALLENGER)
    rows = systems.store.decisions.promotions(systems.line.name)
    if before is not None and before.version != version.version and before.version not in {row.version for row in rows}:
        registry.describe(before, registry.description(before), {"status": "superseded"})


def record_what_is_found(systems: Systems) -> None:
    """Write down a champion that no row explains: moved in MLflow by hand, or by a run that was killed."""
    line = systems.line.name
    with systems.store.leases.held(f"{line} champion", new_run_id(), systems.settings.lease_s):
        champion, challenger = systems.registry.champion(line), systems.registry.challenger(line)
        if champion is None:
            return
        if challenger is not None and challenger.version == champion.version:
            systems.registry.drop_alias(champion, CHALLENGER)
        last = systems.store.decisions.last_promotion(line)
        if last is not None and last.version == champion.version:
            return
        before = None if last is None else last.version
        get_run_logger().warning("%s is champion, the records say version %s", champion.uri, before)
        systems.store.decisions.record_promotion(
            line,
            model_name=champion.name,
            alias=CHAMPION,
            version=champion.version,
            previous_version=before,
            who="unknown",
            why="found so: moved in MLflow by hand, or by a run that was stopped before it could write this",
            outcome="found",
        )
