"""Ask a person, in Prefect's UI, whether a challenger may become champion."""

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.settings import PREFECT_API_URL

from tasks.promotion.gate import Gate

PATIENCE_S = 24 * 3600
POLL_S = 5


class Approval(RunInput):
    """What a person answers."""

    approve: bool
    approver: str
    comment: str = ""


def can_be_asked() -> bool:
    """Whether somebody can reach the run: Prefect's server in process ends with it."""
    return PREFECT_API_URL.value() is not None


def ask_for_approval(model: str, gate: Gate, why: str) -> Approval | None:
    """Pause the flow run until a person has answered in Prefect's UI; None if nobody did within a day.

    Args:
        model: URI of the challenger.
        gate: what it measured.
        why: a person is asked.
    """
    question = (
        f"May **{model}** become champion? ({why})\n\n{gate.as_markdown()}\n\nPictures are among the artifacts of its "
        "run in MLflow, under promotion/."
    )
    try:
        return pause_flow_run(
            wait_for_input=Approval.with_initial_data(description=question), timeout=PATIENCE_S, poll_interval=POLL_S
        )
    except FlowPauseTimeout:
        return None
