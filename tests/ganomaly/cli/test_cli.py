"""The command `ganomaly`: fit, info and score on a plain folder, and one line for each thing that can go wrong."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from ganomaly import Detector
from ganomaly.cli import app
from ganomaly.saving import FORMAT_VERSION
from tests.ganomaly.photos import draw_textures, session

DrawParts = Callable[..., list[np.ndarray]]

CONFIG = """
[recipe]
size_px = 32
[network]
features = 8
latent_size = 16
[training]
epochs = 9
batch_size = 16
learning_rate = 1e-3
[calibration]
false_reject_rate = 0.1
"""


def ganomaly(*arguments: str | Path) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fails_with_one_line(result: Result) -> str:
    """The error of a command that failed as it should: exit code 1, one line, no traceback."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert result.stderr.rstrip().endswith(lines[0])
    assert "Traceback" not in result.stderr
    return lines[0]


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a table that `ganomaly score` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, draw_parts: DrawParts) -> tuple[Path, Result]:
    """A folder with `good/` (nested, with some files that are no good), `config.toml` and the detector of one fit."""
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "config.toml").write_text(CONFIG)
    for i, image in enumerate(draw_parts(150, seed=1)):
        path = folder / "good" / f"shift-{i % 2}" / f"part-{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
    for i in range(6):
        (folder / "good" / f"broken-{i}.png").write_bytes(b"")
    (folder / "good" / "notes.txt").write_text("not an image")
    arguments = ("fit", folder / "good", "-o", folder / "model", "--config", folder / "config.toml")
    return folder, ganomaly(*arguments, "--epochs", "8", "--seed", "3", "--device", "cpu")


@pytest.fixture
def model(workshop: tuple[Path, Result]) -> Path:
    """Folder of the fitted detector."""
    return workshop[0] / "model"


@pytest.fixture
def night(tmp_path: Path, draw_parts: DrawParts) -> Path:
    """A folder to score: good and bad parts, nested, a truncated file, odd names, a text file and hidden files."""
    folder = tmp_path / "night"
    good, bad = draw_parts(4, seed=5), draw_parts(3, seed=6, defect=True)
    names = ["a.png", "B.JPG", "deep/er/c.tiff", "=2+2.png", "bad.bmp", "deep/bad.png", "@bad.png"]
    for name, image in zip(names, [*good, *bad], strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), image)
    whole = (folder / "a.png").read_bytes()
    (folder / "deep" / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("not an image")
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "a.png").write_bytes(whole)
    (folder / "deep" / "._c.tiff").write_bytes(b"left by a Mac")
    return folder


def test_help_does_not_wait_for_torch() -> None:
    """`ganomaly --help` would take seconds."""
    code = "import sys, ganomaly.cli; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_fit_accounts_for_every_image(workshop: tuple[Path, Result]) -> None:
    """The user would not learn which images were left out and why, or what the detector promises."""
    folder, result = workshop
    assert result.exit_code == 0, result.output
    assert f"{folder}/good: 156 images; 1 other files ignored (1 .txt)" in result.stdout
    assert (
        "150 images of 150 parts: 106 to train, 15 to fit, 29 to calibrate; 6 left out as unusable (6 empty):"
        in result.stdout
    )
    assert "broken-4.png: empty: " in result.stdout
    assert "broken-5.png" not in result.stdout
    assert "and 1 more" in result.stdout
    assert "at most 10.00% are expected to be flagged" in result.stdout
    assert f"saved to {folder}/model" in result.stdout
    assert "training" in result.stderr
    assert (
        "learns from pixels, which see much less than features, because only pixels have [network], recipe.size_px"
        in (result.stderr)
    )
    detector = Detector.load(folder / "model", device="cpu")
    assert (detector.config.training.epochs, detector.config.training.seed) == (8, 3)
    assert detector.config.network.features == 8
    assert len(detector.snapshot_id) == 16


