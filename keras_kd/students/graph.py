"""A model's graph as a list of calls, nested models opened up.

Keras has no public way to walk a graph, but `keras.models.clone_model` walks it and hands every
layer and its arguments to functions of ours. They are given stand-ins for the layers, so that the
model's own layers get no new node.
"""

import dataclasses

import keras

from keras_kd import heads
from keras_kd.students import arithmetic


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer or operation.

    Attributes:
        layer: The `keras.Layer` or other `keras.Operation`.
        args: What it is called with; a `Tensor` wherever a tensor stands.
        kwargs: Likewise.
        inputs: The tensors among its arguments.
        outputs: The tensors that it gives.
    """

    layer: keras.Operation
    args: tuple
    kwargs: dict
    inputs: tuple
    outputs: tuple

    @property
    def operands(self):
        """The inputs that are computed with: for attention (query, value, key), without masks."""
        if not isinstance(self.layer, keras.layers.MultiHeadAttention):
            return self.inputs
        named = [self.kwargs.get(name) for name in ("query", "value", "key")[len(self.args) :]]
        return tuple(t for t in (*self.args[:3], *named) if isinstance(t, Tensor))


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the graph, equal to itself alone.

    Attributes:
        shape: Its shape with the batch.
        dtype: Its dtype.
    """

    shape: tuple
    dtype: str


@dataclasses.dataclass(frozen=True)
class Graph:
    """A model as a list of calls.

    Attributes:
        calls: In an order in which they can be run.
        inputs: The model's inputs in their structure, `Tensor` for each.
        outputs: Likewise.
        input_names: The names of the inputs, in the order of that structure.
    """

    calls: list
    inputs: object
    outputs: object
    input_names: tuple


def read(model, role="model"):
    """Reads a model's graph.

    Args:
        model: A built Functional or Sequential model. Nested ones are opened up.
        role: What it is called in errors.

    Returns:
        A `Graph`.

    Raises:
        ValueError: The model has no graph, as it is subclassed or not built.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"Expected a keras.Model as {role}. Received: {type(model).__name__}")
    if heads.symbolic_outputs(model) is None:
        raise ValueError(
            f"Expected a built Functional or Sequential {role}. Received '{model.name}', a "
            f"{type(model).__name__} whose graph is not known. Hint: begin it with an Input, or "
            "write a subclassed model as keras.Model(inputs, outputs)."
        )
    return _Reader().read(model)


class _StandIn(keras.Operation):
    """Stands for a layer, and knows the shapes of what it gives."""

    def __init__(self, layer):
        super().__init__(name=layer.name)
        self.layer = layer

    def compute_output_spec(self, *args, **kwargs):
        found = self.layer.compute_output_spec(*args, **kwargs)
        # Its user may leave sizes open that its input has.
        if isinstance(self.layer, keras.layers.EinsumDense) and arithmetic.inner_units(
            self.layer.equation
        ):
            source = args[0] if args else kwargs["inputs"]
            return keras.KerasTensor((*source.shape[:-1], found.shape[-1]), dtype=found.dtype)
        return found


class _Reader:
    def __init__(self):
        self._calls = []
        self._tensors = {}
        # Symbolic tensors, so that no id is given to another one while we go by ids.
        self._kept = []

    def read(self, model):
        # Without what the model was compiled with, which a clone would be compiled with too.
        bare = keras.Model(
            _symbolic_inputs(model), heads.symbolic_outputs(model), name=f"{model.name}_bare"
        )
        clone = keras.models.clone_model(bare, clone_function=_StandIn, call_function=self._run)
        ends = (keras.tree.map_structure(self._tensor, end) for end in (clone.input, clone.output))
        return Graph(self._calls, *ends, input_names=_input_names(bare))

    def _tensor(self, symbolic):
        if id(symbolic) not in self._tensors:
            self._kept.append(symbolic)
            self._tensors[id(symbolic)] = Tensor(tuple(symbolic.shape), symbolic.dtype)
        return self._tensors[id(symbolic)]

    def _run(self, stand_in, *args, **kwargs):
        layer = stand_in.layer
        outputs = stand_in(*args, **kwargs)
        if isinstance(layer, keras.Model) and heads.symbolic_outputs(layer) is not None:
            self._open_up(layer, args[0] if args else kwargs["inputs"], outputs)
            return outputs
        args, kwargs = keras.tree.map_structure(self._named, (args, kwargs))
        flat = keras.tree.flatten((args, kwargs))
        inputs = tuple(leaf for leaf in flat if isinstance(leaf, Tensor))
        given = tuple(map(self._tensor, keras.tree.flatten(outputs)))
        self._calls.append(Call(layer, args, kwargs, inputs, given))
        return outputs

    def _named(self, value):
        return self._tensor(value) if isinstance(value, keras.KerasTensor) else value

    def _open_up(self, model, inputs, outputs):
        """Adds the calls of a nested model, whose inputs and outputs are the caller's tensors.

        A `training=False` that it is called with, to freeze it, is no part of its form.
        """
        inside = _Reader().read(model)
        outside = map(self._tensor, keras.tree.flatten(inputs))
        same = dict(zip(keras.tree.flatten(inside.inputs), outside, strict=True))
        for symbolic, tensor in zip(
            keras.tree.flatten(outputs), keras.tree.flatten(inside.outputs), strict=True
        ):
            self._kept.append(symbolic)
            self._tensors[id(symbolic)] = same.get(tensor, tensor)
        self._calls.extend(replaced(call, same) for call in inside.calls)


def replaced(call, same):
    """Returns a call with other tensors in place of some.

    Args:
        call: A `Call`.
        same: {tensor: the one to stand in its place}.
    """

    def swap(leaf):
        return same.get(leaf, leaf) if isinstance(leaf, Tensor) else leaf

    args, kwargs = keras.tree.map_structure(swap, (call.args, call.kwargs))
    return dataclasses.replace(call, args=args, kwargs=kwargs, inputs=tuple(map(swap, call.inputs)))


def _symbolic_inputs(model):
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def _input_names(model):
    """Returns the names of a model's inputs, which are those of their layers."""
    names = {
        id(layer.output): layer.name
        for layer in model.layers
        if isinstance(layer, keras.layers.InputLayer)
    }
    return tuple(names[id(tensor)] for tensor in keras.tree.flatten(model.input))
