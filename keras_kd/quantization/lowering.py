"""A graph of the layers that a device has: see `keras_kd.quantization.chains`."""

import collections

import keras

from keras_kd.graph import Call, Graph
from keras_kd.quantization.chains import (
    PAIRWISE,
    chain_of,
    copy_of,
    has_activation,
    is_over_channels,
)
from keras_kd.quantization.kernels import kernel_of


def lowered(graph, stays_float):
    """Returns the graph in which layers that are several on the device are several.

    So the rules need to know few kinds of layers: a SeparableConv2D is a DepthwiseConv2D and a
    Conv2D, a BatchNormalization that follows no kernel follows one of ones, `x + y` is an Add.

    Args:
        graph: A `Graph`.
        stays_float: call -> whether it stays as it is.

    Returns: A `Graph`. Of each chain one layer keeps the name, and the others are called after it.
    """
    lowering = _Lowering(graph, stays_float)
    for call in graph.calls:
        lowering.take(call)
    return lowering.graph()


def norms_behind_kernels(graph, stays_float):
    """Returns {id of a kernel's call: the call of the BatchNormalization that becomes part of it}.

    It does where it alone reads the kernel's outputs, and where the two are together wherever one
    of them is used.

    Args:
        graph: A `Graph`.
        stays_float: call -> whether it stays in float.
    """
    consumers = graph.consumers()
    behind = {}
    for call in graph.calls:
        readers = consumers.get(call.output, [])
        if (
            kernel_of(call.operation) is not None
            and not has_activation(call.operation)
            and len(readers) == 1
            and readers[0] is not None
            and isinstance(readers[0].operation, keras.layers.BatchNormalization)
            and is_over_channels(readers[0].operation.axis, call.output)
            and not stays_float(call)
            and not stays_float(readers[0])
        ):
            behind[id(call)] = readers[0]
    in_front = {id(behind[id(call)]): call for call in graph.calls if id(call) in behind}
    partners = collections.defaultdict(set)
    for call in graph.calls:
        partner = behind.get(id(call)) or in_front.get(id(call))
        partners[id(call.operation)].add(None if partner is None else id(partner.operation))
    return {
        id(call): behind[id(call)]
        for call in graph.calls
        if id(call) in behind
        and len(partners[id(call.operation)]) == 1
        and len(partners[id(behind[id(call)].operation)]) == 1
    }


class _Lowering:
    """The new graph as it grows, call by call."""

    def __init__(self, graph, stays_float):
        self._old = graph
        self._stays_float = stays_float
        self._absorbed = {id(call) for call in norms_behind_kernels(graph, stays_float).values()}
        self._calls: list[Call] = []
        # {old tensor: new one}
        self._known: dict = {}
        # Chains by the ids of the layers, so that shared layers stay shared.
        self._chains: dict = {}
        self._names = {call.operation.name for call in graph.calls}

    def graph(self):
        """Returns the new graph."""
        outputs = keras.tree.map_structure(lambda x: self._known.get(x, x), self._old.outputs)
        return Graph(self._old.inputs, tuple(self._calls), outputs)

    def take(self, call):
        """Adds a call, or those that it comes to."""
        stays = id(call) in self._absorbed or self._stays_float(call)
        call = call.on(self._known)
        chain = None if stays else self._chain(call)
        if chain is None:
            self._calls.append(call)
            return
        tensors = call.inputs
        for layer in chain:
            tensors = [self._run(layer, tensors)]
        self._known[call.output] = tensors[0]

    def _chain(self, call):
        operation = call.operation
        if id(operation) not in self._chains:
            chain = chain_of(call)
            if chain is not None:
                chain = [
                    self._named_apart(_with_precision_of(operation, layer), operation.name)
                    for layer in chain
                ]
            # With the operation, whose id stays its own as long as it lives.
            self._chains[id(operation)] = operation, chain
        return self._chains[id(operation)][1]

    def _named_apart(self, layer, own_name):
        """Returns the layer; a copy where its name is that of another one."""
        name, number = layer.name, 1
        if name == own_name:
            return layer
        while name in self._names:
            number += 1
            name = f"{layer.name}_{number}"
        self._names.add(name)
        return layer if name == layer.name else copy_of(layer, name=name)

    def _run(self, layer, tensors):
        if isinstance(layer, PAIRWISE) and len(tensors) > 2:
            # Of three, the converter would know no range for what the first two come to.
            *firsts, last = tensors
            pair = self._named_apart(copy_of(layer, name=f"{layer.name}_{len(firsts)}"), None)
            tensors = [self._run(pair, firsts), last]
        given = tensors if len(tensors) > 1 else tensors[0]
        output = layer(given)
        self._calls.append(Call(layer, (given,), {}, (output,)))
        return output


def _with_precision_of(operation, layer):
    """Returns a chain's layer; a copy where it would not compute as the layer it stands for."""
    if not isinstance(operation, keras.Layer) or layer.dtype_policy == operation.dtype_policy:
        return layer
    return copy_of(layer, dtype=operation.dtype_policy)
