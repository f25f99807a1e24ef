"""Graphs of ONNX in smaller numbers than they were exported in."""

import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from miniclip.deploy.onnx_dense_maps import with_matrix_products
from miniclip.deploy.onnx_files import Precision

CALIBRATION_BATCH = 8
"""Images whose smallest and largest activation are one of those that are averaged."""

OF_MATRICES = ["MatMul", "Gemm"]


def convert(whole: Path, converted: Path, precision: Precision, inputs: Mapping[str, np.ndarray]) -> None:
    """Write a graph in another precision.

    Args:
        whole: the graph in float32.
        converted: where the other one goes.
        inputs: real ones, by name, from which the ranges of activations are read.
    """
    CONVERT[precision](whole, converted, inputs)


def _to_fp32(whole: Path, converted: Path, inputs: Mapping[str, np.ndarray]) -> None:
    import onnx

    graph = onnx.load(str(whole))
    with_matrix_products(graph.graph)
    onnx.save(graph, str(converted))


def _to_fp16(whole: Path, converted: Path, inputs: Mapping[str, np.ndarray]) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    graph = onnx.load(str(whole))
    with_matrix_products(graph.graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers that become the smallest or largest of float16
        half = convert_float_to_float16(graph, keep_io_types=True)
    onnx.save(half, str(converted))


def _to_int8(whole: Path, converted: Path, inputs: Mapping[str, np.ndarray]) -> None:
    """Convolutions with ranges read from the inputs, matrix products with ranges found as they run.

    A dynamic convolution is three times slower than one in float32, a calibrated one twice as fast. Weights
    have 7 bits: processors without VNNI saturate sums of products of 8 bits, which costs recall.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            str(_with_int8_convolutions(whole, inputs)),
            str(converted),
            weight_type=QuantType.QInt8,
            op_types_to_quantize=OF_MATRICES,
            per_channel=True,
            reduce_range=True,
        )


def _with_int8_convolutions(whole: Path, inputs: Mapping[str, np.ndarray]) -> Path:
    """The graph with its convolutions in int8, where that costs little: see `_in_int8`."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    nodes = onnx.load(str(whole), load_external_data=False).graph.node
    convolutions = _in_int8([node for node in nodes if node.op_type == "Conv"])
    if not convolutions:
        return whole

    folded = whole.with_name("folded.onnx")
    quant_pre_process(str(whole), str(folded), skip_symbolic_shape=True)
    graph = onnx.load(str(folded))
    give_own_inputs(graph.graph.node, convolutions)
    onnx.save(graph, str(folded))
    calibrated = whole.with_name("calibrated.onnx")
    quantize_static(
        str(folded),
        str(calibrated),
        _Batches(inputs),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=convolutions,
        per_channel=True,
        reduce_range=True,
        # a few activations far out would make the steps of all others larger
        extra_options={"CalibMovingAverage": True},
    )
    return calibrated


def _in_int8(convolutions: list[Any]) -> list[str]:
    """Names of the convolutions that are to be quantized.

    The first one stays in float32, which sees the pixels, and so do those of 1 x 1 with a stride, which
    shrink what goes past a stage's first block: both are cheap, and all that follows has their errors.
    """
    return [node.name for node in convolutions[1:] if not _shrinks_only(node)]


def give_own_inputs(nodes: Any, convolutions: Collection[str]) -> None:
    """Let each of some convolutions read a copy of its input, the copy being what is rounded to int8.

    The input of a block is also what the block's result is added to: that sum, and with it all that the
    blocks before have found, stays in float32. When the graph is loaded the copies are gone.

    Args:
        nodes: of a graph, in the order in which they are computed; they are changed.
        convolutions: names of nodes.
    """
    from onnx import helper

    ordered = []
    for node in nodes:
        if node.name in convolutions:
            own = f"{node.name}.own_input"
            ordered.append(helper.make_node("Identity", [node.input[0]], [own], name=f"{node.name}.copy"))
            node.input[0] = own
        ordered.append(node)
    del nodes[:]
    nodes.extend(ordered)


def _shrinks_only(convolution: Any) -> bool:
    """Whether a convolution skips pixels and looks at no neighbor."""
    sizes = {attribute.name: list(attribute.ints) for attribute in convolution.attribute}
    return sizes.get("kernel_shape") == [1, 1] and max(sizes.get("strides", [1])) > 1


class _Batches:
    """The inputs in batches, as calibration asks for them."""

    def __init__(self, inputs: Mapping[str, np.ndarray]):
        count = min(len(array) for array in inputs.values())
        self.batches: Iterator[dict[str, np.ndarray]] = iter(
            {name: array[start : start + CALIBRATION_BATCH] for name, array in inputs.items()}
            for start in range(0, count, CALIBRATION_BATCH)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime from advising, on the root logger, how graphs are to be prepared."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)


CONVERT: dict[Precision, Callable[[Path, Path, Mapping[str, np.ndarray]], Any]] = {
    "fp32": _to_fp32,
    "fp16": _to_fp16,
    "int8": _to_int8,
}
"""From the graph in float32 to the one that is kept."""
