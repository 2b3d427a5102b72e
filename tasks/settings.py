"""Where the outside systems are, and which code runs.

Addresses are read from ``INSPECTION_*`` environment variables when `Settings()` is called.

S3 credentials come from boto3's own chain (``AWS_*`` variables, profiles, instance roles), passwords of PostgreSQL and
MLflow from the address or their own means (``PGPASSWORD``, ``~/.pgpass``, ``MLFLOW_TRACKING_PASSWORD``). Addresses are
therefore left out when settings are printed, and what was typed is left out of error messages.
"""

import os
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "INSPECTION_"
DISTRIBUTION = "ganomaly-inspection"


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

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    work_dir: Path = Path("var")
    bucket: str = Field("inspection", min_length=3, max_length=63)
    s3_endpoint_url: str | None = Field(None, repr=False)  # None: Amazon S3
    s3_read_timeout_s: float = Field(30.0, gt=0, le=600)  # a server that stays silent for so long is asked again
    store_url: str = Field(default_factory=lambda s: f"sqlite:///{s.get('work_dir', 'var')}/inspection.db", repr=False)
    mlflow_tracking_uri: str = Field(
        default_factory=lambda s: f"sqlite:///{s.get('work_dir', 'var')}/mlflow.db", repr=False
    )
    mlflow_artifact_root: str | None = Field(default_factory=_default_artifact_root)
    lines_dir: Path = Field(default_factory=_default_lines_dir)
    lease_s: float = Field(60.0, ge=1, le=3600)  # after so many seconds without a sign of life a run counts as dead

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_variables(cls, values: Any) -> Any:
        allowed = [f"{PREFIX}{name.upper()}" for name in cls.model_fields]
        ours = [name for name in sorted(os.environ) if name.upper().startswith(PREFIX)]
        if unknown := [name for name in ours if name.upper() not in allowed]:
            raise ValueError(f"{', '.join(unknown)}: there is no such setting; allowed: {', '.join(allowed)}")
        return values

    @field_validator("s3_endpoint_url", "store_url", "mlflow_tracking_uri")
    @classmethod
    def _refuse_misplaced_passwords(cls, address: str | None, info: ValidationInfo) -> str | None:
        """Where a password is not recognised as one, libraries print it in their messages."""
        if address is not None and not _keeps_password_in_place(address):
            raise ValueError(
                f"{PREFIX}{str(info.field_name).upper()}: is no address; user and password belong before the host "
                "(scheme://user:password@host), with / : @ ? # and % in them written as %2F %3A %40 %3F %23 and %25"
            )
        return address

    @field_validator("mlflow_artifact_root")
    @classmethod
    def _refuse_password(cls, root: str | None) -> str | None:
        if root is not None and "@" in urlsplit(root).netloc:
            raise ValueError(f"{PREFIX}MLFLOW_ARTIFACT_ROOT: takes no password: MLflow writes it into its database")
        return root


def _keeps_password_in_place(address: str) -> bool:
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises for what is no number, as the first half of a password is
    except ValueError:
        return False
    elsewhere = parts.netloc.rpartition("@")[0] + (parts.path + parts.query + parts.fragment if parts.netloc else "")
    return "@" not in elsewhere and "password" not in parts.query.lower()


@cache
def code_version() -> str:
    """For example ``0.1.0+g1a2b3c4d``; ``.dirty`` is appended when tracked files differ from the commit."""
    try:
        release = version(DISTRIBUTION)
    except PackageNotFoundError:
        release = "0"
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return release
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=.dirty", "--exclude=*", "--abbrev=8"]
    try:
        done = subprocess.run(  # noqa: S603 - our own arguments, no shell reads them
            command, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return release
    return f"{release}+g{done.stdout.strip()}"
