"""`mlflow models serve` with a line's champion, asked over HTTP as a camera PC would."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from flows.nightly import nightly
from tasks.bucket.bucket import ObjectStore
from tasks.systems import open_systems
from tests.flows.plates import LAST_DAY, LINE, key_of
from tests.prefect_server import stop_group

START_TIMEOUT_S = 180
pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def server(trained: ObjectStore, tmp_path: Path) -> Iterator[str]:
    """The address of a server that answers for the champion."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = os.environ["INSPECTION_MLFLOW_TRACKING_URI"]
    programs = Path(sys.executable).parent
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"  # as in an activated environment
    env = {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": uri, "MLFLOW_REGISTRY_URI": uri}
    command = [
        str(programs / "mlflow"),
        "models",
        "serve",
        "-m",
        f"models:/ganomaly-{LINE}@champion",
        "--env-manager",
        "local",
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    log = tmp_path / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=env, cwd=tmp_path, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                time.sleep(0.3)
        else:
            raise RuntimeError(f"the model server did not start:\n{log.read_text(errors='replace')[-3000:]}")
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        stop_group(process)


def ask(address: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """One request; the rows of the answer."""
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return list(json.load(answer)["predictions"])


def test_the_server_says_what_the_night_says(server: str, trained: ObjectStore) -> None:
    """Broken if a part gets another verdict from the server than in the night, or one bad image fails the others."""
    parts = ["g0000", "d0000", "page"]
    cells = [base64.b64encode(trained.get(key_of(LAST_DAY, part))).decode() for part in parts]
    good, defective, page = ask(server, {"inputs": {"image": cells}})
    nightly(LINE, LAST_DAY, device="cpu")
    systems = open_systems(LINE)
    champion = systems.registry.champion(LINE)
    scores = systems.store.scores.of_window(LINE, LAST_DAY, LAST_DAY, 1, champion.calibration_id).set_index("part")
    for part, row in (("g0000", good), ("d0000", defective)):
        assert row["verdict"] == scores.loc[part, "verdict"]
        assert row["raw_score"] == pytest.approx(scores.loc[part, "raw_score"], rel=1e-4)
    assert (page["verdict"], page["reason"], page["raw_score"]) == ("unusable", "unreadable", None)
    assert "heat_map" not in good

    drawn = ask(server, {"dataframe_records": [{"image": cells[1]}], "params": {"heat_maps": True}})
    png = np.frombuffer(base64.b64decode(drawn[0]["heat_map"]), np.uint8)
    assert cv2.imdecode(png, cv2.IMREAD_COLOR).shape == (64, 64, 3)
    found = ask(server, {"inputs": {"image": cells}, "params": {"regions": True}})
    assert found[0]["regions"] is found[2]["regions"] is None
    assert json.loads(found[1]["regions"])[0]["heat"] >= 1
    with pytest.raises(urllib.error.HTTPError, match="400"):
        ask(server, {"inputs": {"picture": cells}})
