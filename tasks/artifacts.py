"""What the Prefect UI shows of a run: tables and progress. Never worth a night: a server that is away is logged."""

from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger


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
