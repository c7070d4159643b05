"""What a Keras model costs on a device, before it is trained or converted."""

import dataclasses

import keras

from keras_kd.graph import graph_of
from keras_kd.students import arithmetic, memory

# A channel of a kernel has a scale (4 bytes) and a zero point (8), and so has its bias (4 more).
_CHANNEL_BYTES = 28
# Descriptions of ops and tensors, fitted to the ten models that tests/students/test_counting.py
# converts.
_KERNEL_BYTES, _OP_BYTES, _FILE_BYTES = 450, 200, 800
# A channel's multiplier and shift (tensorflow/lite/micro/kernels/conv_common.cc), and what TFLM
# keeps of an op, fitted to the same models.
_ARENA_CHANNEL_BYTES, _ARENA_OP_BYTES, _ARENA_BYTES = 8, 240, 500


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a model costs at a batch of 1.

    Attributes:
        parameters: All weights of the Keras model, as `count_params` says.
        weights: Elements of kernels and tables, without biases and normalizations.
        macs: Multiply-accumulates of one example, padding counted as if it were there.
        int8_bytes: Size of the int8 `.tflite` of the trained model: an estimate, for weights with a
            scale for each channel.
        activation_bytes: Bytes of the int8 activations that are alive at once, where they are most:
            no arena can be smaller.
        arena_bytes: What TFLite Micro keeps in its arena: an estimate. Reserve a fifth more.
    """

    parameters: int
    weights: int
    macs: int
    int8_bytes: int
    activation_bytes: int
    arena_bytes: int

    def __str__(self):
        """Returns the numbers in a line."""
        return (
            f"{self.parameters:,} parameters, {self.macs:,} MACs, about {self.int8_bytes:,} bytes "
            f"in int8 and {self.arena_bytes:,} of arena"
        )


def cost(model):
    """Counts what a Keras model costs on a device, from its layers and their shapes alone.

    Parameters, weights and MACs are exact. On ten models of convolutions, dense layers and
    attention the int8 file was within 2 % of the estimate, and so was TFLite Micro's arena, but for
    that of the model with attention (within 3 %), on this package's converter and runtimes. The
    estimates know of normalizations and ReLUs that become part of the op before them, not of all
    that the converter does; measure the file with `keras_kd.deploy.measure` before you build a
    board.

    Args:
        model: A built Functional or Sequential model of fixed sizes; nested ones are opened up.

    Returns:
        A `Cost`.

    Raises:
        ValueError: A model without a graph or of a free size; a layer with weights that is not
            known, by name.

    Example:
        >>> keras_kd.students.cost(keras_kd.students.resnet8()).macs
        12501632
    """
    return count(graph_of(model))


def count(graph, *, shapes=None, configs=None):
    """Counts a graph, with other sizes than its own where they are given.

    Args:
        graph: A `Graph`.
        shapes: {tensor: shape with the batch}, for those that differ.
        configs: {id of a layer: its configuration}, for those that differ.

    Returns:
        A `Cost`.
    """
    shapes, configs = shapes or {}, configs or {}
    _check_sizes(graph)

    def shape(tensor):
        return shapes.get(tensor, tensor.shape)[1:]

    fused = memory.fused(graph)
    stored, inside, macs, kept, kernels, ops = {}, {}, 0, 0, 0, 0
    for call in graph.calls:
        layer = call.operation
        config = configs.get(id(layer)) or _config(layer)
        tensors = arithmetic.operands(call), call.outputs
        share = arithmetic.share(layer, config, *(list(map(shape, side)) for side in tensors))
        stored[id(layer)] = share
        inside[call.outputs] = share.inside
        macs += share.macs
        kept += share.kept
        if call.output not in fused:
            kernels, ops = kernels + share.kernels, ops + share.ops
    weights = sum(share.weights for share in stored.values())
    channels = sum(share.channels for share in stored.values())
    activation_bytes, planned_bytes = memory.bytes_needed(graph, shape, fused, inside)
    return Cost(
        parameters=weights + sum(share.offsets + share.others for share in stored.values()),
        weights=weights,
        macs=macs,
        int8_bytes=weights
        + _CHANNEL_BYTES * channels
        + _KERNEL_BYTES * kernels
        + _OP_BYTES * ops
        + _FILE_BYTES,
        activation_bytes=activation_bytes,
        arena_bytes=planned_bytes
        + kept
        + _ARENA_CHANNEL_BYTES * channels
        + _ARENA_OP_BYTES * ops
        + _ARENA_BYTES,
    )


def _config(layer):
    return layer.get_config() if isinstance(layer, keras.Layer) else {}


def _check_sizes(graph):
    made = [tensor for call in graph.calls for tensor in call.outputs]
    for tensor in [*keras.tree.flatten(graph.inputs), *made]:
        if None in tensor.shape[1:]:
            raise ValueError(
                f"Expected fixed sizes. Received a tensor of {tensor.shape}. Hint: give the model "
                "the size that the device will see, keras.Input(shape)."
            )
