"""The frozen network: the right weights in the right places, whoever they come from, and no code of theirs is run."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from ganomaly.errors import ConfigError
from ganomaly.features import backbone
from ganomaly.features.backbone import FeaturesConfig, load_backbone, restore_backbone
from ganomaly.features.engine import CompiledEngine, TorchEngine, export

TOLERANCE = 1e-4
"""Of the largest value of a map, between ONNX Runtime and torch."""


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """An image, uint8 (96, 64, 3)."""
    return np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)


def test_embedded_weights_say_whose_they_are_and_on_which_terms() -> None:
    """A plant could not tell whose weights judge its parts, or whether it may use them."""
    loaded = load_backbone(FeaturesConfig())
    assert loaded.origin["licence"].startswith("Apache-2.0")
    assert loaded.origin["sha256"] == backbone.PACKAGE_SHA256
    assert (loaded.strides, loaded.channels) == ((8, 16), (40, 112))
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())


def test_embedded_weights_are_those_of_a_network_that_sees() -> None:
    """A layer that got another layer's weights would give maps of noise, and nobody would notice."""
    whole = timm.create_model(backbone.EMBEDDED, pretrained=False)
    path = next(Path(backbone.find_spec(backbone.PACKAGE).origin).parent.rglob("*.pth"))
    whole.load_state_dict(backbone._renamed(torch.load(path, weights_only=True)), strict=True)
    whole.eval()
    # batch norm remembers what its layer gave for photographs: our scaling has to lead there
    noise = np.random.default_rng(1).normal(0, 1, (8, 3, 14, 14))
    photo = torch.nn.functional.interpolate(torch.tensor(noise), size=(224, 224), mode="bicubic") * 58 + 118
    mean, deviation = backbone.PACKAGE_SCALING
    with torch.no_grad():
        logits = whole(((photo - mean[0]) / deviation[0]).float())
    assert logits.std() > 0.3
    assert len(set(logits.argmax(1).tolist())) > 1
    ours = load_backbone(FeaturesConfig()).network.maps.state_dict()
    same = {key.removeprefix("model."): value for key, value in ours.items()}
    for key, value in whole.state_dict().items():
        if key in same:
            assert torch.equal(value, same[key]), key


def test_engines_agree(pixels: np.ndarray) -> None:
    """A model that was calibrated on a CPU would flag other parts on a GPU."""
    loaded = load_backbone(FeaturesConfig())
    compiled = CompiledEngine(export(loaded.network, 96, 64)).maps(pixels)
    eager = TorchEngine(loaded.network, torch.device("cpu")).maps(pixels)
    assert [found.shape for found in compiled] == [(40, 12, 8), (112, 6, 4)]
    for found, wanted in zip(compiled, eager, strict=True):
        assert np.abs(found - wanted).max() < TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_any_architecture_takes_weights_of_a_file(suffix: str, tmp_path: Path) -> None:
    """A plant with better weights, or none from a package, could not use them."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        state = timm.create_model("resnet18", pretrained=False).state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)
    config = FeaturesConfig(network="resnet18", weights=str(path), strides=(8, 4))
    loaded = load_backbone(config)
    assert (loaded.strides, loaded.channels) == ((4, 8), (64, 128))
    again = restore_backbone(config, loaded.network.state_dict(), loaded.origin)
    x = torch.rand(1, 3, 64, 64) * 255
    for first, second in zip(loaded.network(x), again.network(x), strict=True):
        assert torch.equal(first, second)
    assert torch.equal(loaded.network.maps.state_dict()["model.conv1.weight"], state["conv1.weight"])


class Malicious:
    """What a pickle may do when it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("harmed",)


def test_weights_that_cannot_be_used_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's file would run code, or an error leave the user without a way out."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Malicious()))
    torch.save({"unrelated": torch.zeros(1)}, tmp_path / "other.pth")
    cases: list[tuple[dict[str, object], str]] = [
        ({"network": "resnet18"}, "no embedded weights"),
        ({"network": "no_such_network", "weights": "bad.pth"}, "timm has no such architecture"),
        ({"weights": "missing.pth"}, "there is no such file"),
        ({"weights": "bad.pth"}, "is no file of weights"),
        ({"weights": "other.pth"}, "lacks 'conv_stem"),
        ({"strides": (7,)}, "has no map of stride 7"),
    ]
    for config, wanted in cases:
        with pytest.raises(ConfigError, match=wanted) as caught:
            load_backbone(FeaturesConfig.model_validate(config))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "harmed").exists()


def test_other_weights_in_the_package_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new release of the package would change every verdict without a word."""
    monkeypatch.setattr(backbone, "PACKAGE_SHA256", "0" * 64)
    with pytest.raises(ConfigError, match="not the weights that this version was made for"):
        load_backbone(FeaturesConfig())


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plant without a network would wait for minutes and get a traceback."""
    real = timm.create_model

    def unreachable(name: str, *, pretrained: bool = False, **options: object) -> object:
        if pretrained:
            raise OSError("no route to the hub")
        return real(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ConfigError, match=r"timm cannot fetch weights of resnet18 \(no route to the hub\)"):
        load_backbone(FeaturesConfig(network="resnet18", weights="hub"))


def test_pixels_are_the_default_where_the_weights_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plant without the extra could not fit anything."""
    code = (
        "import importlib.util as u; real = u.find_spec; "
        f"u.find_spec = lambda name, *a: None if name == {backbone.PACKAGE!r} else real(name, *a); "
        "from ganomaly import DetectorConfig; print(DetectorConfig().input)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "pixels"
