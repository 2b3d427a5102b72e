"""The plant's week that the demo plays."""

from collections import Counter
from importlib.util import find_spec

import pytest

from deployments.demo.plant import FIRST_DAY, LAST_DAY, LINES, broken_camera_frames, normal_list, play_week, week_of
from ganomaly import Detector
from tasks.bucket.bucket import ObjectStore

pytestmark = pytest.mark.skipif(find_spec("elpv_dataset") is None, reason="needs the package elpv-dataset")


def test_every_cell_is_produced_once() -> None:
    """Broken if cells are lost or made twice, or if a day is empty."""
    weeks = {line: week_of(line) for line in LINES}
    assert {line: len(cells) for line, cells in weeks.items()} == {"elpv-mono": 1074, "elpv-poly": 1550}
    for cells in weeks.values():
        assert len({cell.key for cell in cells}) == len(cells)
        days = Counter(cell.day for cell in cells)
        assert (min(days), max(days), len(days)) == (FIRST_DAY, LAST_DAY, 7)
        assert days[LAST_DAY] == pytest.approx(0.28 * len(cells), abs=4)


def test_nothing_of_the_last_day_and_no_defect_can_train() -> None:
    """Broken if the plant's list of normal images names a cell that the night is judged on, or a doubtful one."""
    cells = week_of("elpv-mono")
    listed = set(normal_list(cells).decode().split()[1:])
    by_key = {cell.key: cell for cell in cells}
    assert len(listed) > 400
    assert all(by_key[key].defect_probability == 0 and by_key[key].day < LAST_DAY for key in listed)


def test_broken_frames_are_unusable_for_the_reason_they_were_made() -> None:
    """Broken if the demo's camera faults are judged as parts."""
    frames = [data for _, data in broken_camera_frames("elpv-mono", week_of("elpv-mono"))]
    detector = Detector(device="cpu")
    assert [detector.prepare(data).reason for data in frames] == ["truncated", "underexposed", "blurred", "unreadable"]


def test_playing_again_writes_nothing(bucket: ObjectStore) -> None:
    """Broken if a second demo uploads the week again."""
    for cell in week_of("elpv-mono")[8:]:
        bucket.put(cell.key, b"already there", "image/png")
    assert play_week(bucket, "elpv-mono", lambda done, total: None) == 8 + 4
    assert play_week(bucket, "elpv-mono", lambda done, total: None) == 0