def test_fit_counts_parts_and_warns(tmp_path: Path) -> None:
    """Photos of a few parts would train and calibrate as if they were many, and nobody be told."""
    photos, parts = session(draw_textures(60, seed=1), 3, seed=2)
    for i, (photo, part) in enumerate(zip(photos, parts.tolist(), strict=True)):
        (tmp_path / "good").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "good" / f"part{part:02}_{i % 3}.png"), photo)
    (tmp_path / "config.toml").write_text(f"{CONFIG}[quality]\nmin_sharpness = 0.0\n")
    fixed = ("fit", tmp_path / "good", "--config", tmp_path / "config.toml", "--epochs", "1", "--device", "cpu")
    result = ganomaly(*fixed, "-o", tmp_path / "by-likeness")
    assert result.exit_code == 0, result.output
    found = re.search(r"180 images of (\d+) parts \(near-duplicates count as one\): ", result.stdout)
    assert found is not None
    assert 55 <= int(found[1]) <= 70
    assert "warning: most images are photos of a few parts" in result.stderr
    result = ganomaly(*fixed, "-o", tmp_path / "by-name", "--part-pattern", r"(part\d+)_\d\.png$")
    assert result.exit_code == 0, result.output
    assert "180 images of 60 parts: 135 to train, 18 to fit, 9 to calibrate, 18 more of parts that" in result.stdout
    assert "warning" not in result.stderr
    assert Detector.load(tmp_path / "by-name", device="cpu").calibration.n_images == 9
    error = fails_with_one_line(ganomaly(*fixed, "-o", tmp_path / "typo", "--part-pattern", r"(piece\d+)_"))
    assert r"'(piece\\d+)_': finds no part id in 180 of 180 names, for example 'part00_0.png'" in error
    few = CONFIG.replace("0.1", "0.05")
    (tmp_path / "config.toml").write_text(few)
    assert "too few parts to calibrate: 1" in fails_with_one_line(ganomaly(*fixed, "-o", tmp_path / "few"))


def test_a_benchmarks_folder_is_learned_from_its_good_images_alone(tmp_path: Path, draw_parts: DrawParts) -> None:
    """Defective images would be trained on as good ones, and the detector miss exactly them."""
    for name, images in {
        "train/good": draw_parts(60, seed=1),
        "test/crack": draw_parts(5, seed=2, defect=True),
    }.items():
        (tmp_path / "set" / name).mkdir(parents=True)
        for i, image in enumerate(images):
            cv2.imwrite(str(tmp_path / "set" / name / f"{i}.png"), image)
    (tmp_path / "config.toml").write_text(CONFIG.replace("epochs = 9", "epochs = 1"))
    arguments = ("fit", tmp_path / "set", "--config", tmp_path / "config.toml", "--device", "cpu")
    result = ganomaly(*arguments, "-o", tmp_path / "model")
    assert result.exit_code == 0, result.output
    assert "set has train/good: learns from that alone" in result.stderr
    assert "set/train/good: 60 images\n" in result.stdout


def test_a_mask_says_where_the_detector_looks(tmp_path: Path, draw_parts: DrawParts) -> None:
    """The option would do nothing, or a file that is no image end in a traceback."""
    (tmp_path / "good").mkdir()
    for i, image in enumerate(draw_parts(60, seed=1)):
        cv2.imwrite(str(tmp_path / "good" / f"{i}.png"), image)
    mask = np.full(image.shape[:2], 255, np.uint8)
    mask[:, :8] = 0
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    (tmp_path / "config.toml").write_text(CONFIG.replace("epochs = 9", "epochs = 1"))
    fit = ("fit", tmp_path / "good", "--config", tmp_path / "config.toml", "--device", "cpu", "-o", tmp_path / "model")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    assert "broken.png: is no image that can mask" in fails_with_one_line(
        ganomaly(*fit, "--mask", tmp_path / "broken.png")
    )
    assert "nowhere.png" in fails_with_one_line(ganomaly(*fit, "--mask", tmp_path / "nowhere.png"))
    result = ganomaly(*fit, "--mask", tmp_path / "mask.png")
    assert result.exit_code == 0, result.output
    assert "the whole image without a mask" in result.stdout
    recipe = Detector.load(tmp_path / "model", device="cpu").config.recipe
    assert (recipe.ignored(mask.shape) == (mask == 0)).all()


def test_info_says_what_the_detector_is(model: Path) -> None:
    """Nobody could tell two detectors in two folders apart."""
    detector = Detector.load(model, device="cpu")
    result = ganomaly("info", model)
    assert result.exit_code == 0
    wanted = (
        detector.calibration.promise,
        detector.config.recipe.summary,
        detector.calibration.id,
        detector.snapshot_id,
        "latent_size 16",
        "epochs 8",
    )
    assert [text for text in wanted if text not in result.stdout] == []
    facts = json.loads(ganomaly("info", model, "--json").stdout)
    assert facts["calibration"] == {
        "images": 29,
        "false_reject_rate": 0.1,
        "guaranteed_rate": 0.1,
        "sure_rate": None,
        "sure_guaranteed_rate": None,
        "confidence": None,
        "limit": detector.calibration.limit,
        "id": detector.calibration.id,
    }
    assert facts["format_version"] == FORMAT_VERSION
    assert facts["looks"] == "pixels of 32 px by GANomaly, score fused"
    assert f"looks: {facts['looks']}" in result.stdout
    assert set(facts["versions"]) == {"torch", "numpy"}
    assert facts["size_bytes"] == sum(path.stat().st_size for path in model.iterdir())


