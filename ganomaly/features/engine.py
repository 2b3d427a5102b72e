"""Runs a frozen network where it is fast: in ONNX Runtime on a CPU, in torch elsewhere.

Depthwise convolutions are slow in eager torch on a CPU: ONNX Runtime takes about a quarter of its time for
EfficientNet-Lite0. Each image goes through alone, so that its features depend on no other image; several threads may
ask at the same time, each computes on one core.
"""

import copy
import io
import threading
import warnings
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ganomaly.errors import ConfigError

Maps = list[NDArray[np.float32]]
"""One map (C, h, w) for each stride; behind them what else looks at them, (h, w)."""

_ONE_AT_A_TIME = threading.Lock()


class Engine(Protocol):
    """What gives the feature maps of an image."""

    def maps(self, image_hwc: NDArray[np.uint8]) -> Maps:
        """The maps of one image, uint8 (H, W, 3) RGB, whose sides are multiples of the largest stride."""


class CompiledEngine:
    """A network as ONNX Runtime runs it on a CPU, in float32, one thread for each call.

    Args:
        graph: what `export` gave.
    """

    def __init__(self, graph: bytes) -> None:
        try:
            import onnxruntime  # noqa: PLC0415 - takes half a second
        except ModuleNotFoundError:
            raise ConfigError(
                "onnxruntime, which runs the network, is not installed: pip install 'ganomaly-inspection[features]'"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.graph = graph
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common class
            raise ValueError(f"the compiled network cannot be run: {error}") from error

    def maps(self, image_hwc: NDArray[np.uint8]) -> Maps:
        """See `Engine`."""
        pixels_1chw = np.ascontiguousarray(image_hwc.transpose(2, 0, 1)[None]).astype(np.float32)
        return [map_1chw[0] for map_1chw in self._session.run(None, {"pixels": pixels_1chw})]


class TorchEngine:
    """A network as torch runs it, in float32 as on a CPU: what was calibrated on one machine is judged on others.

    Args:
        network: pixels to maps, see `Engine.maps`.
        device: where it computes.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._device = device
        self._network = network.to(device).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def maps(self, image_hwc: NDArray[np.uint8]) -> Maps:
        """See `Engine`."""
        pixels_1chw = torch.from_numpy(np.ascontiguousarray(image_hwc)).to(self._device).permute(2, 0, 1)[None].float()
        backend = torch.backends.cudnn
        # TF32 has 10 bits of mantissa; whether it is used is one setting for all threads
        with (
            _ONE_AT_A_TIME,
            backend.flags(True, backend.benchmark, deterministic=backend.deterministic, allow_tf32=False),
        ):
            found: Sequence[Tensor] = self._network(pixels_1chw)
        return [map_1chw[0].float().cpu().numpy() for map_1chw in found]


def export(network: nn.Module, height_px: int, width_px: int) -> bytes:
    """The network as an ONNX graph for images of one size, weights and scaling of pixels included."""
    target = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's about its newer exporter, which needs a compiler of its own
        torch.onnx.export(
            copy.deepcopy(network).cpu(),  # it may be at work on another device
            (torch.zeros(1, 3, height_px, width_px),),
            target,  # type: ignore[arg-type]
            input_names=["pixels"],
            dynamo=False,
            opset_version=17,
        )
    return target.getvalue()
