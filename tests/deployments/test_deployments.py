"""The line files and prefect.yaml that the repository ships."""

from pathlib import Path

import pytest
import yaml
from prefect.schedules import Cron
from pydantic import BaseModel

from tasks.lines.line import LineConfig, load_line
from tasks.lines.names import list_lines

DEPLOYMENTS = Path(__file__).resolve().parents[2] / "deployments"
LINES = list_lines(DEPLOYMENTS / "lines")


@pytest.fixture
def entries() -> list[dict]:
    """The deployments of prefect.yaml."""
    return yaml.safe_load((DEPLOYMENTS / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]


@pytest.mark.parametrize("line", LINES)
def test_each_line_file_is_valid(line: str) -> None:
    """Broken if a line file that ships has a key, a type or a value that is not allowed."""
    assert load_line(line, DEPLOYMENTS / "lines").name == line


def test_each_line_trains_on_gpu_is_promoted_and_runs_nightly_on_cpu(entries: list[dict]) -> None:
    """Broken if a line lacks a deployment, or a deployment names another line, flow or pool than it should."""
    found = {(entry["name"], entry["entrypoint"], entry["work_pool"]["name"]) for entry in entries}
    expected = {(line, "flows/train_ganomaly.py:train_ganomaly", "gpu") for line in LINES}
    expected |= {(line, "flows/promote_model.py:promote_model", "cpu") for line in LINES}
    expected |= {(line, "flows/nightly.py:nightly", "cpu") for line in LINES}
    assert found == expected
    assert all(entry["parameters"] == {"line": entry["name"]} for entry in entries)


def test_nights_are_scheduled_in_the_lines_own_time(entries: list[dict]) -> None:
    """Broken if a nightly run has no schedule, an invalid one, or one in another time zone than the line's."""
    for entry in entries:
        if entry["entrypoint"].startswith("flows/nightly"):
            (schedule,) = entry["schedules"]
            Cron(schedule["cron"], timezone=schedule["timezone"])
            assert schedule["timezone"] == load_line(entry["name"], DEPLOYMENTS / "lines").timezone


def test_prefect_yaml_is_found_from_the_root() -> None:
    """Broken if `prefect deploy --all` in the repository's root reads another file than deployments/prefect.yaml."""
    assert (DEPLOYMENTS.parent / "prefect.yaml").resolve() == DEPLOYMENTS / "prefect.yaml"


def test_every_setting_is_documented() -> None:
    """Broken if a setting of a line file is missing from docs/lines.md."""
    text = (DEPLOYMENTS.parent / "docs" / "lines.md").read_text(encoding="utf-8")
    for name, field in LineConfig.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            section = text.partition(f"## `[{name}]`")[2].partition("\n## ")[0]
            missing = [key for key in field.annotation.model_fields if f"| `{key}` |" not in section]
            assert not missing, f"[{name}]"
        else:
            assert f"| `{name}` |" in text
