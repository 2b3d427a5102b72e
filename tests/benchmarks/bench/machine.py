"""Where and with what a run was measured."""

import os
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from ganomaly.evaluation.machine import describe_machine
from tasks.settings import code_version
from tests.benchmarks.bench.plan import Plan

ASK_VERSIONS = "from importlib.metadata import version as v; print(v('anomalib'), v('torch'), v('lightning'))"


def describe(plan: Plan) -> dict[str, str]:
    """Machine, versions and commit as names and values for people."""
    machine = asdict(describe_machine("cpu"))
    named = {"CPU": machine["cpu"], "cores": str(machine["cores"]), "memory": f"{_memory_gb():.0f} GB"}
    named |= {name: machine[name] for name in ("python", "torch", "opencv", "numpy")}
    named |= {name: version(name) for name in ("prefect", "mlflow", "sqlalchemy")}
    if plan.anomalib is not None:
        named["anomalib, its torch and lightning"] = _ask(plan.anomalib)
    named |= {
        "commit": code_version(),
        "torch threads": ", ".join(map(str, plan.threads)),
        "load when it began": f"{os.getloadavg()[0]:.1f}",
        "measured at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }
    return named


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def _ask(python: Path) -> str:
    found = subprocess.run([str(python), "-c", ASK_VERSIONS], check=True, capture_output=True, text=True)
    return found.stdout.strip().replace(" ", ", ")
