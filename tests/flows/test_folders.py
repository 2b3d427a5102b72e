"""Folders as plants fill them: days that nobody looks at, files that are no images, nights without anything."""

import re
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from deployments.commands.inspection import app
from flows.catch_up import catch_up
from flows.ingest_images import ingest_images
from flows.nightly import nightly
from flows.promote_model import promote_model
from flows.train_ganomaly import train_ganomaly
from ganomaly import TrainingDataError
from tasks.bucket.bucket import ObjectStore
from tasks.night.run import NothingJudgedError
from tasks.registry.reaching import ModelRegistryError
from tasks.store.store import ReportStore
from tasks.systems import open_systems
from tasks.training.normal_list import as_text
from tests.flows.plates import LAST_DAY, LINE, WEEK, key_of, plate

pytestmark = pytest.mark.usefixtures("prefect_server")

EPOCH = date(1970, 1, 1)
IDLE_DAY = date(2026, 3, 20)
PREFIX = f"images/{LINE}/"


def test_what_no_run_looked_at_is_told_and_caught_up(trained: ObjectStore, store: ReportStore) -> None:
    """A camera's clock, a day without a run or another form of folder would take images with it, unseen."""
    today = datetime.now(ZoneInfo("Europe/Berlin")).date()  # of the line
    for day, parts in ((EPOCH, 3), (IDLE_DAY, 2), (today, 1)):
        for number in range(parts):
            trained.put(key_of(day, f"late{number}"), plate(4000 + number), "image/png")
    trained.put(f"{PREFIX}20.03.2026/p1/top.png", plate(4100), "image/png")
    trained.put(f"{PREFIX}{EPOCH}/late0/top.json", b"{}", "application/json")
    night = nightly(LINE, LAST_DAY, device="cpu")
    html = trained.get(night.report_key).decode()
    assert night.never_seen == 6
    assert "6 objects elsewhere never looked at" in html
    rows = re.findall(r'<tr><td class="n">(\d+)</td><td><span class="key">([^<]+)</span></td></tr>', html)
    folders = {f"{PREFIX}{EPOCH}/": "3", f"{PREFIX}{IDLE_DAY}/": "2", f"{PREFIX}20.03.2026/": "1"}
    assert {folder: count for count, folder in rows} == folders
    assert "inspection catch-up plates" in html
    nights = catch_up(LINE, device="cpu")
    assert [night.counts.scored for night in nights] == [3, 2]
    assert len(store.images.recorded(LINE, EPOCH, EPOCH)) == 3
    assert catch_up(LINE, device="cpu") == []
    assert nightly(LINE, LAST_DAY, device="cpu").never_seen == 1


def test_late_images_are_judged_by_the_model_of_their_day(trained: ObjectStore, store: ReportStore) -> None:
    """After a promotion, three late images of a day would have the whole day judged anew by another model."""
    nightly(LINE, LAST_DAY, device="cpu")
    registry = open_systems(LINE).registry
    first = registry.champion(LINE)
    train_ganomaly(LINE, seed=1, device="cpu")
    promote_model(LINE, 2, without_gate="a test", who="ada", device="cpu")
    assert registry.champion(LINE) != first
    trained.put(key_of(LAST_DAY, "late"), plate(4000), "image/png")
    (night,) = catch_up(LINE, device="cpu")
    assert (night.model_version, night.counts.scored) == (1, 1)
    assert night.counts.already_scored > 0


def test_a_camera_of_12_bits_is_fit_to_judge(bucket: ObjectStore, write_line: Callable[..., Path]) -> None:
    """A whole line would be recorded as underexposed, and a black frame of it as fit."""
    write_line(LINE)
    for number in range(8):
        image = cv2.imdecode(np.frombuffer(plate(number), np.uint8), cv2.IMREAD_UNCHANGED).astype(np.uint16) * 16
        if number == 7:
            image[:] = 8
        data = cv2.imencode(".png", image)[1].tobytes()
        bucket.put(key_of(LAST_DAY, f"p{number}"), data, "image/png")
    counts = ingest_images(LINE, LAST_DAY)
    assert (counts.recorded, counts.unusable) == (7, 1)
    assert ingest_images(LINE, LAST_DAY).already_recorded == 8


