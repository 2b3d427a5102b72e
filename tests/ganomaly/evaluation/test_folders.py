"""`ganomaly benchmark FOLDER`: every figure comes from images that taught nothing, and is what it is called."""

import csv
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from ganomaly import DetectorConfig, TrainingDataError
from ganomaly.cli import app
from ganomaly.evaluation.folders import DETECTOR, _baselines, few, holds, read_folder, run_set
from ganomaly.evaluation.metrics import aupimo
from ganomaly.images.preparation import read_image
from tests.ganomaly.parts_in_colour import CONFIG, HEIGHT, SCRATCH, WIDTH, draw

INSPECTION = Path(os.environ.get("GANOMALY_DATA", Path(__file__).parents[4] / "shared" / "data")) / "inspection"
TOML = """
input = "features"
[recipe]
resolution = 160
align = "none"
[quality]
min_sharpness = 0.0
[training]
epochs = 1
[calibration]
false_reject_rate = 0.1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of MVTec AD: 24 good parts to learn from, 12 good and 12 scratched ones to judge."""
    root = tmp_path_factory.mktemp("sets") / "rings"
    for where, images in {
        "train/good": draw(24, seed=1),
        "test/good": draw(12, seed=2),
        "test/scratch": draw(12, seed=3, defect=True),
    }.items():
        (root / where).mkdir(parents=True)
        for number, image in enumerate(images):
            cv2.imwrite(str(root / where / f"{number:03}.png"), image[..., ::-1])
    mask = cv2.line(np.zeros((HEIGHT, WIDTH), np.uint8), *SCRATCH, 255, 3)
    (root / "ground_truth" / "scratch").mkdir(parents=True)
    for number in range(12):
        cv2.imwrite(str(root / "ground_truth" / "scratch" / f"{number:03}_mask.png"), mask)
    return root


def test_a_set_is_measured_with_everything_beside_it(folder: Path) -> None:
    """A claim would stand without the baselines, or a figure belong to another method."""
    rows = {row.method: row for row in run_set(read_folder(folder), CONFIG, 0, device="cpu")}
    assert list(rows) == [
        DETECTOR, "places", "patches", "drawn", "grain", "nearest_image", "patch_gaussian", "pixel_gaussian",
    ]  # fmt: skip
    own = rows[DETECTOR]
    assert own.auroc > 0.97
    assert own.aupro is not None
    assert own.aupro > 0.8
    assert own.aupimo is not None
    assert 0 <= own.aupimo <= 1
    assert (own.train_images, own.unusable_good, own.unusable_defective) == (24, 0, 0)
    assert own.promised == 0.1
    assert own.guaranteed is not None
    assert own.guaranteed > 0.1
    assert own.held
    assert own.escapes is not None
    assert own.escapes < 0.3
    assert rows["nearest_image"].aupro is None


def test_baselines_see_what_a_camera_fills_of_16_bits(folder: Path) -> None:
    """All images would be too dark to judge, and the table have nothing to compare with."""
    data = read_folder(folder)
    train, test = ([read_image(path).astype(np.uint16) << 4 for path in paths] for paths in (data.train, data.test))
    data = replace(data, train=train, test=test)
    rows = list(_baselines(data, CONFIG.quality, 0))
    assert len(rows) == 3
    assert all(np.isfinite(row.auroc) for row in rows)


def test_the_command_writes_tables_that_name_command_and_seeds(folder: Path, tmp_path: Path) -> None:
    """Nobody could repeat a table, or read it in another program."""
    (tmp_path / "config.toml").write_text(TOML)
    arguments = [
        "benchmark",
        str(folder),
        "--seeds",
        "0,1",
        "--images",
        "20",
        "--config",
        str(tmp_path / "config.toml"),
    ]
    done = CliRunner().invoke(app, [*arguments, "--device", "cpu", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "out" / "folders.md").read_text()
    assert "Means over the seeds 0, 1." in text
    assert "| rings | 20 | " in text
    assert text in done.output
    with (tmp_path / "out" / "folders.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 8
    assert {row["seed"] for row in rows} == {"0", "1"}


def test_another_layout_is_told(tmp_path: Path) -> None:
    """A folder of mixed images would be trained on, defects and all."""
    (tmp_path / "train").mkdir()
    with pytest.raises(TrainingDataError, match="0 images in train/good, 0 in test/good, 0 in other folders"):
        read_folder(tmp_path)
    done = CliRunner().invoke(app, ["benchmark", str(tmp_path), "-o", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "Traceback" not in done.output


def test_few_images_are_drawn_by_the_seed(folder: Path) -> None:
    """Every seed would learn from the same few images."""
    data = read_folder(folder)
    assert few(data, 10, 0).train == few(data, 10, 0).train
    assert few(data, 10, 0).train != few(data, 10, 1).train
    assert len(few(data, 10, 0).names) == 10


def test_a_promise_is_held_unless_chance_cannot_explain_it() -> None:
    """A table would say held where it was not."""
    assert holds(5, 100, 0.05)
    assert holds(0, 100, 0.05)
    assert holds(9, 100, 0.05)
    assert not holds(20, 100, 0.05)


def test_aupimo_of_known_maps() -> None:
    """A map that is hot on good parts would be taken for a good one."""
    rng = np.random.default_rng(0)
    masks = np.zeros((6, 200, 200), bool)
    masks[:3, 50:60, 50:60] = True
    maps = rng.random((6, 200, 200))
    blind = aupimo(masks, maps)
    assert blind < 0.05
    maps[masks] += 2
    assert aupimo(masks, maps) == 1
    half = maps.copy()
    half[:3, 50:55, 50:60] = 0
    assert aupimo(masks, half) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="needs both"):
        aupimo(masks[:3], maps[:3])


@pytest.mark.skipif(not INSPECTION.is_dir(), reason=f"no inspection images in {INSPECTION}")
@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(("name", "auroc", "overlap"), [("plates", 0.98, 0.85), ("transistor", 0.98, 0.85)])
def test_defects_of_parts_that_nobody_tuned_to_are_found(name: str, auroc: float, overlap: float) -> None:
    """The detector would miss at its defaults what the eye sees at once."""
    data = read_folder(INSPECTION / name)
    own = next(iter(run_set(data, DetectorConfig(input="features"), 0, device="cpu", baselines=False)))
    assert own.auroc > auroc
    assert own.aupro is not None
    assert own.aupro > overlap
    assert own.held
