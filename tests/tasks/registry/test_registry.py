"""What the registry makes of its address and of MLflow's settings; `tests/faults` has it against failing servers."""

import os
from pathlib import Path

import pytest

from tasks.process import MLFLOW_DEFAULTS, set_up_process
from tasks.registry.reaching import RegistryUnreachableError, without_passwords
from tasks.registry.registry import ModelRegistry


@pytest.fixture(autouse=True)
def _own_mlflow_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password that a registry puts into the environment is gone after the test."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_credentials_leave_the_address() -> None:
    """Broken if MLflow gets a URI with a password, which it prints, or loses the password on the way."""
    registry = ModelRegistry("https://ops:p%40ss%2Fw@mlflow.plant:5000/api?x=1")
    assert registry.tracking_uri == registry.address == "https://mlflow.plant:5000/api?x=1"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "ops"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "p@ss/w"


def test_an_address_without_credentials_changes_nothing() -> None:
    """Broken if the user's own MLFLOW_TRACKING_USERNAME is lost because the address names nobody."""
    os.environ["MLFLOW_TRACKING_USERNAME"] = "mine"
    assert ModelRegistry("http://mlflow.plant:5000").address == "http://mlflow.plant:5000"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "mine"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:secret@db/x refused", "postgresql://***@db/x refused"),
        ("at 'http://u:se@cr:et@host:1/a@b'", "at 'http://***@host:1/a@b'"),
        ("http://host/users/a@b.c", "http://host/users/a@b.c"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_passwords_in_texts(text: str, shown: str) -> None:
    """Broken if an error prints a password, or hides the address that it is about."""
    assert without_passwords(text) == shown


def test_limits_are_set_unless_the_user_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken if MLflow's own patience of many minutes is back, or the user's limits are overridden."""
    for name in MLFLOW_DEFAULTS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    set_up_process()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == MLFLOW_DEFAULTS["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]


def test_a_database_that_cannot_be_opened(tmp_path: Path) -> None:
    """Broken if an unusable SQLite address ends in a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RegistryUnreachableError, match=r"MLflow at sqlite:.*cannot open.*INSPECTION_MLFLOW_TRACKING_URI"
    ):
        ModelRegistry(f"sqlite:///{tmp_path}/file/mlflow.db")


def test_an_address_that_mlflow_does_not_know() -> None:
    """Broken if a mistyped scheme ends in a traceback."""
    with pytest.raises(RegistryUnreachableError, match="MLflow at ftp://plant: cannot open"):
        ModelRegistry("ftp://plant")
