"""A model's graph as a list of calls, models inside of it dissolved."""

import dataclasses

import keras

from keras_kd.heads import is_functional


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a layer or operation, on symbolic tensors.

    Attributes:
        operation: What is called.
        args: Its arguments, tensors among them.
        kwargs: Its named arguments.
        outputs: What came out: a tensor, or a structure of them.
    """

    operation: keras.Operation
    args: tuple
    kwargs: dict
    outputs: object

    @property
    def inputs(self):
        """The tensors among the arguments."""
        return _tensors((self.args, self.kwargs))


@dataclasses.dataclass(frozen=True)
class Graph:
    """A model without models inside: its inputs, its calls in an order to make them, its outputs.

    Tensors are Keras's symbolic ones and stand for themselves: two are the same if their ids are.
    """

    inputs: object
    calls: tuple[Call, ...]
    outputs: object

    def consumers(self):
        """Returns {tensor id: the calls that read it}; None among them for the model's end."""
        found: dict = {}
        for call in self.calls:
            for tensor in call.inputs:
                found.setdefault(id(tensor), []).append(call)
        for tensor in _tensors(self.outputs):
            found.setdefault(id(tensor), []).append(None)
        return found


def graph_of(model):
    """Returns the `Graph` of a Functional or Sequential model, which stays as it is.

    Raises:
        ValueError: It, or a model inside of it, has a `call` of its own.
    """
    if not (is_functional(model) or isinstance(model, keras.Sequential)) or not model.built:
        raise ValueError(
            f"Expected a built Functional or Sequential model. Received: '{model.name}', a "
            f"{type(model).__name__}. Hint: rebuild it from layers with keras.Model(inputs, "
            "outputs); a Sequential one wants an Input."
        )
    calls: list[Call] = []
    # What a model inside gives, by the id of the tensor that the graph around it knows.
    ends_of: dict = {}

    def run(lent, *args, **kwargs):
        operation, outputs = lent.lender, lent(*args, **kwargs)
        if isinstance(operation, keras.Model):
            inner = graph_of(operation)
            given = _tensors((args, kwargs))
            known = dict(zip(map(id, _tensors(inner.inputs)), given, strict=True))
            calls.extend(_replaced(call, known) for call in inner.calls)
            ends = [_known(known, end) for end in _tensors(inner.outputs)]
            ends_of.update(zip(map(id, _tensors(outputs)), ends, strict=True))
        else:
            calls.append(Call(operation, args, kwargs, outputs))
        return outputs

    lend = _Lenders()
    if isinstance(model, keras.Sequential):
        inputs = outputs = _input_like(model.inputs[0])
        for layer in model.layers:
            outputs = run(lend(layer), outputs)
    else:
        inputs = keras.tree.map_structure(_input_like, model.input)
        outputs = keras.models.clone_model(
            model, input_tensors=inputs, clone_function=lend, call_function=run
        ).output
    for outer, end in ends_of.items():
        ends_of[outer] = _known(ends_of, end)
    outputs = keras.tree.map_structure(lambda x: _known(ends_of, x), outputs)
    return Graph(inputs, tuple(_replaced(call, ends_of) for call in calls), outputs)


class _Lent(keras.Operation):
    """Stands for somebody else's operation in a graph of ours, and leaves no node on it."""

    def __init__(self, lender):
        super().__init__(name=lender.name)
        self.lender = lender

    def call(self, *args, **kwargs):
        return self.lender(*args, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        return self.lender.compute_output_spec(*args, **kwargs)


class _Lenders:
    """Makes one `_Lent` for each operation."""

    def __init__(self):
        self._made = {}

    def __call__(self, operation):
        return self._made.setdefault(id(operation), _Lent(operation))


def _input_like(tensor):
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)


def _tensors(structure):
    return [x for x in keras.tree.flatten(structure) if isinstance(x, keras.KerasTensor)]


def _known(known, tensor):
    return known.get(id(tensor), tensor)


def _replaced(call, known):
    args, kwargs = keras.tree.map_structure(lambda x: _known(known, x), (call.args, call.kwargs))
    return dataclasses.replace(call, args=args, kwargs=kwargs)
