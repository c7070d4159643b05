"""A model's graph: a walk through it, and it as a list of calls, models inside of it opened up.

Keras has no public way through a graph, but `keras.models.clone_model` goes through it and hands
every operation and its arguments to functions of ours. They call stand-ins, so that the model's own
layers get no new node.
"""

import dataclasses

import keras

from keras_kd import heads


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer or another operation, on symbolic tensors.

    Attributes:
        operation: What is called.
        args: Its arguments, tensors among them.
        kwargs: Its named arguments.
        outputs: The tensors that come out, those of a structure in the order of `keras.tree`.
    """

    operation: keras.Operation
    args: tuple
    kwargs: dict
    outputs: tuple

    @property
    def inputs(self):
        """The tensors among the arguments."""
        return _tensors((self.args, self.kwargs))

    @property
    def output(self):
        """The tensor that comes out, the first of several."""
        return self.outputs[0]

    def given(self, known):
        """Returns its (args, kwargs) with what `known`, a dict, has in place of tensors."""
        return keras.tree.map_structure(lambda leaf: _known(known, leaf), (self.args, self.kwargs))

    def on(self, known):
        """Returns the call on other tensors, those that `known`, a dict, has in their place."""
        args, kwargs = self.given(known)
        return dataclasses.replace(self, args=args, kwargs=kwargs)


@dataclasses.dataclass(frozen=True)
class Graph:
    """A model as its inputs, its calls in an order in which they can be made, and its outputs.

    Tensors are Keras's symbolic ones: equal to themselves alone, and keys of dicts. That of an
    input has the name of the input's layer.

    Attributes:
        inputs: The model's inputs in their structure.
        calls: A tuple of `Call`.
        outputs: The model's outputs in their structure.
    """

    inputs: object
    calls: tuple[Call, ...]
    outputs: object

    def consumers(self):
        """Returns {tensor: the calls that read it}; None among them for the model's end."""
        found: dict = {}
        for call in self.calls:
            for tensor in call.inputs:
                found.setdefault(tensor, []).append(call)
        for tensor in _tensors(self.outputs):
            found.setdefault(tensor, []).append(None)
        return found


def graph_of(model, role="model", *, open_up=True):
    """Returns the `Graph` of a model, which stays as it is.

    Args:
        model: A built Functional or Sequential model.
        role: What it is called in errors.
        open_up: Whether calls of Functional and Sequential models are replaced by the calls inside
            of them. `training`, where such a model is called with it, is no part of its form.

    Raises:
        ValueError: The model has no graph, as it is subclassed or not built.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"Expected a keras.Model as {role}. Received: {type(model).__name__}.")
    if not has_graph(model):
        raise ValueError(
            f"Expected a built Functional or Sequential {role}. Received: '{model.name}', a "
            f"{type(model).__name__} whose graph is not known. Hint: begin it with an Input, or "
            "write a subclassed model as keras.Model(inputs, outputs)."
        )
    calls: list[Call] = []
    # Tensors that the walk knows as the outputs of a model inside, and those that make them there.
    known: dict = {}

    def run(stand_in, *args, **kwargs):
        outputs = stand_in(*args, **kwargs)
        call = Call(stand_in.operation, args, kwargs, _tensors(outputs)).on(known)
        if open_up and isinstance(call.operation, keras.Model) and has_graph(call.operation):
            inner = _opened_up(call)
            calls.extend(inner.calls)
            known.update(zip(call.outputs, _tensors(inner.outputs), strict=True))
        else:
            calls.append(call)
        return outputs

    inputs, outputs = walk(model, _StandIn, run)
    outputs = keras.tree.map_structure(lambda tensor: _known(known, tensor), outputs)
    return Graph(inputs, tuple(calls), outputs)


def has_graph(model):
    """Returns whether a model's graph is known: it is Functional or Sequential, and built."""
    return heads.symbolic_outputs(model) is not None


def walk(model, stand_in, run):
    """Walks through the calls of a model, in an order in which they can be made.

    Args:
        model: A built Functional or Sequential model.
        stand_in: operation -> the `keras.Operation` that is called in its place. It is asked once
            for each operation, inputs left out.
        run: (stand-in, *args, **kwargs) -> what it gives, called on symbolic tensors.

    Returns:
        (inputs, outputs): the symbolic tensors that the walk began and ended with, in the model's
        structure. Those of the inputs are named as the inputs' layers are.
    """
    ends = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    # Without its class and what it was compiled with, which a clone would have too.
    bare = keras.Model(ends, heads.symbolic_outputs(model), name=model.name)
    names = {
        layer.output: layer.name
        for layer in bare.layers
        if isinstance(layer, keras.layers.InputLayer)
    }

    def input_like(tensor):
        return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=names[tensor])

    inputs = keras.tree.map_structure(input_like, bare.input)
    clone = keras.models.clone_model(
        bare, input_tensors=inputs, clone_function=stand_in, call_function=run
    )
    return inputs, clone.output


class _StandIn(keras.Operation):
    """Stands for an operation, and knows the shapes of what it gives."""

    def __init__(self, operation):
        super().__init__(name=operation.name)
        self.operation = operation

    def compute_output_spec(self, *args, **kwargs):
        told = self.operation.compute_output_spec(*args, **kwargs)
        if isinstance(self.operation, keras.layers.EinsumDense):
            # It tells sizes as they were written, open ones too; its `call` knows them.
            found = keras.Operation.compute_output_spec(self.operation, *args, **kwargs)
            return keras.KerasTensor(found.shape, told.dtype)
        return told


def _opened_up(call):
    """Returns the `Graph` of the model that is called, on the tensors that it is called with."""
    inner = graph_of(call.operation)
    given = call.args[0] if call.args else call.kwargs["inputs"]
    if isinstance(given, dict) and not isinstance(inner.inputs, dict):
        # As Keras does, which takes them by name.
        given = [given[tensor.name] for tensor in _tensors(inner.inputs)]
    known = dict(zip(_tensors(inner.inputs), _tensors(given), strict=True))
    outputs = keras.tree.map_structure(lambda tensor: _known(known, tensor), inner.outputs)
    return Graph(given, tuple(inner_call.on(known) for inner_call in inner.calls), outputs)


def _tensors(structure):
    leaves = keras.tree.flatten(structure)
    return tuple(leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor))


def _known(known, leaf):
    return known.get(leaf, leaf) if isinstance(leaf, keras.KerasTensor) else leaf
