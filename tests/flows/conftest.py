"""Prefect's test server for the flows, and small line files."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.testing.utilities import prefect_test_harness

from tasks.model_registry import ModelRegistry

SMALL_LINE: dict[str, dict[str, Any]] = {
    "images": {},
    "recipe": {"size_px": 32},
    "network": {"features": 16, "latent_size": 32},
    "training": {"epochs": 3, "batch_size": 16},
    "quality": {"min_sharpness": 0.0},
    "calibration": {"false_reject_rate": 0.05, "calibrate_fraction": 0.25},
    "scoring": {"chunk_size": 16, "shard_size": 32},
}


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect API with a database of its own."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def empty_mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, created once: its own migrations take seconds for each new database."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    ModelRegistry(f"sqlite:///{path}").champion("none")
    return path


@pytest.fixture
def environment(environment: str, tmp_path: Path, empty_mlflow_database: Path) -> str:
    """The environment of all tests, with MLflow's tables in place."""
    shutil.copy(empty_mlflow_database, tmp_path / "mlflow.db")
    return environment


@pytest.fixture
def write_line(environment: str) -> Callable[..., Path]:
    """A function that writes a line file of a small, fast detector; tables given by name replace single settings."""

    def write(line: str, **tables: dict[str, Any]) -> Path:
        text = [f'line = "{line}"', 'timezone = "Europe/Berlin"']
        for name, settings in SMALL_LINE.items():
            text.append(f"[{name}]")
            # a JSON scalar is a TOML scalar
            text += [f"{key} = {json.dumps(value)}" for key, value in (settings | tables.get(name, {})).items()]
        path = Path(os.environ["INSPECTION_LINES_DIR"]) / f"{line}.toml"
        path.write_text("\n".join(text) + "\n", encoding="utf-8")
        return path

    return write
