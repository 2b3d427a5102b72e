"""Configuration files: every mistake is refused with file, key, value and what is allowed."""

from pathlib import Path

import pytest

from ganomaly import ConfigError, DetectorConfig, load_config
from ganomaly.networks.build import ModelConfig


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
        ("[recipe]\nsize = 64\n", ["recipe.size: there is no such key; allowed here: align, channels, clip, "]),
        ("[trainig]\n", ["trainig: there is no such key; allowed here: calibration, features, input, "]),
        ("[training]\nepochs = 'many'\n", ["training.epochs = 'many'", "integer"]),
        ("[training]\nepochs = 0\n", ["training.epochs = 0", "greater than or equal to 1"]),
        ("[training]\nlearning_rate = nan\n", ["training.learning_rate = nan", "less than or equal to 1"]),
        ("[training]\nweight_encoder = nan\n", ["training.weight_encoder = nan", "greater than or equal to 0"]),
        ("[recipe]\nsize_px = 40\n", ["recipe.size_px = 40", "multiple of 16"]),
        ("[recipe]\nsize_px = 16\n", ["recipe.size_px = 16", "greater than or equal to 32"]),
        ("[recipe]\nroi = [0, 0, 0, 5]\n", ["recipe.roi = ", "width and height at least 1"]),
        ("[score]\nmethod = 'best'\n", ["score.method = 'best'", "'gaussian' or 'paper'"]),
        ("[calibration]\nfalse_reject_rate = 1\n", ["calibration.false_reject_rate = 1", "less than 1"]),
        ("[calibration]\ncalibrate_fraction = 0.95\n", ["calibrate_fraction + fit_fraction = 1.05", "less than 1"]),
        ("recipe = 3\n", ["recipe = 3"]),
        ("[model]\nkind = 'vae'\n", ["model.kind = 'vae'", "'ganomaly', 'egbad', 'anogan' or 'aae'"]),
        ("[model]\nsearch_steps = 0\n", ["model.search_steps = 0", "greater than or equal to 1"]),
        ("[model]\nfeature_weight = 2\n", ["model.feature_weight = 2", "less than or equal to 1"]),
        (
            "[model]\nkind = 'aae'\n[score]\nmethod = 'gaussian'\n",
            ["score.method = 'gaussian': a model of kind 'aae' has the score of its paper only", "leave score.method"],
        ),
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
    with pytest.raises(ConfigError, match=r"bad\.toml: is not valid TOML"):
        load_config(tmp_path / "bad.toml")


@pytest.mark.parametrize("kind", ["egbad", "anogan", "aae"])
def test_a_comparator_has_the_score_of_its_paper(tmp_path: Path, kind: str) -> None:
    """A comparator would need a second setting to work at all, or be saved with a score that it does not have."""
    path = tmp_path / "detector.toml"
    path.write_text(f"[model]\nkind = '{kind}'\n")
    config = load_config(path)
    assert config.score.method == "paper"
    assert DetectorConfig.model_validate(config.model_dump()) == config
    assert DetectorConfig(model=ModelConfig(kind=kind)) == config
    assert DetectorConfig().score.method == "fused"
