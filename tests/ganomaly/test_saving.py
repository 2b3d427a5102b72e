"""The saved detector: scores as before in any process, and refuses to load when anything was altered."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from ganomaly import Detector, DetectorConfig, DetectorFileError
from ganomaly.saving import FORMAT_VERSION

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


@pytest.mark.parametrize(
    ("version", "fault"),
    [(FORMAT_VERSION + 1, "newer than.*upgrade"), (FORMAT_VERSION - 1, "older than.*train.*again")],
)
def test_another_format_says_what_to_do(copy: Path, version: int, fault: str) -> None:
    """An old program would misread a new detector, or a new program an old one."""
    document = json.loads((copy / "detector.json").read_bytes())
    (copy / "detector.json").write_text(json.dumps(document | {"format_version": version}))
    with pytest.raises(DetectorFileError, match=rf"detector.json: format_version {version} is {fault}"):
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


# --- a forger who may write the folder and makes every hash right ---------------------------------------------------


class Trap:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


def forge(folder: Path, name: str = "", data: bytes = b"", **changes: Any) -> None:
    """Replace one tensor file and entries of detector.json, with hashes that fit."""
    document = json.loads((folder / "detector.json").read_bytes()) | changes
    hashes = document.pop("sha256")
    if name:
        (folder / name).write_bytes(data)
        hashes[name] = hashlib.sha256(data).hexdigest()
    hashes["detector.json"] = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    (folder / "detector.json").write_text(json.dumps({**document, "sha256": hashes}))


def forged_tensors(folder: Path, name: str, **changes: torch.Tensor) -> bytes:
    """The file's tensors with some replaced; `__` in a name stands for a dot."""
    return save(load_file(folder / name) | {key.replace("__", "."): value for key, value in changes.items()})


@pytest.mark.fault(
    area="Security",
    fault="a forged model file is a pickle, by either protocol of torch or plain",
    outcome="refused, names the file; nothing in it is run",
)
@pytest.mark.parametrize("make", ["pickle", "torch", "old torch"])
def test_a_pickle_is_not_even_opened(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: str) -> None:
    """A forger could run code on every machine that scores."""
    monkeypatch.chdir(tmp_path)
    forgery = tmp_path / "forgery"
    if make == "pickle":
        forgery.write_bytes(pickle.dumps(Trap()))
    else:
        torch.save(Trap(), forgery, _use_new_zipfile_serialization=make == "torch")
    for name in ("weights.safetensors", "calibration.safetensors"):
        whole = (copy / name).read_bytes()
        forge(copy, name, forgery.read_bytes())
        with pytest.raises(DetectorFileError, match=name):
            Detector.load(copy, device="cpu")
        forge(copy, name, whole)
    (copy / "detector.json").write_bytes(forgery.read_bytes())
    with pytest.raises(DetectorFileError, match=r"detector\.json: is no valid JSON"):
        Detector.load(copy, device="cpu")
    assert not (tmp_path / "trapped").exists()
    torch.load(forgery, weights_only=False) if make != "pickle" else pickle.loads(forgery.read_bytes())
    assert (tmp_path / "trapped").exists()  # the forgery is a real one


@pytest.mark.fault(
    area="Security",
    fault="a forged safetensors file with a header of absurd length, no JSON, or offsets outside the file",
    outcome="refused, names the file",
)
@pytest.mark.parametrize(
    "data",
    [
        (2**63).to_bytes(8, "little") + b"{}",
        (2**27).to_bytes(8, "little") + b" " * 64,
        (4).to_bytes(8, "little") + b"null",
        (8).to_bytes(8, "little") + b"[" * 8,
        (59).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36000]}}\n',
        (57).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9223372036854775807],"data_o',
    ],
    ids=["length beyond the file", "long header", "null", "no JSON", "offsets outside", "cut header"],
)
def test_a_malformed_tensor_file_is_refused(copy: Path, data: bytes) -> None:
    """A forged header could exhaust the memory or end in a traceback of another library."""
    forge(copy, "weights.safetensors", data)
    with pytest.raises(DetectorFileError, match=r"weights\.safetensors: is no valid safetensors file"):
        Detector.load(copy, device="cpu")


