"""A night on which the camera changed: its verdicts wait until somebody releases them."""

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from deployments.commands.inspection import app
from flows.nightly import nightly
from tasks.bucket.bucket import ObjectStore
from tasks.night.run import SuspectNightError
from tasks.systems import open_systems
from tests.flows.plates import LAST_DAY, LINE, key_of, plate

pytestmark = pytest.mark.usefixtures("prefect_server")


def dimmed(data: bytes) -> bytes:
    """The image as an aged lamp shows it."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return cv2.imencode(".png", (image * 0.6).astype(np.uint8))[1].tobytes()


@pytest.fixture
def dim_night(trained: ObjectStore) -> ObjectStore:
    """The plant after its lamp aged on the last day."""
    for number in range(20):
        trained.put(key_of(LAST_DAY, f"g{number:04}"), dimmed(plate(7000 + number)), "image/png")
        trained.put(key_of(LAST_DAY, f"d{number:04}"), dimmed(plate(2000 + number, defect=True)), "image/png")
    return trained


def night_files(bucket: ObjectStore) -> dict[str, str]:
    """Name and key of the files of the newest report."""
    keys = [found.key for found in bucket.list_objects(f"reports/{LINE}/{LAST_DAY}/") if "/overlays/" not in found.key]
    newest = max(key.split("/")[3] for key in keys)
    return {key.rsplit("/", 1)[1]: key for key in keys if key.split("/")[3] == newest}


@pytest.mark.fault(
    area="Camera",
    fault="its lamp ages",
    outcome="the night is judged and withheld until somebody releases it; the flow fails and says what changed",
)
def test_a_suspect_night_is_withheld_until_somebody_releases_it(dim_night: ObjectStore) -> None:
    """Broken if a changed camera's flags reach people as false rejects, or verdicts are lost, or nobody can release."""
    with pytest.raises(
        SuspectNightError, match=r"camera or process changed: brightness 0\.\d+, usually 0\.\d+"
    ) as error:
        nightly(LINE, LAST_DAY, device="cpu")
    assert f"inspection confirm {LINE} --date {LAST_DAY}" in str(error.value)
    systems = open_systems(LINE)
    champion = systems.registry.champion(LINE)
    judged = systems.store.scores.judged(LINE, LAST_DAY, LAST_DAY, 1, champion.calibration_id)
    assert len(judged) == 42
    files = night_files(dim_night)
    assert "flagged-withheld.csv" in files
    assert "flagged.csv" not in files
    page = dim_night.get(files["report.html"]).decode()
    assert "camera or process changed, verdicts withheld" in page
    assert "The verdicts below are not released" in page
    assert 'href="flagged-withheld.csv"' in page
    assert 'href="flagged.csv"' not in page
    assert "Camera and process, night by night" in page
    with pytest.raises(SuspectNightError):  # a finished night is not forgotten
        nightly(LINE, LAST_DAY, device="cpu")

    runner = CliRunner()
    nobody = runner.invoke(app, ["confirm", LINE, "--date", str(LAST_DAY), "--why", "new lamp", "--who", " "])
    assert "needs the name of who says so" in nobody.output
    done = runner.invoke(app, ["confirm", LINE, "--date", str(LAST_DAY), "--why", "new lamp", "--who", "ada"])
    assert done.exit_code == 0, done.output
    files = night_files(dim_night)
    assert "flagged.csv" in files
    page = dim_night.get(files["report.html"]).decode()
    assert "verdicts withheld" not in page
    assert "The verdicts were released by ada" in page
    assert "new lamp" in page
    assert nightly(LINE, LAST_DAY, device="cpu").counts.already_scored == 40
    again = runner.invoke(app, ["confirm", LINE, "--date", str(LAST_DAY), "--why", "x", "--who", "eve"])
    assert again.exit_code == 0, again.output
    assert systems.store.drift.last_release(LINE, LAST_DAY, LAST_DAY, 1).who == "ada"
    usual = runner.invoke(app, ["confirm", LINE, "--date", "2026-03-07", "--why", "x", "--who", "ada"])
    assert "nothing is withheld" in usual.output


def test_a_usual_night_is_released(trained: ObjectStore) -> None:
    """Broken if half a day of defective parts is taken for a changed camera."""
    nightly(LINE, LAST_DAY, device="cpu")
    systems = open_systems(LINE)
    run = systems.store.runs.newest(LINE, LAST_DAY, LAST_DAY)
    figures = systems.store.drift.of_run(run.id)
    assert {figure.figure for figure in figures} >= {"brightness", "contrast", "sharpness", "centre_x", "score"}
    assert not any(figure.changed for figure in figures)
    assert "flagged.csv" in night_files(trained)
