"""The rows of the paper's comparison (`ganomaly paper`) as MLflow runs: a parent, and a nested run for each row."""

import csv
import time
from pathlib import Path

from mlflow.entities import Metric, Param
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tasks.errors import OperatingError
from tasks.registry.reaching import asking
from tasks.registry.registry import ModelRegistry

EXPERIMENT = "ganomaly-paper"
METRICS = ("auroc", "average_precision", "train_s", "score_ms_per_image", "duration_s")


def log_comparison(registry: ModelRegistry, folder: Path) -> int:
    """Log the results of a folder; rows that are logged already are left out, so that it may be called again.

    Returns:
        How many rows were logged.

    Raises:
        OperatingError: if the folder holds no results.
        RegistryUnreachableError: if MLflow does not answer.
    """
    try:
        with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise OperatingError(
            f"{folder}: holds no results.csv ({error.strerror}); let `ganomaly paper` make it"
        ) from None
    client = registry.client
    with asking(registry.address, "log the comparison"):
        registry.select_experiment(EXPERIMENT)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        experiment_id = str(experiment.experiment_id)
        parents = client.search_runs([experiment_id], f"tags.folder = '{folder.resolve()}'", max_results=1)
        parent = parents[0] if parents else client.create_run(experiment_id, tags={"folder": str(folder.resolve())})
        parent_id = parent.info.run_id
        nested = client.search_runs(
            [experiment_id], f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_id}'", max_results=50_000
        )
        known = {run.data.tags["row"] for run in nested if run.info.status != "RUNNING"}
        for run in nested:
            if run.info.status == "RUNNING":  # cut off while it was written
                client.set_terminated(run.info.run_id, "KILLED")
        new = [row for row in rows if _key(row) not in known]
        for row in new:
            _log_row(registry, experiment_id, parent_id, row)
        client.log_artifacts(parent_id, str(folder / "figures"), "figures")
        for name in ("results.md", "results.csv"):
            client.log_artifact(parent_id, str(folder / name))
        client.set_terminated(parent_id, "FAILED" if any(row["error"] for row in rows) else "FINISHED")
    return len(new)


def _key(row: dict[str, str]) -> str:
    return f"{row['job']} {row['score']} {row['started_at']}"


def _log_row(registry: ModelRegistry, experiment_id: str, parent_id: str, row: dict[str, str]) -> None:
    """One row as a nested run: figures as metrics, the machine as a tag, all else as parameters."""
    client, now = registry.client, int(time.time() * 1000)
    tags = {MLFLOW_PARENT_RUN_ID: parent_id, "row": _key(row), "machine": row["machine"]}
    name = f"{row['data']} {row['abnormal_class']} {row['method']} {row['score']} {row['value']} seed {row['seed']}"
    run_id = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
    metrics = [Metric(key, float(row[key]), now, 0) for key in METRICS if row[key]]
    params = [Param(key, value[:500]) for key, value in row.items() if value and key not in (*METRICS, "machine")]
    client.log_batch(run_id, metrics=metrics, params=params)
    client.set_terminated(run_id, "FAILED" if row["error"] else "FINISHED")
