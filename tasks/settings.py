"""Where the outside systems are: read from ``INSPECTION_*`` environment variables when `Settings()` is called.

No secrets live here. S3 credentials come from boto3's own chain (``AWS_*`` variables, profiles, instance roles),
database passwords from the URL or the driver's own means (``PGPASSWORD``, ``~/.pgpass``).
"""

import os
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "INSPECTION_"


def _default_lines_dir() -> Path:
    """`deployments/lines` beside this package: true in a checkout, an editable install and a wheel alike."""
    return Path(__file__).resolve().parent.parent / "deployments" / "lines"


def _default_artifact_root(settings: dict[str, Any]) -> str | None:
    """A folder when MLflow is a local SQLite file; a tracking server knows its own artifact store (None)."""
    if not str(settings.get("mlflow_tracking_uri", "")).startswith("sqlite:"):
        return None
    # absolute, because MLflow writes it into its database
    return str((settings.get("work_dir", Path("var")) / "mlartifacts").resolve())


class Settings(BaseSettings):
    """The addresses of the outside systems. The defaults run everything embedded, under ``var/``.

    Relative paths are relative to the working directory of the process.

    Raises:
        pydantic.ValidationError: for an ``INSPECTION_*`` variable that does not exist or has a wrong value; names it.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    work_dir: Path = Path("var")
    bucket: str = Field("inspection", min_length=3, max_length=63)
    s3_endpoint_url: str | None = None  # None: Amazon S3
    store_url: str = Field(default_factory=lambda s: f"sqlite:///{s.get('work_dir', 'var')}/inspection.db")
    mlflow_tracking_uri: str = Field(default_factory=lambda s: f"sqlite:///{s.get('work_dir', 'var')}/mlflow.db")
    mlflow_artifact_root: str | None = Field(default_factory=_default_artifact_root)
    lines_dir: Path = Field(default_factory=_default_lines_dir)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_variables(cls, values: Any) -> Any:
        allowed = [f"{PREFIX}{name.upper()}" for name in cls.model_fields]
        ours = [name for name in sorted(os.environ) if name.upper().startswith(PREFIX)]
        if unknown := [name for name in ours if name.upper() not in allowed]:
            raise ValueError(f"{', '.join(unknown)}: there is no such setting; allowed: {', '.join(allowed)}")
        return values
