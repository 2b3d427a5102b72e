"""The registered versions of a line's model, and the aliases that say which of them does what."""

from dataclasses import dataclass
from typing import Any

CHAMPION = "champion"
CHALLENGER = "challenger"


@dataclass(frozen=True)
class ModelVersion:
    """One registered version of a line's detector."""

    name: str
    version: int
    mlflow_run_id: str
    snapshot_id: str
    calibration_id: str
    code_version: str
    source: str

    @property
    def uri(self) -> str:
        """The URI that pins this version: ``models:/<name>/<version>``."""
        return f"models:/{self.name}/{self.version}"


def model_name(line: str) -> str:
    """Name of a line's registered model."""
    return f"ganomaly-{line}"


def as_version(found: Any) -> ModelVersion:
    """A version as MLflow describes it."""
    return ModelVersion(
        name=found.name,
        version=int(found.version),
        mlflow_run_id=found.run_id or "",
        snapshot_id=found.tags.get("snapshot_id", ""),
        calibration_id=found.tags.get("calibration_id", ""),
        code_version=found.tags.get("code_version", ""),
        source=found.source,
    )
