"""The saved detector: scores as before in any process, and refuses to load when anything was altered."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ganomaly import Detector, DetectorConfig, DetectorFileError

DrawParts = Callable[..., list[np.ndarray]]
FILES = ["calibration.safetensors", "detector.json", "weights.safetensors"]


@pytest.fixture(scope="module")
def saved(trained: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a saved detector; tests only read it."""
    folder = tmp_path_factory.mktemp("saved") / "deep" / "detector"
    trained.save(folder)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved detector, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "detector"))


def test_loaded_detector_is_the_saved_one(trained: Detector, saved: Path, draw_parts: DrawParts) -> None:
    """A detector would judge differently after a restart than when it was approved."""
    loaded = Detector.load(saved, device="cpu")
    images = [*draw_parts(5, seed=1), *draw_parts(5, seed=2, defect=True), b"broken"]
    assert loaded.score(images) == trained.score(images)
    assert loaded.config == trained.config
    assert loaded.calibration.id == trained.calibration.id
    pixels = trained.prepare(images[7]).pixels[None]
    np.testing.assert_array_equal(loaded.heat_maps(pixels), trained.heat_maps(pixels))


def test_a_fresh_process_gives_the_same_scores(
    trained: Detector, saved: Path, draw_parts: DrawParts, tmp_path: Path
) -> None:
    """Scores would depend on something that is not in the folder."""
    images = draw_parts(5, seed=3)
    np.save(tmp_path / "images.npy", np.stack(images))
    code = (
        "import json, sys, numpy; from ganomaly import Detector\n"
        "scores = Detector.load(sys.argv[1], device='cpu').score(list(numpy.load(sys.argv[2])))\n"
        "print(json.dumps([[s.raw, s.normalised, s.p_value, s.verdict] for s in scores]))"
    )
    command = [sys.executable, "-c", code, saved, tmp_path / "images.npy"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    for (raw, normalised, p_value, verdict), score in zip(found, trained.score(images), strict=True):
        assert raw == pytest.approx(score.raw, rel=1e-6)
        assert normalised == pytest.approx(score.normalised, rel=1e-6, abs=1e-6)
        assert (p_value, verdict) == (score.p_value, score.verdict)


def test_saving_twice_writes_the_same_bytes(trained: Detector, saved: Path, tmp_path: Path) -> None:
    """Two copies of one detector could not be recognised as the same."""
    Detector.load(saved, device="cpu").save(tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes(), name


def test_nothing_else_is_written(saved: Path) -> None:
    """Somebody would have added a file that nothing protects, perhaps a pickle that runs code when loaded."""
    assert sorted(path.name for path in saved.iterdir()) == FILES
    json.loads((saved / "detector.json").read_bytes())
    for name in ("calibration.safetensors", "weights.safetensors"):
        data = (saved / name).read_bytes()
        json.loads(
            data[8 : 8 + int.from_bytes(data[:8], "little")]
        )  # the header of a safetensors file, by its standard


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_found(copy: Path, name: str) -> None:
    """A damaged disk or a forger could change verdicts without anybody noticing."""
    path = copy / name
    whole = path.read_bytes()
    if name == "detector.json":
        places = [
            whole.index(b'"window": 0.25') + 11,
            whole.index(b'"seed": 0') + 8,
            whole.index(b"false_reject") + 2,
            0,
        ]
    else:
        places = [3, len(whole) // 2, len(whole) - 1]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DetectorFileError, match=name):
            Detector.load(copy, device="cpu")
    path.write_bytes(whole)
    Detector.load(copy, device="cpu")


@pytest.mark.parametrize("name", FILES)
def test_missing_and_truncated_files_are_named(copy: Path, name: str) -> None:
    """An interrupted copy would load, or end in a traceback of another library."""
    whole = (copy / name).read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 2):
        (copy / name).write_bytes(whole[:length])
        with pytest.raises(DetectorFileError, match=name):
            Detector.load(copy, device="cpu")
    (copy / name).unlink()
    with pytest.raises(DetectorFileError, match=rf"{name}: cannot be read .*a detector is a folder of"):
        Detector.load(copy, device="cpu")


def test_newer_format_asks_for_an_upgrade(copy: Path) -> None:
    """An old program would misread a new detector."""
    document = json.loads((copy / "detector.json").read_bytes())
    (copy / "detector.json").write_text(json.dumps(document | {"format_version": 2}))
    with pytest.raises(DetectorFileError, match=r"detector.json: format_version 2 is newer than 1.*upgrade"):
        Detector.load(copy, device="cpu")


@pytest.mark.parametrize(
    "content", ["[]", "{}", "null", '{"format_version": 1}', '{"format_version": "1", "sha256": {}}']
)
def test_other_json_is_no_detector(copy: Path, content: str) -> None:
    """Another program's file would end in a traceback."""
    (copy / "detector.json").write_text(content)
    with pytest.raises(DetectorFileError, match=r"detector\.json: has no format_version or sha256"):
        Detector.load(copy, device="cpu")


def test_files_of_two_detectors_do_not_mix(copy: Path, tiny_config: DetectorConfig, draw_parts: DrawParts) -> None:
    """The weights of one detector would be used with the limit of another."""
    other = Detector.fit(draw_parts(70, seed=9), config=tiny_config, device="cpu")
    other.save(copy.parent / "other")
    shutil.copy(copy.parent / "other" / "weights.safetensors", copy)
    with pytest.raises(DetectorFileError, match=r"weights\.safetensors: SHA-256"):
        Detector.load(copy, device="cpu")


def test_a_wrong_device_is_not_blamed_on_the_files(saved: Path) -> None:
    """The user would fetch a sound detector again because the device was misspelt."""
    with pytest.raises(ValueError, match="device = 'cdua'") as caught:
        Detector.load(saved, device="cdua")
    assert not isinstance(caught.value, DetectorFileError)


def test_uncalibrated_detector_is_not_saved(trained: Detector, tmp_path: Path) -> None:
    """A detector without a limit would reach a line."""
    with pytest.raises(ValueError, match="not calibrated"):
        Detector(trained.config, device="cpu").save(tmp_path / "detector")
    assert not (tmp_path / "detector").exists()
