"""Multiply-accumulates of an op, from its shapes: what a model costs before anything is run."""

from __future__ import annotations

import math

from keras_kd.deploy import inspect

# Where a UNIDIRECTIONAL_SEQUENCE_LSTM has its matrices: four for the input, four for the state, one
# for the projection (TensorFlow, lite/kernels/lstm_shared.h).
_LSTM_MATRICES = (1, 2, 3, 4, 5, 6, 7, 8, 16)


def macs(info: inspect.ModelInfo, op: inspect.Op) -> int:
    """Multiply-accumulates of one run of an op; 0 for ops that are not made of them.

    A convolution has one for each output element and each weight that reaches it, padding counted
    as if it were there; a transposed one, for each input element and each weight that it reaches:

        CONV_2D             outputs * kernel height * kernel width * input channels of a group
        DEPTHWISE_CONV_2D   outputs * kernel height * kernel width
        TRANSPOSE_CONV      inputs * kernel height * kernel width * output channels
        FULLY_CONNECTED     outputs * input features
        BATCH_MATMUL        outputs * inner features
        CONV_3D             outputs * kernel volume * input channels
        UNIDIRECTIONAL_SEQUENCE_LSTM    steps * weights of its matrices

    A free size in a shape counts as 1, a subgraph's op once, however often it runs.

    Args:
        info: The model.
        op: One of its ops.

    Returns:
        The number; biases, activations and requantization are not in it.

    Example:
        >>> sum(macs(info, op) for op in info.ops)
        2656768
    """
    shapes = [info.tensor(i, op.subgraph).shape if i >= 0 else None for i in op.inputs]
    outputs = math.prod(info.tensor(op.outputs[0], op.subgraph).shape) if _has_output(op) else 0

    def shape(slot: int, rank: int) -> tuple[int, ...]:
        """Of that input; empty where the op has none of that rank there."""
        found = shapes[slot] if slot < len(shapes) else None
        return found if found is not None and len(found) == rank else ()

    if op.name == "CONV_2D":
        return _times(outputs, shape(1, 4)[1:])
    if op.name == "DEPTHWISE_CONV_2D":
        return _times(outputs, shape(1, 4)[1:3])
    if op.name == "TRANSPOSE_CONV":
        return _times(math.prod(shape(2, 4)) if shape(2, 4) else 0, shape(1, 4)[:3])
    if op.name == "FULLY_CONNECTED":
        return _times(outputs, shape(1, 2)[1:])
    if op.name == "CONV_3D":
        return _times(outputs, shape(1, 5)[:4])
    if op.name == "BATCH_MATMUL" and shapes and shapes[0]:
        return outputs * shapes[0][-2 if op.options.get("adj_x") else -1 :][0]
    if op.name == "UNIDIRECTIONAL_SEQUENCE_LSTM":
        weights = sum(math.prod(shape(slot, 2)) for slot in _LSTM_MATRICES if shape(slot, 2))
        return _times(weights, shape(0, 3)[:2])
    return 0


def _has_output(op: inspect.Op) -> bool:
    return bool(op.outputs) and op.outputs[0] >= 0


def _times(count: int, sizes: tuple[int, ...]) -> int:
    return count * math.prod(sizes) if sizes else 0
