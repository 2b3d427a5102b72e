"""A frozen network as it computes fastest here, with the discriminators of drawn defects behind it."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ganomaly.config import DetectorConfig
from ganomaly.features.backbone import Backbone, load_backbone, restore_backbone
from ganomaly.features.engine import CompiledEngine, Engine, Maps, TorchEngine, export
from ganomaly.networks.defect_discriminator import DefectDiscriminator, Seeing
from ganomaly.saving import below

BACKBONE = "backbone."
DISCRIMINATOR = "defects."
GRAPH = "graph"


class FeatureExtractor:
    """Gives the maps of images; compiled when it is first asked.

    Args:
        config: of the detector; its recipe knows the size of the network's input.
        device: where it computes.
    """

    def __init__(self, config: DetectorConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._backbone: Backbone | None = None
        self._saved: tuple[Mapping[str, Tensor], Mapping[str, str]] | None = None
        self._discriminators: tuple[DefectDiscriminator, ...] = ()
        self._engine: Engine | None = None

    @property
    def discriminators(self) -> tuple[DefectDiscriminator, ...]:
        """The discriminators behind it."""
        return self._discriminators

    @discriminators.setter
    def discriminators(self, discriminators: Sequence[DefectDiscriminator]) -> None:
        self._discriminators, self._engine = tuple(discriminators), None

    @property
    def backbone(self) -> Backbone:
        """The network alone: of a loaded detector only where something else than its graph is asked for."""
        if self._backbone is None and self._saved is not None:
            self._backbone = restore_backbone(self._config.features, *self._saved)
        elif self._backbone is None:
            self._backbone = load_backbone(self._config.features)
        return self._backbone

    @property
    def origin(self) -> Mapping[str, str]:
        """Name, licence and hash of its weights."""
        return self.backbone.origin if self._saved is None else self._saved[1]

    @property
    def seeing(self) -> Seeing:
        """The network with the discriminators behind it, in torch."""
        return Seeing(self.backbone.network, self.discriminators)

    @property
    def engine(self) -> Engine:
        """The engine of this device; made when it is first asked for."""
        if self._engine is None:
            on_cpu = self._device.type == "cpu"
            self._engine = CompiledEngine(self._exported()) if on_cpu else TorchEngine(self.seeing, self._device)
        return self._engine

    def maps(self, image_hwc: NDArray[np.uint8]) -> tuple[Maps, Maps]:
        """Maps (C, h, w) of an image (H, W, 3), the finest first, and the logits (h, w) of each discriminator."""
        found = self.engine.maps(image_hwc)
        n_maps = len(found) - len(self.discriminators)
        return found[:n_maps], found[n_maps:]

    def weights(self) -> dict[str, Tensor]:
        """Weights and compiled form by name."""
        graph = self._engine.graph if isinstance(self._engine, CompiledEngine) else self._exported()
        named = {BACKBONE: self.backbone.network.state_dict()}
        named |= {f"{DISCRIMINATOR}{at}.": one.state_dict() for at, one in enumerate(self.discriminators)}
        weights = {prefix + name: tensor.cpu() for prefix, of in named.items() for name, tensor in of.items()}
        return weights | {GRAPH: torch.frombuffer(bytearray(graph), dtype=torch.uint8)}

    def restore(self, weights: Mapping[str, Tensor], origin: Mapping[str, str], n_discriminators: int) -> None:
        """Take up what `weights` and `origin` gave; needs no package of weights.

        Raises:
            KeyError, RuntimeError, ValueError: if they do not make a network.
        """
        self._saved = below(BACKBONE, weights), origin
        named = (below(f"{DISCRIMINATOR}{at}.", weights) for at in range(n_discriminators))
        self._discriminators = tuple(DefectDiscriminator.restored(one) for one in named)
        graph = weights[GRAPH].numpy().tobytes()
        self._engine = CompiledEngine(graph) if self._device.type == "cpu" else self.engine

    def _exported(self) -> bytes:
        if self._config.recipe.input_px is None:
            raise ValueError("recipe.input_px is open: let `Detector.fit` decide it, or `DetectorConfig.fitted_to`")
        return export(self.seeing, *self._config.recipe.input_px)
