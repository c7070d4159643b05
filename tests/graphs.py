"""Runs a graph, to compare it with the model that it is of."""

import keras


def computed(graph, x):
    """Return what the calls of a graph make of values for its inputs."""
    values = dict(zip(keras.tree.flatten(graph.inputs), keras.tree.flatten(x), strict=True))
    for call in graph.calls:
        args, kwargs = call.given(values)
        found = keras.tree.flatten(call.operation(*args, **kwargs))
        values.update(zip(call.outputs, found, strict=True))
    return keras.tree.map_structure(lambda tensor: values[tensor], graph.outputs)
