"""What must hold between the parts of a `.tflite`, so that whoever reads it need not doubt it.

Every rule looks tensors up by index, multiplies shapes and follows ops from output to input. A file
in which an index leads nowhere, a shape is negative or an op waits for itself would crash or hang
them, one by one; it is refused here, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_kd.deploy import inspect

# TFLite's kernels count elements in an int (RuntimeShape::FlatSize, kernels/internal/types.h).
LARGEST_ELEMENT_COUNT = 2**31 - 1
# What NumPy 1.26 has axes for; TFLite's kernels stop at eight.
LARGEST_RANK = 32
_BITS = {
    **{"bool": 8, "int4": 4, "uint4": 4, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16},
    **{"int32": 32, "uint32": 32, "int64": 64, "uint64": 64},
    **{"float16": 16, "bfloat16": 16, "float32": 32, "float64": 64},
    **{"complex64": 64, "complex128": 128},
}


def check_index(index: int, count: int, what: str, *, optional: bool = False) -> None:
    """Raises ValueError for an index beyond `count`; -1 is "left out" where that is allowed."""
    if not (-1 if optional else 0) <= index < count:
        raise ValueError(f"{what} is number {index} of {count}")


def check_tensor(tensor: inspect.Tensor) -> None:
    """Shape, scales and constant bytes of a tensor fit together.

    One thing is left to the rules: an axis of quantization that the shape does not have. TFLite
    Micro's own person detector has such tensors and runs there, while LiteRT refuses it.

    Raises:
        ValueError: They do not.
    """
    name = f"'{tensor.name[:80]}'"
    count = _element_count(tensor, name)
    signature = tensor.shape_signature
    if len(signature) != len(tensor.shape) or any(size < -1 for size in signature):
        raise ValueError(f"{name} has shape {tensor.shape} and another signature")
    scales, axis = len(tensor.scales), tensor.quantized_axis
    if len(tensor.zero_points) != scales:
        raise ValueError(f"{name} has {scales} scales and {len(tensor.zero_points)} zero points")
    if axis is not None and 0 <= axis < len(tensor.shape) and tensor.shape[axis] != scales:
        raise ValueError(f"{name} has {scales} scales along axis {axis} of {tensor.shape}")
    if tensor.is_constant and not tensor.is_sparse and tensor.dtype in _BITS:
        expected = (count * _BITS[tensor.dtype] + 7) // 8
        if tensor.buffer_bytes != expected:
            raise ValueError(
                f"{name}, {tensor.dtype} of shape {tensor.shape}, has "
                f"{tensor.buffer_bytes:,} bytes and wants {expected:,}"
            )


def _element_count(tensor: inspect.Tensor, name: str) -> int:
    if len(tensor.shape) > LARGEST_RANK:
        raise ValueError(f"{name} claims {len(tensor.shape)} axes")
    count = 1
    for size in tensor.shape:
        if size < 0:
            raise ValueError(f"{name} has shape {tensor.shape}")
        count *= size
        if count > LARGEST_ELEMENT_COUNT:
            raise ValueError(f"{name} claims more than {LARGEST_ELEMENT_COUNT} elements")
    return count


def check_graphs(ops: Sequence[inspect.Op], variables: set[tuple[int, int]], graphs: int) -> None:
    """Ops stand in an order that they can run in, and no subgraph runs itself.

    TFLite runs a subgraph's operators in the file's order.

    Args:
        ops: Every op.
        variables: (subgraph, index) of the tensors that any op may read and write.
        graphs: How many subgraphs there are.

    Raises:
        ValueError: An op reads what it or a later one writes, a tensor is written twice, or
            subgraphs run each other in a circle.
    """
    writers: dict[tuple[int, int], int] = {}
    for op in ops:
        for place in ((op.subgraph, i) for i in op.outputs if i >= 0):
            if place not in variables and writers.setdefault(place, op.index) != op.index:
                raise ValueError(
                    f"tensor {place[1]} is written by ops {writers[place]}, {op.index}"
                )
    for op in ops:
        for place in ((op.subgraph, i) for i in op.inputs if i >= 0):
            if writers.get(place, -1) >= op.index:
                raise ValueError(f"op {op.index} waits for op {writers[place]}")
    _check_calls(ops, graphs)


def _check_calls(ops: Sequence[inspect.Op], graphs: int) -> None:
    called: dict[int, set[int]] = {}
    for op in ops:
        for option, value in op.options.items():
            if option.endswith("subgraph_index"):
                check_index(value, graphs, f"the {option} of {op.name}")
                called.setdefault(op.subgraph, set()).add(value)
    # Whoever runs nobody is done; what is never done runs itself.
    open_graphs = set(called)
    while True:
        done = {graph for graph in open_graphs if not called[graph] & open_graphs}
        if not done:
            break
        open_graphs -= done
    if open_graphs:
        raise ValueError(f"subgraphs {sorted(open_graphs)} run each other in a circle")
