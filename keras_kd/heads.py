"""What the last layer of a model says: logits, or probabilities by softmax or sigmoid.

A tempered distillation loss needs logits. A model that ends in softmax or sigmoid gives
probabilities, and a second softmax over them would flatten every target, so the activation is
looked up and undone, never applied twice.
"""

import keras
from keras import ops

from keras_kd.numerics import at_least_float32

LINEAR, SOFTMAX, SIGMOID = "linear", "softmax", "sigmoid"


class Transparent:
    """A mark on layers of ours that hand on what they get: its activation is behind them."""


# Layers that hand on what they get: the activation is that of what comes before.
_TRANSPARENT = (
    keras.layers.Identity,
    keras.layers.Reshape,
    keras.layers.Dropout,
    Transparent,
)


def activations(model):
    """Finds the activation behind each output of a model.

    Args:
        model: A Keras model.

    Returns:
        The structure of the model's outputs, with `"softmax"`, `"sigmoid"`, `"linear"`, or the name
        of another activation in place of each; None if the model has no graph to look at (a
        subclassed or an unbuilt model).
    """
    outputs = symbolic_outputs(model)
    if outputs is None:
        return None
    return keras.tree.map_structure(_activation_of_tensor, outputs)


def symbolic_outputs(model):
    """Returns the symbolic outputs of a model in their structure, None where it has no graph."""
    if isinstance(model, keras.Sequential):
        return model.outputs[0] if model.built and model.outputs else None
    return model.output if is_functional(model) else None


def is_functional(model):
    """Returns whether the graph of a model tells all that calling it does.

    True for `keras.Model(inputs, outputs)` and subclasses of it that leave `call` alone.
    """
    if not isinstance(model, keras.Function):
        return False
    owner = next(cls for cls in type(model).__mro__ if "call" in vars(cls))
    return keras.Function in owner.__bases__


def logits(output, activation):
    """Turns an output of a model back into logits, in float32 at least.

    Args:
        output: Shape [batch, ..., units].
        activation: `"linear"` (it holds logits), `"softmax"` or `"sigmoid"`.

    Returns:
        Same shape. For softmax the logits are those up to a constant per row.
    """
    if activation == LINEAR:
        return at_least_float32(output)
    # Exact where the probabilities have underflowed to 0 and would give no gradient.
    cached = cached_logits(output)
    if cached is not None:
        return at_least_float32(cached)
    probabilities = at_least_float32(output)
    # The smallest normal float32; without the logits an underflowed probability is at its floor.
    floor = 1.2e-38
    if activation == SOFTMAX:
        return ops.log(ops.maximum(probabilities, floor))
    return ops.log(ops.maximum(probabilities, floor)) - ops.log(
        ops.maximum(1.0 - probabilities, floor)
    )


def cached_logits(output):
    """Returns the logits that Keras's softmax or sigmoid left on its result, else None.

    Keras keeps them for its own cross-entropies. The attribute is private; tests/test_heads.py
    fails when it moves.
    """
    return getattr(output, "_keras_logits", None)


def with_logits_of(output, source):
    """Returns `output` with the logits that are on `source`, the same values but for rounding."""
    cached = cached_logits(source)
    if cached is not None:
        output._keras_logits = cached
    return output


def alike(output, function):
    """Returns `function(output)`, with the logits behind it treated alike.

    Args:
        output: Shape [batch, ..., units].
        function: A callable from a tensor to a tensor that acts on probabilities as on logits: it
            selects rows or units.
    """
    result, cached = function(output), cached_logits(output)
    if cached is not None:
        result._keras_logits = function(cached)
    return result


def of_classes(output, classes):
    """Returns an output for some of its classes; a softmax over them is the renormalised one.

    Args:
        output: Logits or probabilities, shape [batch, ..., units].
        classes: Numbers of units.

    Returns:
        Shape [batch, ..., len(classes)].
    """
    return alike(output, lambda tensor: ops.take(tensor, list(classes), axis=-1))


def activation_left_on(output):
    """Returns the activation that a tensor itself tells of; None if it tells of none.

    Softmax and sigmoid both leave their logits; one unit is taken for a sigmoid, several for a
    softmax.
    """
    if cached_logits(output) is None:
        return None
    return SIGMOID if output.shape[-1] == 1 else SOFTMAX


def looks_like_probabilities(output):
    """Returns whether concrete outputs are rows of probabilities: in [0, 1] and summing to 1.

    Args:
        output: Shape [batch, ..., units]. A tensor without values (symbolic, or of a graph that is
            being traced) does not look like anything.
    """
    if not hasattr(output, "numpy"):
        return False
    output = keras.ops.convert_to_numpy(output)
    if output.ndim < 2 or output.shape[-1] < 2 or not output.size:
        return False
    # Rows that softmax made sum to 1 within float16's rounding (2^-11 a term); logits do not.
    sums = output.astype("float64").sum(axis=-1)
    return bool((output >= 0).all() and (abs(sums - 1.0) < 1e-2).all())


def _activation_of_tensor(tensor):
    # `_keras_history` is how Keras itself walks a graph; tests/test_heads.py fails when it moves.
    operation, _, index = tensor._keras_history
    if isinstance(operation, _TRANSPARENT):
        return _activation_of_tensor(operation.input)
    if isinstance(operation, keras.Model):
        outputs = symbolic_outputs(operation)
        if outputs is None:
            return LINEAR
        return _activation_of_tensor(keras.tree.flatten(outputs)[index])
    return _activation_of_operation(operation)


def _activation_of_operation(operation):
    if isinstance(operation, keras.layers.TimeDistributed):
        return _activation_of_operation(operation.layer)
    if isinstance(operation, keras.layers.Softmax):
        return SOFTMAX if operation.axis in (-1, operation.output.ndim - 1) else "softmax over axis"
    function = getattr(operation, "activation", None)
    if function is None:
        # `keras.ops.softmax` and its like are operations named for what they do.
        name = type(operation).__name__.lower()
        known = (SOFTMAX, SIGMOID, "relu", "relu6", "leakyrelu", "elu", "prelu", "tanh")
        return name if name in known else LINEAR
    name = getattr(function, "__name__", type(function).__name__)
    # The logarithm of a softmax is a set of logits: its own softmax is the same distribution.
    return LINEAR if name == "log_softmax" else name