def test_files_beside_the_images_count_nowhere(trained: ObjectStore) -> None:
    """A camera's notes would be judged as images, or every night be full of unusable ones."""
    before = nightly(LINE, LAST_DAY, device="cpu").counts
    part = f"{PREFIX}{LAST_DAY}/g0000"
    for name in ("top.json", "top.png.part", "._top.png", "Thumbs.db", ".DS_Store", "top.md5"):
        trained.put(f"{part}/{name}", b"x", "application/octet-stream")
    again = nightly(LINE, LAST_DAY, device="cpu")
    assert again.counts.listed == before.listed
    assert again.never_seen == 0


def test_a_night_without_images_alarms(trained: ObjectStore, write_line: Callable[..., Path]) -> None:
    """A camera that stopped would end every night in green."""
    monday = date(2026, 3, 9)
    for _ in range(2):
        with pytest.raises(NothingJudgedError, match=rf"no image lies under s3://\S*/{PREFIX}2026-03-09"):
            nightly(LINE, monday, device="cpu")
    write_line(LINE, scoring={"days_off": ["monday"]})
    assert nightly(LINE, monday, device="cpu").counts.listed == 0


def test_a_night_of_unusable_images_alarms(trained: ObjectStore) -> None:
    """A lamp that broke would end in green."""
    for number in range(3):
        trained.put(key_of(IDLE_DAY, f"dark{number}"), b"", "image/png")
    with pytest.raises(NothingJudgedError, match=r"all 3 objects under .* are unusable; the report names the reasons"):
        nightly(LINE, IDLE_DAY, device="cpu")
    said = CliRunner().invoke(app, ["flagged", LINE, "--date", str(IDLE_DAY)]).output
    assert "nothing was judged: 3 objects listed, 3 unusable, 0 failed" in said


def test_a_deleted_champion_is_replaced_by_a_person(trained: ObjectStore) -> None:
    """The next training would judge from now on, and nobody have decided it."""
    systems = open_systems(LINE)
    client, name = systems.registry.client, f"ganomaly-{LINE}"
    client.delete_model_version(name, "1")
    with pytest.raises(ModelRegistryError, match=r"but had version 1 since .* --version N --without-gate REASON"):
        train_ganomaly(LINE, epochs=1, device="cpu")
    assert int(client.get_model_version_by_alias(name, "challenger").version) == 2
    assert systems.registry.champion(LINE) is None


KEYS = ["images/plates/2026-03-02/Prüfteil 1/top.png", "images/plates/2026-03-03/p2/top.png"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_a_list_is_read_in_the_encodings_of_spreadsheets(encoding: str) -> None:
    """Training would end with an error of Python's, or go on without the parts whose names have an umlaut."""
    text = "\r\n".join(["key", *KEYS])
    assert as_text(text.encode(encoding)) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda keys: [*keys[:-20], *(f"{key}x" for key in keys[-20:])], r"20 of 120 keys \(17%\) were never recorded"),
        (lambda keys: [keys[0], f'"{keys[1]}', *keys[2:]], r"is no CSV table \(unexpected end of data\)"),
    ],
    ids=["unknown keys", "a quote that is not closed"],
)
def test_a_list_that_is_not_this_lines_is_refused(
    trained: ObjectStore, write_line: Callable[..., Path], change: Callable[[list[str]], list[str]], message: str
) -> None:
    """A fraction of the good parts would train, and nobody be told."""
    write_line(LINE, images={"normal_list": "normal/plates.csv"})
    keys = [key_of(WEEK[number % 6], f"p{number:04}") for number in range(120)]
    trained.put("normal/plates.csv", "\r".join(["key", *change(keys)]).encode(), "text/csv")
    with pytest.raises(TrainingDataError, match=message):
        train_ganomaly(LINE, epochs=1, device="cpu")
