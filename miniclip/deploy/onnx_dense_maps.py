"""Convolutions of maps of 2 x 2 pixels, as matrix products in a graph of ONNX."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

DENSE_MAP = 2
"""Largest side of a map, pixels, on which the kernel reaches from every pixel to every other."""


def with_matrix_products(graph: Any) -> None:
    """Turn the 3x3 convolutions of a graph that see maps of 2 x 2 pixels into matrix products.

    More than half of such a convolution's multiplications are with its padding. The product's matrix, which
    is larger than the kernel, is gathered from it when the graph is loaded, so that a file does not grow.

    Args:
        graph: a GraphProto, with the shapes of its values; it is changed.
    """
    from onnx import numpy_helper

    shapes = {value.name: _shape(value) for value in graph.value_info}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    uses = [name for node in graph.node for name in node.input]

    nodes = []
    for node in graph.node:
        size = shapes.get(node.input[0], [])[2:] if node.op_type == "Conv" else []
        kernel = constants.get(node.input[1]) if _is_dense(node, size) else None
        if kernel is None or uses.count(kernel.name) > 1:
            nodes.append(node)
            continue

        taps = numpy_helper.to_array(kernel).transpose(2, 3, 1, 0).reshape(9, *kernel.dims[1::-1])
        node.input[1] = f"{kernel.name}.taps"  # (9, C, D)
        kernel.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(taps), node.input[1]))
        nodes.extend(_matrix_product(node, size, taps.shape[1:], graph.initializer))

    del graph.node[:]
    graph.node.extend(nodes)


def _shape(value: Any) -> list[int]:
    """Sizes of a value, 0 where a size is any."""
    return [size.dim_value for size in value.type.tensor_type.shape.dim]


def _is_dense(node: Any, size: list[int]) -> bool:
    """Whether a node is a convolution of maps of `size`, H and W, that is a product of all with all."""
    from onnx.helper import get_attribute_value

    given = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
    return (
        len(size) == 2
        and all(0 < side <= DENSE_MAP for side in size)
        and given.get("kernel_shape") == [3, 3]
        and given.get("pads") == [1, 1, 1, 1]
        and given.get("strides", [1, 1]) == [1, 1]
        and given.get("dilations", [1, 1]) == [1, 1]
        and given.get("group", 1) == 1
    )


def _matrix_product(
    convolution: Any, size: list[int], channels: tuple[int, int], constants: Any
) -> Iterator[Any]:
    """The nodes `images (B, C, H, W) -> (B, D, H, W)` that take a convolution's place.

    Args:
        convolution: whose kernel is (9, C, D) by now.
        size: H and W.
        channels: C and D.
        constants: of the graph, to which those are added that the nodes need.
    """
    from onnx import helper, numpy_helper

    images, kernel, *bias = convolution.input
    num_in, num_out = channels
    num_pixels = size[0] * size[1]

    def own(name: str) -> str:
        return f"{convolution.name}.{name}"

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value, np.int64), own(name)))
        return own(name)

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs, [output], name=f"{output}.node", **attributes)

    def reshape(values: str, shape: list[int], output: str) -> Any:
        return node("Reshape", [values, constant(f"{output}.shape", shape)], own(output))

    yield node("Gather", [kernel, constant("tap_of", _taps(size))], own("pairs"), axis=0)
    # (H W of the input, H W of the output, C, D) -> (H W C, H W D)
    yield node("Transpose", [own("pairs")], own("ordered"), perm=[0, 2, 1, 3])
    yield reshape(own("ordered"), [num_pixels * num_in, num_pixels * num_out], "matrix")
    yield node("Transpose", [images], own("channels_last"), perm=[0, 2, 3, 1])
    yield reshape(own("channels_last"), [-1, num_pixels * num_in], "rows")
    yield node("MatMul", [own("rows"), own("matrix")], own("product"))
    yield reshape(own("product"), [-1, *size, num_out], "sums")
    if bias:
        yield node("Add", [own("sums"), *bias], own("biased"))
    result = own("biased") if bias else own("sums")
    yield node("Transpose", [result], convolution.output[0], perm=[0, 3, 1, 2])


def _taps(size: list[int]) -> list[list[int]]:
    """Which of a kernel's nine taps lies between two pixels, `(H W of the input, H W of the output)`."""
    pixels = list(product(range(size[0]), range(size[1])))
    return [[3 * (y - to_y + 1) + (x - to_x + 1) for to_y, to_x in pixels] for y, x in pixels]