@pytest.mark.fault(
    area="Security",
    fault="forged tensors of other names, shapes or types than the detector's",
    outcome="refused: the files do not make a detector",
)
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("weights.safetensors", {"generator__surplus": torch.zeros(1)}),
        ("calibration.safetensors", {"calibration__scores": torch.zeros(3, dtype=torch.bfloat16)}),
        ("calibration.safetensors", {"global__centre": torch.zeros(2)}),
        ("calibration.safetensors", {"heat__limit": torch.zeros(2)}),
        ("calibration.safetensors", {"calibration__scores": torch.zeros(3)}),
    ],
)
def test_tensors_that_do_not_fit_are_refused(copy: Path, name: str, changes: dict[str, torch.Tensor]) -> None:
    """A forged detector would load and fail, or mislead, in the middle of a night."""
    forge(copy, name, forged_tensors(copy, name, **changes))
    with pytest.raises(DetectorFileError, match="the files do not make a detector"):
        Detector.load(copy, device="cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"config": None},
        {"config": {"recipe": {"size_px": "__import__('os').mkdir('trapped')"}}},
        {"config": {"network": {"features": 10**9}}},
        {"config": {"code": "import os"}},
        {"calibration_id": None},
    ],
)
@pytest.mark.fault(
    area="Security", fault="a forged detector.json with code, sizes or keys that no detector has", outcome="refused"
)
def test_a_forged_description_is_refused(copy: Path, changes: dict[str, Any]) -> None:
    """What stands in detector.json would be believed without being checked."""
    forge(copy, **changes)
    with pytest.raises(DetectorFileError, match="the files do not make a detector"):
        Detector.load(copy, device="cpu")


@pytest.mark.fault(
    area="Security",
    fault="detector.json nested 100,000 deep, or a number of 100,000 digits",
    outcome="refused, names it",
)
@pytest.mark.parametrize("content", ["[" * 100_000, "9" * 100_000, "\ud800", "NaN"])
def test_json_bombs_are_refused(copy: Path, content: str) -> None:
    """A forged description would end in a traceback or exhaust the stack."""
    (copy / "detector.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(DetectorFileError, match=r"detector\.json"):
        Detector.load(copy, device="cpu")


@pytest.mark.fault(
    area="Security",
    fault="detector.json names a file outside the folder, or one more",
    outcome="refused, names the entry; the file is not opened",
)
@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "weights.pkl", ""])
def test_other_file_names_are_refused(copy: Path, name: str) -> None:
    """A forged list of files could make loading read any file of the machine."""
    document = json.loads((copy / "detector.json").read_bytes())
    document["sha256"][name] = "0" * 64
    (copy / "detector.json").write_text(json.dumps(document))
    with pytest.raises(DetectorFileError, match=r"detector\.json: sha256 names"):
        Detector.load(copy, device="cpu")


@pytest.mark.fault(
    area="Security", fault="a file is added to a model's folder", outcome="refused, names the file that is too many"
)
@pytest.mark.parametrize("name", ["model.pkl", "sitecustomize.py", ".hidden", "weights.safetensors.bak"])
def test_an_added_file_is_refused(copy: Path, name: str) -> None:
    """A file that nothing protects would travel with an approved model, perhaps to where it is run."""
    (copy / name).write_bytes(b"")
    with pytest.raises(DetectorFileError, match=rf"{name}: is not part of a detector: remove it"):
        Detector.load(copy, device="cpu")


@pytest.mark.fault(
    area="Security",
    fault="a model file is a symbolic link, a pipe or a folder",
    outcome="refused, names the file; it is not opened",
)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["link", "link to a device", "pipe", "folder"])
def test_what_is_no_plain_file_is_refused(copy: Path, name: str, kind: str) -> None:
    """Loading could read a file outside the folder, or wait for ever at a pipe or a device."""
    outside = copy.parent / "outside"
    (copy / name).rename(outside)
    if kind == "pipe":
        os.mkfifo(copy / name)
    elif kind == "folder":
        (copy / name).mkdir()
    else:
        (copy / name).symlink_to(outside if kind == "link" else "/dev/zero")
    with pytest.raises(DetectorFileError, match=rf"{name}: is a link or no file at all"):
        Detector.load(copy, device="cpu")


def test_saving_over_a_link_leaves_its_target_alone(trained: Detector, copy: Path) -> None:
    """Whoever may write the model's folder could have any file of the machine overwritten."""
    outside = copy.parent / "outside"
    outside.write_bytes(b"mine")
    for name in FILES:
        (copy / name).unlink()
        (copy / name).symlink_to(outside)
    trained.save(copy)
    assert outside.read_bytes() == b"mine"
    Detector.load(copy, device="cpu")
