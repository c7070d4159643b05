"""Which tensors of a graph share memory, how long each lives, and where an arena would put it."""

import dataclasses
import math

import keras
from keras import layers

from keras_kd.students import arithmetic

# They hand on what they get, or vanish when a model is converted.
_VANISHING = (
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianNoise,
    layers.GaussianDropout,
    layers.ActivityRegularization,
    layers.Identity,
)
# TFLite Micro aligns buffers to it.
_ALIGNMENT_BYTES = 16


@dataclasses.dataclass(frozen=True)
class _Life:
    """A buffer, and the first and last step at which it is needed."""

    size_bytes: int
    first: int
    last: int


def fused(graph):
    """Finds the calls that the converter makes part of the op before them.

    A normalization becomes part of the kernel before it, a ReLU of a kernel or an Add, where
    nothing else reads what is between; dropout vanishes.

    Args:
        graph: A `Graph`.

    Returns:
        {output of such a call: the input whose buffer it has}.
    """
    readers, made_by, found = _readers(graph), {}, {}
    for call in graph.calls:
        layer, output = call.operation, call.output
        source = call.inputs[0]
        before = made_by.get(source)
        if isinstance(layer, _VANISHING) or (readers[source] == 1 and _becomes_part(layer, before)):
            found[output] = source
            # Behind its activation an op takes in nothing more.
            made_by[output] = None if _is_relu(layer) else before
        else:
            made_by[output] = layer
    return found


def _readers(graph):
    """Returns {tensor: how many calls read it}, the model's outputs counted as one more."""
    readers: dict = {}
    for call in graph.calls:
        for tensor in set(call.inputs):
            readers[tensor] = readers.get(tensor, 0) + 1
    for tensor in keras.tree.flatten(graph.outputs):
        readers[tensor] = readers.get(tensor, 0) + 1
    return readers


def _becomes_part(layer, before):
    kernel = isinstance(before, arithmetic.KERNELS) and not _has_activation(before)
    if isinstance(layer, layers.BatchNormalization):
        return kernel
    return _is_relu(layer) and (kernel or isinstance(before, layers.Add))


def _has_activation(layer):
    return keras.activations.serialize(layer.activation) != "linear"


def _is_relu(layer):
    if isinstance(layer, layers.ReLU):
        return not layer.negative_slope and not layer.threshold
    if isinstance(layer, layers.Activation):
        return keras.activations.serialize(layer.activation) in ("relu", "relu6")
    return False


def bytes_needed(graph, shape, fused_outputs, inside):
    """Returns (bytes of tensors alive at once where they are most, bytes of an arena for them).

    A tensor lives from the call that makes it to the last that reads it, inputs from the start,
    outputs to the end, each element a byte, or four where it is a token's number. TFLite Micro
    places the largest buffer first, each at the lowest offset that is free while it lives, among
    equals the one made last (tensorflow/lite/micro/memory_planner/greedy_memory_planner.cc; the
    order among equals from measured arenas), so gaps are left.

    Args:
        graph: A `Graph`.
        shape: A function from a tensor to its shape without the batch.
        fused_outputs: See `fused`.
        inside: {outputs of a call: elements alive within it, beside its inputs}.
    """

    def root(tensor):
        while tensor in fused_outputs:
            tensor = fused_outputs[tensor]
        return tensor

    first = {root(tensor): 0 for tensor in keras.tree.flatten(graph.inputs)}
    last: dict = {}
    scratch = []
    for step, call in enumerate(graph.calls):
        for tensor in call.outputs:
            first.setdefault(root(tensor), step)
        for tensor in (*call.inputs, *call.outputs):
            last[root(tensor)] = step
        # What an attention layer holds, it holds before its output is there.
        extra = inside[call.outputs] - sum(math.prod(shape(t)) for t in call.outputs)
        if extra > 0:
            scratch.append(_Life(extra, step, step))
    for tensor in keras.tree.flatten(graph.outputs):
        last[root(tensor)] = len(graph.calls)
    lives = [
        _Life(
            math.prod(shape(tensor)) * (4 if "int" in tensor.dtype else 1),
            first[tensor],
            last.get(tensor, first[tensor]),
        )
        for tensor in first
    ]
    lives += scratch
    return _most_alive(lives, len(graph.calls)), _planned(lives)


def _most_alive(lives, steps):
    alive = [0] * (steps + 1)
    for life in lives:
        for step in range(life.first, life.last + 1):
            alive[step] += life.size_bytes
    return max(alive)


def _planned(lives):
    aligned = [
        dataclasses.replace(
            life, size_bytes=-(-life.size_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        )
        for life in reversed(lives)
    ]
    placed: list = []
    for life in sorted(aligned, key=lambda life: -life.size_bytes):
        offset = 0
        for start, end, other in sorted(placed, key=lambda item: item[:2]):
            if other.first > life.last or life.first > other.last:
                continue
            if offset + life.size_bytes <= start:
                break
            offset = max(offset, end)
        placed.append((offset, offset + life.size_bytes, life))
    return max(end for _, end, _ in placed)
