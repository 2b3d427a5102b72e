"""A benchmark's runs in a real MLflow: one parent, each row once, also when the database goes away in between."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from ganomaly.evaluation.rows import Row
from tasks.registry.registry import BENCHMARK_EXPERIMENT, ModelRegistry, RegistryUnreachableError


def row(seed: int, *, error: str | None = None) -> Row:
    """A row with little in it."""
    said = {"job": f"cells-{seed}", "study": "main", "method": "egbad", "score": "egbad", "flagging": True}
    said |= {"data": "cells", "abnormal_class": "bad", "seed": seed, "error": error, "started_at": "2026-03-02T10:00"}
    auroc = {"auroc": None if error else 0.5}
    return Row(**{**dict.fromkeys(Row.__dataclass_fields__), **said, **auroc})  # type: ignore[arg-type]


@pytest.fixture
def registry(tmp_path: Path, empty_mlflow_database: Path) -> ModelRegistry:
    """An empty MLflow."""
    path = shutil.copy(empty_mlflow_database, tmp_path / "mlflow.db")
    return ModelRegistry(f"sqlite:///{path}", str(tmp_path / "mlartifacts"))


def runs(registry: ModelRegistry) -> dict[str, list[str]]:
    """Status of the runs by their names."""
    experiment = registry.client.get_experiment_by_name(BENCHMARK_EXPERIMENT)
    assert experiment is not None
    found: dict[str, list[str]] = {}
    for run in registry.client.search_runs([experiment.experiment_id], max_results=100):
        found.setdefault(run.info.run_name, []).append(run.info.status)
    return found


def test_one_parent_and_each_row_once(registry: ModelRegistry, tmp_path: Path) -> None:
    """A benchmark that goes on, or is drawn again, would be in MLflow twice."""
    log = registry.benchmark_log("b1", "short")
    log.log_rows([row(0), row(1, error="ValueError: no")])
    assert runs(registry)["short"] == ["RUNNING"]
    report = tmp_path / "results.md"
    report.write_text("# Benchmark")
    again = registry.benchmark_log("b1", "short")
    again.log_rows([row(0), row(1, error="ValueError: no"), row(2)])
    again.close([(report, "")], failed=True)
    assert runs(registry) == {
        "short": ["FAILED"],
        "cells bad egbad seed 0": ["FINISHED"],
        "cells bad egbad seed 1": ["FAILED"],
        "cells bad egbad seed 2": ["FINISHED"],
    }
    registry.benchmark_log("b2", "other").close([], failed=False)
    assert runs(registry)["other"] == ["FINISHED"]


def test_a_row_that_was_cut_off_is_logged_again(registry: ModelRegistry, tmp_path: Path) -> None:
    """MLflow that fails in the middle of a row would leave half a run that passes for a result, or no result."""
    log = registry.benchmark_log("b1", "short")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("ALTER TABLE metrics RENAME TO gone")
    with pytest.raises(RegistryUnreachableError, match="cannot log a row"):
        log.log_rows([row(0)])
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("ALTER TABLE gone RENAME TO metrics")
    registry.benchmark_log("b1", "short").log_rows([row(0)])
    assert sorted(runs(registry)["cells bad egbad seed 0"]) == ["FINISHED", "KILLED"]
