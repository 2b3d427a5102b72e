"""Writes a detector's graph as an ONNX file."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ganomaly.exporting.graph import INPUT, OUTPUTS, DetectorGraph

OPSET = 17
LARGE = 100_000
"""Numbers from which an array is stored in half precision where that loses nothing."""


def write_onnx(graph: DetectorGraph, shape: tuple[int, int], target: Path) -> None:
    """Write the graph for camera images of one height and width."""
    import onnx  # noqa: PLC0415 - of the extra `features`

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of what is constant for one size of images
        torch.onnx.export(
            graph.eval(),
            (torch.zeros(*shape, 3),),
            str(target),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamo=False,
            opset_version=OPSET,
        )
    model = onnx.load(target)
    _halve(model)
    onnx.save(model, target)


def _halve(model: Any) -> None:
    """Store large arrays whose values half precision holds exactly in half precision, each with a cast behind it."""
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415 - of the extra `features`

    casts = []
    for array in model.graph.initializer:
        if array.data_type != TensorProto.FLOAT or int(np.prod(array.dims)) < LARGE:
            continue
        values = numpy_helper.to_array(array)
        halves = values.astype(np.float16)
        if not np.array_equal(halves.astype(np.float32), values):
            continue
        name = array.name
        array.CopyFrom(numpy_helper.from_array(halves, f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], f"{name}_cast", to=TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