def test_score_writes_one_row_per_image(model: Path, night: Path, tmp_path: Path) -> None:
    """An image would be missing, judged twice, or its numbers differ from the library's."""
    result = ganomaly("score", model, night, "-o", tmp_path / "out" / "scores.csv", "--device", "cpu")
    assert result.exit_code == 0, result.output
    rows = read_table(tmp_path / "out" / "scores.csv")
    assert list(rows[0]) == ["path", "raw_score", "normalised_score", "p_value", "verdict", "reason", "sure"]
    names = [
        "=2+2.png",
        "@bad.png",
        "B.JPG",
        "a.png",
        "bad.bmp",
        "deep/bad.png",
        "deep/er/c.tiff",
        "deep/truncated.png",
    ]
    assert [row["path"].removeprefix("'") for row in rows] == names
    expected = Detector.load(model, device="cpu").score([night / name for name in names])
    for row, score in zip(rows, expected, strict=True):
        assert (row["verdict"], row["reason"]) == (score.verdict, score.reason or "")
        for column, value in (("raw_score", score.raw), ("normalised_score", score.normalised)):
            assert row[column] == "" if value is None else float(row[column]) == pytest.approx(value, rel=1e-6)
        assert row["p_value"] == ("" if score.p_value is None else repr(score.p_value))
    assert rows[-1]["reason"] == "truncated"
    verdicts = [row["verdict"] for row in rows]
    counts = (
        f"{verdicts.count('ok')} ok, {verdicts.count('flagged')} flagged, 1 unusable; 1 other files ignored (1 .txt)"
    )
    assert f"8 images: {counts}" in result.stdout
    assert "expected to be flagged" in result.stdout
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scores.csv"]


def test_names_that_look_like_formulas_are_text(model: Path, night: Path, tmp_path: Path) -> None:
    """A file name could run a formula in the spreadsheet of whoever opens the table."""
    ganomaly("score", model, night, "-o", tmp_path / "scores.csv", "--device", "cpu")
    paths = [row["path"] for row in read_table(tmp_path / "scores.csv")]
    assert "'=2+2.png" in paths
    assert "'@bad.png" in paths
    assert "a.png" in paths


def test_overlays_are_of_flagged_images_only(model: Path, night: Path, tmp_path: Path) -> None:
    """A flagged part would have no picture, or an old picture would accuse a part that is good."""
    overlays = tmp_path / "overlays"
    (overlays / "deep" / "er").mkdir(parents=True)
    (overlays / "deep" / "er" / "c.tiff.png").write_bytes(b"from an earlier run")
    arguments = ("score", model, night, "-o", tmp_path / "scores.csv", "--overlays", overlays, "--device", "cpu")
    assert ganomaly(*arguments).exit_code == 0
    rows = read_table(tmp_path / "scores.csv")
    flagged = {row["path"].removeprefix("'") + ".png" for row in rows if row["verdict"] == "flagged"}
    assert {"bad.bmp.png", "deep/bad.png.png", "@bad.png.png"} <= flagged
    assert {path.relative_to(overlays).as_posix() for path in overlays.rglob("*.png")} == flagged
    drawn = cv2.imread(str(overlays / "bad.bmp.png"))
    assert drawn.shape == (48, 48, 3)
    assert (drawn != cv2.imread(str(night / "bad.bmp"))).any()


