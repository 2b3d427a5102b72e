"""An exported folder judges as its detector does, without torch and this package, or is not written."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from typer.testing import CliRunner

from ganomaly import ConfigError, Detector, DetectorConfig
from ganomaly.cli import app
from ganomaly.errors import ExportError
from ganomaly.exporting import package
from ganomaly.exporting.package import FORMATS, TOLERANCE, Format, export_detector
from ganomaly.images.recipe_fitting import fit_recipe
from tests.ganomaly.parts_in_colour import CONFIG, draw

CHECKED = {"quality": {"min_sharpness": 0, "min_brightness": 0.3, "min_contrast": 0.05}}
"""A gate that refuses some of what is drawn here."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good, defective, dark and blank images of one camera, one of another, and one that is none."""
    folder = tmp_path_factory.mktemp("images")
    for kind, drawn in (("good", draw(20, seed=5)), ("bad", draw(12, seed=6, defect=True))):
        for number, image in enumerate(drawn):
            cv2.imwrite(str(folder / f"{kind}{number:02}.png"), image[:, :, ::-1])
    cv2.imwrite(str(folder / "dark.png"), draw(1, seed=7)[0] // 8)
    cv2.imwrite(str(folder / "blank.png"), np.full((96, 160, 3), 120, np.uint8))
    cv2.imwrite(str(folder / "small.png"), np.full((48, 80, 3), 120, np.uint8))
    (folder / "broken.png").write_bytes(b"nothing")
    return folder


@pytest.fixture(scope="module", params=["trained", "of_few"])
def detector(request: pytest.FixtureRequest) -> Detector:
    """One with GANomaly, and a cross-fitted one."""
    settings = CONFIG.model_dump() | CHECKED
    n = 120 if request.param == "trained" else 24
    return Detector.fit(draw(n, seed=1), config=DetectorConfig.model_validate(settings), device="cpu")


def listed(folder: Path) -> list[Path]:
    """All files of a folder."""
    return sorted(folder.iterdir())


def alone(folder: Path, runtime: str) -> dict[str, str]:
    """The environment of a process that can import numpy, OpenCV and a runtime with what it needs, and nothing else."""
    folder.mkdir()
    wanted, seen = ["numpy", "opencv-python-headless", runtime], set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        distribution = metadata.distribution(name)
        needs = [Requirement(text) for text in distribution.requires or []]
        wanted += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
        for top in {file.parts[0] for file in distribution.files or [] if ".." not in file.parts}:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and not (folder / top).exists():
                (folder / top).symlink_to(source)
    return {"PYTHONPATH": str(folder), "PATH": os.environ["PATH"]}


def said(line: str) -> tuple[str, str, float]:
    """File, verdict and normalised score of a line that a program printed."""
    match = re.fullmatch(r"(.*): (\w+(?: \(.*\))?) raw \S+ normalised (\S+) p \S+", line)
    assert match is not None, line
    return Path(match[1]).name, match[2], float(match[3])


@pytest.mark.parametrize("kind", FORMATS)
def test_the_program_judges_without_torch(detector: Detector, images: Path, kind: Format, tmp_path: Path) -> None:
    """An edge device would give other verdicts than the plant, or need all of PyTorch."""
    comparison = export_detector(detector, listed(images), tmp_path / "out", kind)
    assert (comparison.images, comparison.passed_over) == (34, 2)
    files = [path for path in listed(images) if path.name != "small.png"]
    environment = alone(tmp_path / "site", {"onnx": "onnxruntime", "openvino": "openvino"}[kind])
    for missing in ("torch", "ganomaly"):
        with pytest.raises(subprocess.CalledProcessError):
            subprocess.run([sys.executable, "-S", "-c", f"import {missing}"], env=environment, cwd=tmp_path, check=True)
    good = cv2.imread(str(images / "good00.png"))
    cv2.imwrite(str(tmp_path / "deep.png"), good.astype(np.uint16) * 257)
    whole = cv2.imencode(".jpg", good)[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    others = [images / "small.png", tmp_path / "deep.png", tmp_path / "cut.jpg"]
    command = [sys.executable, "-S", str(tmp_path / "out" / "judge.py"), *map(str, [*files, *others])]
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = [line for line in ran.stdout.splitlines() if not re.search(r"(broken|small|deep|cut)\.", line)]
    assert "broken.png: unusable (unreadable)" in ran.stdout
    assert "small.png: unusable (80 x 48 px up to 255; exported for 160 x 96 px up to 255)" in ran.stdout
    assert "deep.png: unusable (160 x 96 px up to 65535; exported for" in ran.stdout
    assert re.search(r"cut\.jpg: unusable \((truncated|unreadable)\)", ran.stdout)  # as OpenCV takes it
    wanted = [path for path in files if path.name != "broken.png"]
    verdicts = set()
    for line, path, score in zip(lines, wanted, detector.score(wanted), strict=True):
        name, verdict, normalised = said(line)
        assert name == path.name
        assert verdict == (f"unusable ({score.reason})" if score.verdict == "unusable" else score.verdict), name
        if score.normalised is not None:
            assert normalised == pytest.approx(score.normalised, abs=TOLERANCE)
        verdicts.add(verdict)
    assert verdicts == {"ok", "flagged", "unusable (underexposed)", "unusable (blank)"}


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("kind", FORMATS)
def test_the_example_in_cpp_judges_alike(detector: Detector, images: Path, kind: Format, tmp_path: Path) -> None:
    """Whoever has no Python at the camera would find an example that does not compile, or judges otherwise."""
    openvino = Path(str(metadata.distribution("openvino").locate_file("openvino")))
    export_detector(detector, listed(images), tmp_path / "out", kind)
    source, program = tmp_path / "out" / "judge.cpp", tmp_path / "judge"
    library = next((openvino / "libs").glob("libopenvino.so.*"))
    command = ["g++", "-std=c++17", source, "-o", program, "-I", openvino / "include", library]
    subprocess.run([*command, f"-Wl,-rpath,{openvino / 'libs'}"], check=True)
    pictures = []
    for path in listed(images)[:-2]:
        if path.name not in ("broken.png", "small.png"):
            pictures.append(tmp_path / f"{path.stem}.ppm")
            cv2.imwrite(str(pictures[-1]), cv2.imread(str(path)))
    (tmp_path / "cut.ppm").write_bytes(pictures[0].read_bytes()[:1000])
    model = next(path for path in (tmp_path / "out").iterdir() if path.name in ("model.onnx", "model.xml"))
    ran = subprocess.run([program, model, *pictures, tmp_path / "cut.ppm"], capture_output=True, text=True, check=True)
    *lines, cut = ran.stdout.splitlines()
    assert cut.endswith("cut.ppm: unusable (ends before its last pixel)")
    for line, path, score in zip(lines, pictures, detector.score(pictures_as_arrays(pictures)), strict=True):
        name, verdict, normalised = said(line)
        assert name == path.name
        assert verdict == (f"unusable ({score.reason})" if score.verdict == "unusable" else score.verdict), name
        if score.normalised is not None:
            assert normalised == pytest.approx(score.normalised, abs=TOLERANCE)


def pictures_as_arrays(paths: list[Path]) -> list[np.ndarray]:
    """Pixels of PPM files, which the product does not read."""
    return [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]


def test_what_lies_in_the_folder(detector: Detector, images: Path, tmp_path: Path) -> None:
    """Nobody could tell which model judges at the camera, what it promises, or read its heat map."""
    export_detector(detector, listed(images), tmp_path / "out")
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert about["input"] == {
        "name": "pixels",
        "shape": [96, 160, 3],
        "type": "float32",
        "colours": "RGB",
        "white": 255,
    }
    assert about["calibration_id"] == detector.calibration.id
    assert about["compared"]["images"] == 34
    assert about["compared"]["largest"] < 1e-3
    bad = images / "bad00.png"
    pixels = cv2.imread(str(bad))[:, :, ::-1]
    heat = package.runtime_of(tmp_path / "out")(np.ascontiguousarray(pixels, np.float32))[4]
    wanted = detector.heat_maps(detector.stack(list(detector.prepare_all([bad])), np.ones(1, bool)))[0]
    np.testing.assert_allclose(heat, wanted, atol=0.01)


def test_an_export_that_judges_otherwise_is_not_written(
    detector: Detector, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mismatched export would judge at the camera, and nobody would know."""
    other = Detector.fit(draw(60, seed=9), config=CONFIG, device="cpu")
    graph = package.DetectorGraph
    monkeypatch.setattr(package, "DetectorGraph", lambda _, *size: graph(other, *size))  # as a broken exporter would
    with pytest.raises(ExportError, match="judges otherwise"):
        export_detector(detector, listed(images), tmp_path / "out")
    assert listed(tmp_path) == []


def test_nothing_is_exported_that_was_not_compared(detector: Detector, tmp_path: Path) -> None:
    """Dark images would prove that the export judges as the detector does."""
    paths = [tmp_path / f"dark{number}.png" for number in range(25)]
    for path, image in zip(paths, draw(25, seed=4), strict=True):
        cv2.imwrite(str(path), image // 8)
    with pytest.raises(ExportError, match=r"only 0 of 25 images are usable, at least 20 are needed"):
        export_detector(detector, paths, tmp_path / "out")


def test_what_is_no_number_is_flagged(detector: Detector) -> None:
    """A part whose score is no number would pass for good."""

    class Broken(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.tensor(float("nan")), torch.zeros(6, 10)

    graph = package.DetectorGraph(detector, 96, 160, 255)
    graph.judge = Broken()
    assert int(graph(torch.from_numpy(draw(1, seed=4)[0].astype(np.float32)))[0]) == 1


def test_what_cannot_be_exported_says_so(detector: Detector, images: Path, tmp_path: Path) -> None:
    """An export would be wrong in silence, or an error would not say what to do."""
    with pytest.raises(ExportError, match=r"exists; name a folder"):
        export_detector(detector, listed(images), images)
    with pytest.raises(ExportError, match=r"too few images .* 1 of 160 x 96 px"):
        export_detector(detector, [images / "good00.png"], tmp_path / "out")
    with pytest.raises(ExportError, match="none of 1 images can be decoded"):
        export_detector(detector, [images / "broken.png"], tmp_path / "out")
    reference = draw(12, seed=3)
    aligned = fit_recipe(detector.config.recipe.model_copy(update={"align": "rigid", "reference": None}), reference)
    turned = Detector(detector.config.model_copy(update={"recipe": aligned}), device="cpu")
    with pytest.raises(ConfigError, match=r'align = "none"'):
        export_detector(turned, listed(images), tmp_path / "out")
    pixels = Detector(DetectorConfig(input="pixels"), device="cpu")
    with pytest.raises(ConfigError, match=r'input = "features"'):
        export_detector(pixels, listed(images), tmp_path / "out")


def test_the_command_says_what_was_compared(detector: Detector, images: Path, tmp_path: Path) -> None:
    """A user would have to trust the export."""
    detector.save(tmp_path / "model")
    words = ["export", str(tmp_path / "model"), "--images", str(images), "-o", str(tmp_path / "out")]
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 0, ran.output
    assert "34 images judged by both, 32 of them usable (2 passed over" in ran.output
    assert "0 verdicts change" in ran.output
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 1
    assert "exists" in again.output


def test_an_export_looks_where_its_detector_looks(images: Path, tmp_path: Path) -> None:
    """The edge device would judge what the plant ignores."""
    settings = CONFIG.model_dump() | CHECKED
    settings["recipe"] |= {"ignore": (((0.0, 0.0), (70.0, 0.0), (70.0, 40.0), (0.0, 40.0)),)}
    detector = Detector.fit(draw(24, seed=1), config=DetectorConfig.model_validate(settings), device="cpu")
    comparison = export_detector(detector, listed(images), tmp_path / "out")
    assert comparison.largest < 0.002
    run = package.runtime_of(tmp_path / "out")
    pixels = draw(1, seed=6, defect=True)[0].astype(np.float32)
    disturbed = pixels.copy()
    disturbed[:41, :71] = 20
    for whole, other in zip(run(pixels), run(disturbed), strict=True):
        np.testing.assert_array_equal(whole, other)
