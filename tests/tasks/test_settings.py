"""`Settings()`: what the environment says, and what it must not say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.settings import Settings
from tasks.store.database import Database, ReportStoreError


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("INSPECTION_")]:
        monkeypatch.delenv(name)


def test_the_defaults_run_everything_embedded() -> None:
    """A fresh clone without any variable would look for servers that are not there."""
    settings = Settings()
    assert settings.s3_endpoint_url is None
    assert settings.store_url == "sqlite:///var/inspection.db"
    assert settings.mlflow_tracking_uri == "sqlite:///var/mlflow.db"
    assert settings.mlflow_artifact_root == str(Path("var/mlartifacts").resolve())
    assert settings.lines_dir == Path(__file__).parents[2] / "deployments" / "lines"


def test_work_dir_moves_all_that_is_embedded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The databases of two work folders would be mixed."""
    monkeypatch.setenv("INSPECTION_WORK_DIR", str(tmp_path))
    settings = Settings()
    assert settings.store_url == f"sqlite:///{tmp_path}/inspection.db"
    assert settings.mlflow_artifact_root == str(tmp_path / "mlartifacts")


def test_a_tracking_server_chooses_its_own_artifact_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models would be written into a folder of the worker that no other machine can read."""
    monkeypatch.setenv("INSPECTION_MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert Settings().mlflow_artifact_root is None


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compose file that passes on an unset variable would make the endpoint an empty address."""
    monkeypatch.setenv("INSPECTION_S3_ENDPOINT_URL", "")
    assert Settings().s3_endpoint_url is None


def test_a_misspelt_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing mistake in a worker's environment would silently use the default."""
    monkeypatch.setenv("INSPECTION_BUKCET", "plant")
    with pytest.raises(ValidationError, match=r"INSPECTION_BUKCET: there is no such setting; allowed: .*_BUCKET"):
        Settings()


def test_the_lines_are_found_from_any_folder(tmp_path: Path) -> None:
    """A worker that runs in another folder would find no line."""
    code = "from tasks.settings import Settings; print(Settings().lines_dir)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert Path(done.stdout.decode().strip()) == Path(__file__).parents[2] / "deployments" / "lines"


def test_a_wrong_database_address_is_one_line() -> None:
    """A typing mistake would end in a traceback of SQLAlchemy's, with the password in it."""
    with pytest.raises(ReportStoreError, match="INSPECTION_STORE_URL is no address of a database") as caught:
        Database("postgresql:hidden@host")
    assert "hidden" not in str(caught.value)
