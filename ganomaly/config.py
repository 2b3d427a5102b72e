"""Everything that defines a detector before it sees an image, in one validated object or TOML file."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ganomaly.errors import ConfigError
from ganomaly.features.backbone import FeaturesConfig, weights_are_installed
from ganomaly.images.preparation import ImageSource, fit_to_line
from ganomaly.images.quality import QualityGate
from ganomaly.images.recipe import Recipe
from ganomaly.networks.layers import NetworkConfig
from ganomaly.networks.training import TrainingConfig
from ganomaly.scoring.calibration import CalibrationConfig
from ganomaly.scoring.pixel_scores import ScoreConfig

FEATURES_DEFAULTS: dict[str, dict[str, Any]] = {
    "recipe": {"keep_aspect": True, "channels": 3, "illumination": "none", "align": "auto"},
    "calibration": {"calibrate_fraction": 0.3, "cross_fit": "auto"},
    "training": {"epochs": 10, "batch_size": 16, "learning_rate": 2e-3},
}
"""Defaults where the input is features, by table; all others are those of the tables themselves."""
ONLY_PIXELS = ("network", "score")
"""Tables that only pixels have ..."""
ONLY_PIXELS_RECIPE = ("size_px",)
"""... and settings of the recipe: a file that states one of them speaks of pixels."""
LOCAL_CONTRAST = ("window", "clip", "noise_level")
"""Settings of the recipe that nothing else has a use for."""


class DetectorConfig(BaseModel):
    """One table of a TOML file for each part of the detector; every setting has a default.

    What is the default depends on the input: see `FEATURES_DEFAULTS`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Literal["features", "pixels"] = Field(
        "pixels",
        description="features: maps of a frozen network that was trained on photographs; pixels: the recipe's image, "
        "as in the paper. Default: features where their weights are installed, pixels where they are not and where a "
        "setting is given that only pixels have: tables network and score, recipe.size_px",
    )
    features: FeaturesConfig = FeaturesConfig()
    recipe: Recipe = Recipe()
    quality: QualityGate = QualityGate()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    score: ScoreConfig = ScoreConfig()
    calibration: CalibrationConfig = CalibrationConfig()

    @model_validator(mode="before")
    @classmethod
    def _choose_input(cls, values: Any) -> Any:
        """Settle the input, and give settings that are not stated the default of that input."""
        if not isinstance(values, dict):
            return values
        chosen = values.get("input") or ("pixels" if why_pixels(values) else "features")
        if chosen != "features":
            return {**values, "input": chosen}
        tables = {table: _with_defaults(values.get(table, {}), usual) for table, usual in FEATURES_DEFAULTS.items()}
        return {**values, **tables, "input": chosen}

    def fitted_to(self, images: Sequence[ImageSource]) -> Self:
        """The configuration with everything decided that it leaves to the line's images, see `fit_to_line`.

        Args:
            images: of good parts.

        Raises:
            TrainingDataError: if parts are to be aligned and there are too few images to learn from.
        """
        recipe, quality = fit_to_line(self.recipe, self.quality, images)
        return self.model_copy(update={"recipe": recipe, "quality": quality})

    @model_validator(mode="after")
    def _check_input(self) -> Self:
        """Refuse settings that the input would ignore."""
        faults = _ignored_by_features(self) if self.input == "features" else _ignored_by_pixels(self)
        if faults:
            other = "pixels" if self.input == "features" else "features"
            raise ValueError(
                f'input = "{self.input}" has no use for {", ".join(faults)}: leave it out, or set input = "{other}"'
            )
        return self


def _ignored_by_features(config: DetectorConfig) -> list[str]:
    recipe, usual = config.recipe, Recipe()
    found = [f"[{name}]" for name, plain in _PIXEL_TABLES.items() if getattr(config, name) != plain]
    found += [f"recipe.{name}" for name in ("size_px", "resize") if getattr(recipe, name) != getattr(usual, name)]
    found += [] if recipe.keep_aspect else ["recipe.keep_aspect = false"]
    found += [] if recipe.channels == 3 else ["recipe.channels = 1"]
    if recipe.illumination == "none":
        found += [f"recipe.{name}" for name in LOCAL_CONTRAST if getattr(recipe, name) != getattr(usual, name)]
    return found


def _ignored_by_pixels(config: DetectorConfig) -> list[str]:
    recipe = config.recipe
    found = [] if config.features == FeaturesConfig() else ["[features]"]
    found += [f"recipe.{name}" for name in ("resolution", "input_px") if getattr(recipe, name) is not None]
    found += ["recipe.keep_aspect = true"] if recipe.keep_aspect else []
    found += ["calibration.trim"] if config.calibration.trim else []
    found += ['calibration.cross_fit = "auto"'] if config.calibration.cross_fit == "auto" else []
    return found


_PIXEL_TABLES: dict[str, BaseModel] = {"network": NetworkConfig(), "score": ScoreConfig()}


def why_pixels(values: Mapping[str, Any]) -> str | None:
    """Why a configuration that does not state its input learns from pixels, for people; None if it does not.

    Args:
        values: what somebody stated, by table.
    """
    spoken = [f"[{table}]" for table in ONLY_PIXELS if table in values]
    spoken += [f"recipe.{name}" for name in ONLY_PIXELS_RECIPE if name in _stated(values.get("recipe", {}))]
    if spoken:
        return f"only pixels have {', '.join(spoken)}"
    return None if weights_are_installed() else "the weights of the frozen network are not installed (extra `features`)"


def _stated(table: Any) -> dict[str, Any]:
    """The settings of a table that somebody gave, of a dict or an object; nothing of what is no table."""
    if isinstance(table, BaseModel):
        return {name: getattr(table, name) for name in table.model_fields_set}
    return table if isinstance(table, dict) else {}


def _with_defaults(table: Any, usual: dict[str, Any]) -> Any:
    return {**usual, **_stated(table)} if isinstance(table, dict | BaseModel) else table


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: if the file is missing, unreadable or no TOML; names the file and the place.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error


def load_config(path: str | Path) -> DetectorConfig:
    """Read a detector's configuration from a TOML file.

    Raises:
        ConfigError: for an unreadable file, an unknown key, a wrong type or a value out of range; one line for each,
            naming file, key, value and what is allowed.
    """
    path = Path(path)
    content = read_toml(path)
    try:
        return DetectorConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(validation_message(path, error, DetectorConfig)) from None


def validation_message(path: Path, error: ValidationError, model: type[BaseModel]) -> str:
    """One line for each mistake: file, key, value and what is allowed."""
    lines = []
    for mistake in error.errors():
        keys = [str(part) for part in mistake["loc"]]
        name = ".".join(keys)
        if mistake["type"] == "extra_forbidden":
            allowed = ", ".join(sorted(_fields_at(model, keys[:-1])))
            lines.append(f"{path}: {name}: there is no such key; allowed here: {allowed}")
        elif mistake["type"] == "missing":
            lines.append(f"{path}: {name}: is missing")
        else:
            message = mistake["msg"].removeprefix("Value error, ")
            found = f"{name} = {mistake['input']!r}: " if keys else ""  # of two tables: the message names them
            lines.append(f"{path}: {found}{message[:1].lower()}{message[1:]}")
    return "\n".join(lines)


def _fields_at(model: type[BaseModel], keys: list[str]) -> list[str]:
    for key in keys:
        field = model.model_fields.get(key)
        candidates = () if field is None else (field.annotation, *get_args(field.annotation))
        model = next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
    return list(model.model_fields)
