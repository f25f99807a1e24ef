"""Convolutions of small maps as matrix products: onnxruntime gives the same as for the convolutions."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from miniclip.deploy.onnx_dense_maps import with_matrix_products

CHANNELS = 5
"""Of the maps that go in; 8 come out."""


def model_of(
    size: tuple[int, int],
    kernel: tuple[int, ...] = (8, CHANNELS, 3, 3),
    *,
    bias: bool = True,
    num_convolutions: int = 1,
    **attributes: Any,
) -> ModelProto:
    """A graph of `images (B, 5, H, W) -> maps`, of a ReLU and convolutions with one and the same kernel."""
    attributes = {"kernel_shape": kernel[2:], "pads": [1, 1, 1, 1]} | attributes
    generator = np.random.default_rng(0)
    weights = [numpy_helper.from_array(generator.normal(size=kernel).astype(np.float32), "kernel")]
    if bias:
        weights.append(numpy_helper.from_array(generator.normal(size=kernel[0]).astype(np.float32), "bias"))

    shape = ["B", CHANNELS, *size]
    inputs = ["seen", *(tensor.name for tensor in weights)]
    nodes = [helper.make_node("Relu", ["images"], ["seen"], name="relu")]
    outputs = [f"maps{number}" for number in range(num_convolutions)]
    for output in outputs:
        nodes.append(helper.make_node("Conv", inputs, [output], name=f"conv of {output}", **attributes))

    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs],
        weights,
        value_info=[helper.make_tensor_value_info("seen", TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def kinds_of_nodes(model: ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def outputs_of(model: ModelProto, images: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, {"images": images})
    return outputs


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(2, 2), (1, 1), (1, 2), (2, 1)])
def test_a_matrix_product_gives_what_the_convolution_gives(size: tuple[int, int], bias: bool) -> None:
    model, changed = model_of(size, bias=bias), model_of(size, bias=bias)
    with_matrix_products(changed.graph)
    assert "Conv" not in kinds_of_nodes(changed)

    for batch_size in (1, 3):
        images = np.random.default_rng(1).normal(size=(batch_size, CHANNELS, *size)).astype(np.float32)
        (expected,), (found,) = outputs_of(model, images), outputs_of(changed, images)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        {"size": (2, 3)},
        {"size": (4, 4)},
        {"size": (2, 2), "strides": [2, 2]},
        {"size": (2, 2), "pads": [0, 1, 2, 1]},
        {"size": (2, 2), "dilations": [2, 2], "pads": [2, 2, 2, 2]},
        {"size": (2, 2), "kernel": (8, CHANNELS, 1, 1), "pads": [0, 0, 0, 0]},
        {"size": (2, 2), "kernel": (10, 1, 3, 3), "group": CHANNELS},
        {"size": (2, 2), "num_convolutions": 2},  # whose kernel another node reads as it is
    ],
)
def test_any_other_convolution_stays(other: dict[str, Any]) -> None:
    model = model_of(**other)
    with_matrix_products(model.graph)
    assert model == model_of(**other)


def test_the_file_does_not_grow(tmp_path: Path) -> None:
    kernel = (64, CHANNELS, 3, 3)
    model, changed = model_of((2, 2), kernel), model_of((2, 2), kernel)
    with_matrix_products(changed.graph)
    assert changed.ByteSize() < model.ByteSize() + 2_000