def test_score_takes_one_image(model: Path, night: Path, tmp_path: Path) -> None:
    """Trying one image would need a folder made for it."""
    assert ganomaly("score", model, night / "deep" / "bad.png", "-o", tmp_path / "one.csv").exit_code == 0
    assert [row["path"] for row in read_table(tmp_path / "one.csv")] == ["bad.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
def test_names_that_are_not_unicode_are_scored(model: Path, night: Path, tmp_path: Path) -> None:
    """One file from an old camera with a Latin-1 name would stop the run."""
    (night / "a.png").rename(os.fsdecode(os.fsencode(night) + b"/caf\xe9.png"))
    result = ganomaly("score", model, night, "-o", tmp_path / "scores.csv", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "caf\\udce9.png" in [row["path"] for row in read_table(tmp_path / "scores.csv")]


def test_interrupted_scoring_leaves_the_old_table(
    model: Path, night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a table would pass for a whole one."""
    (tmp_path / "scores.csv").write_text("old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Detector, "score", interrupt)
    assert ganomaly("score", model, night, "-o", tmp_path / "scores.csv").exit_code != 0
    assert (tmp_path / "scores.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["night", "scores.csv"]


def test_fit_does_not_overwrite(workshop: tuple[Path, Result], tmp_path: Path) -> None:
    """A detector in use, or somebody's folder, would be overwritten by a mistyped name."""
    folder, _ = workshop
    arguments = ("fit", folder / "good", "--config", folder / "config.toml", "--epochs", "1", "--device", "cpu", "-o")
    before = (folder / "model" / "weights.safetensors").read_bytes()
    assert "--overwrite to replace it" in fails_with_one_line(ganomaly(*arguments, folder / "model"))
    assert (folder / "model" / "weights.safetensors").read_bytes() == before
    error = fails_with_one_line(ganomaly(*arguments, folder / "good", "--overwrite"))
    assert f"{folder}/good: is not empty and holds no detector" in error
    assert "is a file" in fails_with_one_line(ganomaly(*arguments, folder / "config.toml"))
    for _ in range(2):
        assert ganomaly(*arguments, tmp_path / "new", "--overwrite").exit_code == 0


def test_errors_of_fit_are_one_line(workshop: tuple[Path, Result], tmp_path: Path) -> None:
    """The user would get a traceback instead of what is wrong and the way out."""
    folder, _ = workshop
    output = ("-o", tmp_path / "model", "--device", "cpu")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    (tmp_path / "bad.toml").write_text("[training]\nepochs = 0\n")
    assert "no such folder" in fails_with_one_line(ganomaly("fit", tmp_path / "nowhere", *output))
    assert "no images found; 1 other files ignored (1 .txt); images are" in fails_with_one_line(
        ganomaly("fit", tmp_path / "empty", *output)
    )
    error = fails_with_one_line(ganomaly("fit", folder / "good", "--recipe", tmp_path / "bad.toml", *output))
    assert "bad.toml: training.epochs = 0: " in error
    (tmp_path / "strict.toml").write_text(CONFIG.replace("0.1", "0.01"))
    error = fails_with_one_line(ganomaly("fit", folder / "good", "--config", tmp_path / "strict.toml", *output))
    assert "30 of 150 parts (150 usable images, 6 more are unusable: 6 empty)" in error
    assert "at least 99" in error
    assert "cdua" in fails_with_one_line(ganomaly("fit", folder / "good", *output, "--device", "cdua"))
    assert not (tmp_path / "model").exists()


def test_errors_of_score_and_info_are_one_line(model: Path, night: Path, tmp_path: Path) -> None:
    """The user would get a traceback instead of what is wrong and the way out."""
    output = ("-o", tmp_path / "scores.csv")
    assert "detector.json: cannot be read" in fails_with_one_line(ganomaly("info", night))
    assert "detector.json: cannot be read" in fails_with_one_line(ganomaly("score", night, night, *output))
    assert "no such folder" in fails_with_one_line(ganomaly("score", model, tmp_path / "nowhere", *output))
    error = fails_with_one_line(ganomaly("score", model, night, *output, "--device", "cdua"))
    assert error.startswith("error: device = 'cdua'")
    error = fails_with_one_line(ganomaly("score", model, night, *output, "--overlays", night / "overlays"))
    assert "the next run would score the overlays" in error
    assert "no regular file" in fails_with_one_line(ganomaly("score", model, night, "-o", tmp_path))
    assert "named like an image" in fails_with_one_line(ganomaly("score", model, night, "-o", night / "a.png"))
    assert not (tmp_path / "scores.csv").exists()


def test_odd_entries_of_a_folder(model: Path, night: Path, tmp_path: Path) -> None:
    """A named pipe would block the command for ever, a camera's .jfif be left out."""
    os.mkfifo(night / "pipe.png")
    (night / "a.jfif").write_bytes(cv2.imencode(".jpg", cv2.imread(str(night / "a.png")))[1].tobytes())
    result = ganomaly("score", model, night, "-o", tmp_path / "scores.csv", "--device", "cpu")
    assert result.exit_code == 0, result.output
    paths = [row["path"] for row in read_table(tmp_path / "scores.csv")]
    assert "a.jfif" in paths
    assert "pipe.png" not in paths


def test_a_folder_that_cannot_be_written_is_told_before_the_training(workshop: tuple[Path, Result]) -> None:
    """An hour of training would end in an error."""
    folder, _ = workshop
    if not Path("/proc/self").is_dir():
        pytest.skip("needs a folder in which nobody can write")
    result = ganomaly("fit", folder / "good", "--config", folder / "config.toml", "-o", "/proc/model")
    assert "/proc" in fails_with_one_line(result)
    assert "reading images" not in result.stderr


def test_a_full_disk_names_the_table(model: Path, night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user would learn that there is no space, but not where."""

    def fill(self: Detector, sources: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Detector, "score", fill)
    error = fails_with_one_line(ganomaly("score", model, night, "-o", tmp_path / "scores.csv"))
    assert f"No space left on device: '{tmp_path}/scores.csv'" in error
