"""Configuration files: every mistake is refused with file, key, value and what is allowed."""

from pathlib import Path

import pytest

from ganomaly import ConfigError, DetectorConfig, load_config
from ganomaly.images.recipe import Recipe
from ganomaly.networks.training import TrainingConfig
from ganomaly.scoring.calibration import CalibrationConfig


def message(path: Path, content: str) -> str:
    """The error for a file of this content."""
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return str(caught.value)


def test_settings_arrive_and_the_rest_are_defaults(tmp_path: Path) -> None:
    """A setting in the file would be ignored, or its absence be an error."""
    path = tmp_path / "detector.toml"
    path.write_text("[recipe]\nroi = [1, 2, 30, 40]\n[training]\nseed = 7\n[calibration]\nfalse_reject_rate = 0.01\n")
    config = load_config(path)
    assert config.recipe.roi == (1, 2, 30, 40)
    assert config.training.seed == 7
    assert config.calibration.false_reject_rate == 0.01
    assert config.network == DetectorConfig().network
    path.write_text("")
    assert load_config(str(path)) == DetectorConfig()


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("[recipe]\nsize = 64\n", ["recipe.size: there is no such key; allowed here: align, bits, camera_px, "]),
        ("[trainig]\n", ["trainig: there is no such key; allowed here: calibration, features, input, "]),
        ("[training]\nepochs = 'many'\n", ["training.epochs = 'many'", "integer"]),
        ("[training]\nepochs = 0\n", ["training.epochs = 0", "greater than or equal to 1"]),
        ("[training]\nlearning_rate = nan\n", ["training.learning_rate = nan", "less than or equal to 1"]),
        ("[training]\nweight_encoder = nan\n", ["training.weight_encoder = nan", "greater than or equal to 0"]),
        ("[recipe]\nsize_px = 40\n", ["recipe.size_px = 40", "multiple of 16"]),
        ("[recipe]\nsize_px = 16\n", ["recipe.size_px = 16", "greater than or equal to 32"]),
        ("[recipe]\nroi = [0, 0, 0, 5]\n", ["recipe.roi = ", "width and height at least 1"]),
        ("[score]\nmethod = 'best'\n", ["score.method = 'best'", "'global' or 'paper'"]),
        ("[features]\nstrides = [2]\n", ["features.strides = ", "the coarsest must be at least 4"]),
        ("[calibration]\nfalse_reject_rate = 1\n", ["calibration.false_reject_rate = 1", "less than 1"]),
        (
            "[calibration]\ncalibrate_fraction = 0.95\n",
            ["calibrate_fraction + statistics_fraction = 1.05", "less than 1"],
        ),
        ("recipe = 3\n", ["recipe = 3"]),
    ],
)
def test_mistakes_name_file_key_value_and_allowed(tmp_path: Path, content: str, wanted: list[str]) -> None:
    """A mistyped setting would be ignored, and the detector be trained with another value than people think."""
    path = tmp_path / "detector.toml"
    found = message(path, content)
    assert found.startswith(f"{path}: ")
    assert "\n" not in found
    assert [text for text in wanted if text not in found] == []


def test_each_mistake_has_its_line(tmp_path: Path) -> None:
    """The user would find the second mistake only after mending the first."""
    found = message(tmp_path / "detector.toml", "[recipe]\nsize = 64\n[training]\nepochs = 0\nseed = -1\n")
    assert len(found.splitlines()) == 3


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    """A wrong file name would end in a traceback."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read"):
        load_config(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    assert "is not valid TOML" in message(tmp_path / "bad.toml", "[recipe\n")
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"bad\.toml: is not UTF-8 .*: save it as UTF-8"):
        load_config(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "features"),
        ("[training]\nepochs = 2\n", "features"),
        ("[recipe]\nroi = [0, 0, 64, 64]\n", "features"),
        ("[recipe]\nsize_px = 64\n", "pixels"),
        ("[recipe]\nillumination = 'local_contrast'\nwindow = 1.0\n", "features"),
        ("[network]\nfeatures = 8\n", "pixels"),
        ("input = 'pixels'\n", "pixels"),
    ],
)
def test_the_input_is_what_a_file_speaks_of(content: str, expected: str, tmp_path: Path) -> None:
    """Settings of pixels would be ignored in silence, or a new line not get the better input."""
    (tmp_path / "line.toml").write_text(content)
    config = load_config(tmp_path / "line.toml")
    assert config.input == expected
    assert config.calibration.cross_fit == ("auto" if expected == "features" else "never")
    assert DetectorConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("input = 'features'\n[network]\nfeatures = 8\n", 'input = "features" has no use for [network]'),
        ("input = 'features'\n[network]\nfeatures = 8\n[score]\nmethod = 'paper'\n", "no use for [network], [score]"),
        ("input = 'features'\n[recipe]\nresize = false\n", "no use for recipe.resize"),
        ("[recipe]\nchannels = 1\n", 'input = "features" has no use for recipe.channels = 1'),
        ("[recipe]\nwindow = 1.0\n", "no use for recipe.window"),
        ("input = 'pixels'\n[features]\nstrides = [8]\n", 'input = "pixels" has no use for [features]'),
        ("input = 'pixels'\n[calibration]\ncross_fit = 'auto'\n", 'no use for calibration.cross_fit = "auto"'),
        ("input = 'features'\n[recipe]\ninput_px = [0, 7]\n", "multiples of 32 from 64 up"),
    ],
)
def test_settings_that_the_input_would_ignore_are_refused(content: str, wanted: str, tmp_path: Path) -> None:
    """An option would do nothing, and nobody be told."""
    (tmp_path / "line.toml").write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "line.toml")
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_given_as_objects_keep_the_defaults_of_features() -> None:
    """A notebook that sets one number would lose all others."""
    config = DetectorConfig(training=TrainingConfig(seed=3), calibration=CalibrationConfig(false_reject_rate=0.1))
    assert config.input == "features"
    assert (config.training.seed, config.training.epochs, config.training.learning_rate) == (3, 10, 2e-3)
    assert (config.calibration.false_reject_rate, config.calibration.cross_fit) == (0.1, "auto")
    assert DetectorConfig(recipe=Recipe(roi=(0, 0, 64, 64))).recipe.keep_aspect


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    """A file from Windows' editor would be "invalid at line 1, column 1"."""
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbf[training]\nepochs = 3\n")
    assert load_config(tmp_path / "bom.toml").training.epochs == 3
