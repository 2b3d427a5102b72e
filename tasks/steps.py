"""Prefect's ways in one place: retries, arguments that it need not search, names of runs, what its UI shows."""

from typing import Any, TypeVar, cast
from uuid import UUID

from prefect import runtime
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.utilities import annotations

from tasks.bucket.failures import ObjectChangedError, ObjectDeniedError, ObjectMissingError, ObjectStoreError
from tasks.registry.reaching import RegistryUnreachableError

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


_Value = TypeVar("_Value")


def quote(value: _Value) -> _Value:
    """A task's argument that Prefect hands over without looking into it, typed as what the task gets.

    In any other, Prefect searches each object within for results of other tasks: for 20,000 images that takes most of a
    second, at every call.
    """
    return cast("_Value", annotations.quote(value))


def show_markdown(markdown: str, *, key: str, description: str) -> None:
    """Show a text in the Prefect UI.

    Args:
        markdown: the text.
        key: small letters, digits and hyphens; texts of the same key are versions of one.
        description: one line.
    """
    try:
        create_markdown_artifact(markdown, key=key, description=description)
    except Exception as error:
        get_run_logger().warning("the Prefect UI will not show %s: %s", key, error)


class ProgressArtifact:
    """A progress bar of the running flow or task.

    Args:
        what: the work, shown as its description.
        unit: what is counted.
    """

    def __init__(self, what: str, unit: str) -> None:
        self.unit = unit
        self.what = what
        self._id: UUID | None = None

    def update(self, done: int, total: int) -> None:
        """Move the bar to done of total."""
        share = 100.0 * done / max(total, 1)
        said = f"{self.what}: {done} of {total} {self.unit}"
        try:
            if self._id is None:
                self._id = create_progress_artifact(progress=share, description=said)  # type: ignore[assignment]
            else:
                update_progress_artifact(self._id, progress=share, description=said)
        except Exception as error:
            get_run_logger().warning("the Prefect UI will not show %s: %s", said, error)


def name_run() -> str:
    """For example ``nightly elpv-mono 2026-03-08``; without a date it is the last production."""
    parameters = runtime.flow_run.parameters
    dates = [parameters.get(name) for name in ("production_date", "window_start", "window_end")]
    given = list(dict.fromkeys(str(day) for day in dates if day is not None))
    return f"{runtime.flow_run.flow_name} {parameters.get('line')} {' to '.join(given) or 'last production'}"
