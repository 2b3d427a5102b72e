"""Progress of long work in the Prefect UI."""

from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact


class ProgressArtifact:
    """A progress bar of the running flow or task.

    Args:
        what: the work, shown as its description.
        unit: what is counted.
    """

    def __init__(self, what: str, unit: str) -> None:
        self.unit = unit
        self.what = what
        self._id: UUID = create_progress_artifact(progress=0.0, description=what)  # type: ignore[assignment]

    def update(self, done: int, total: int) -> None:
        """Move the bar to done of total."""
        update_progress_artifact(
            self._id, progress=100.0 * done / max(total, 1), description=f"{self.what}: {done} of {total} {self.unit}"
        )
