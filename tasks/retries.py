"""Which failures of a network step are worth another try: those of the network, not those of what was asked."""

from typing import Any

from prefect.client.schemas.objects import State, TaskRun

from tasks.model_registry import RegistryUnreachableError
from tasks.object_store import ObjectChangedError, ObjectDeniedError, ObjectMissingError, ObjectStoreError

RETRY_DELAYS_S = [2, 10, 30]


def is_transient(task: Any, run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001
    """Whether a failed task may succeed when it is run again (a Prefect `retry_condition_fn`)."""
    try:
        state.result()
    except (ObjectMissingError, ObjectChangedError, ObjectDeniedError):
        return False
    except (ObjectStoreError, RegistryUnreachableError, ConnectionError, TimeoutError):
        return True
    except Exception:
        return False
    return False


NETWORK_STEP: dict[str, Any] = {
    "retries": len(RETRY_DELAYS_S),
    "retry_delay_seconds": RETRY_DELAYS_S,
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
}
"""Arguments of `prefect.task` for a step that talks to the bucket or the registry."""
