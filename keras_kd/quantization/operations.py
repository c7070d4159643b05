"""Operations in a functional model, `x + y` or `keras.ops.relu(x)`, as layers that do the same."""

import functools
import numbers

import keras
from keras import ops

_LAYERS = keras.layers


def layer_like(call):
    """Returns the layer that does what an operation does to the tensors of its call, or None.

    Args:
        call: A `Call` of an operation that is no layer.
    """
    make = _makers().get(type(call.operation))
    return None if make is None else make(call)


@functools.cache
def _makers():
    """Returns {class of an operation: call -> layer or None}.

    The classes have no public names: each is taken from a model that calls its function.
    """
    x = keras.Input((4, 4, 4))
    examples = {
        ops.add(x, x): _merge(_LAYERS.Add, lambda place, n: (1.0, n)),
        ops.subtract(x, x): _merge(
            _LAYERS.Subtract, lambda place, n: (-1.0, n) if place == 0 else (1.0, -n)
        ),
        ops.multiply(x, x): _merge(_LAYERS.Multiply, lambda place, n: (n, 0.0)),
        ops.divide(x, x): _merge(None, _quotient),
        ops.true_divide(x, x): _merge(None, _quotient),
        ops.maximum(x, x): _merge(_LAYERS.Maximum, None),
        ops.minimum(x, x): _merge(_LAYERS.Minimum, None),
        ops.negative(x): lambda call: _LAYERS.Rescaling(-1.0, name=call.operation.name),
        keras.activations.relu(x): _relu,
        ops.softmax(x): lambda call: _LAYERS.Softmax(call.operation.axis, name=call.operation.name),
        ops.leaky_relu(x): lambda call: _LAYERS.LeakyReLU(
            call.operation.negative_slope, name=call.operation.name
        ),
        ops.gelu(x): _gelu,
        ops.mean(x): _mean,
        ops.concatenate([x, x]): lambda call: _LAYERS.Concatenate(
            call.operation.axis, name=call.operation.name
        ),
        ops.transpose(x): _transposition,
        ops.reshape(x, (-1, 64)): _reshaping,
        ops.expand_dims(x, 1): _reshaping,
        ops.squeeze(x[:, :1], 1): _reshaping,
        **{
            getattr(ops, name)(x): _activation(activation)
            for name, activation in {
                "exp": "exponential",
                "hard_sigmoid": "hard_sigmoid",
                "hard_silu": "hard_silu",
                "relu": "relu",
                "relu6": "relu6",
                "sigmoid": "sigmoid",
                "silu": "silu",
                "tanh": "tanh",
            }.items()
        },
    }
    return {type(keras.Model(x, y).operations[-1]): make for y, make in examples.items()}


def _activation(name):
    return lambda call: _LAYERS.Activation(name, name=call.operation.name)


def _relu(call):
    operation = call.operation
    return _LAYERS.ReLU(
        operation.max_value, operation.negative_slope, operation.threshold, name=operation.name
    )


def _gelu(call):
    return None if call.operation.approximate else _activation("gelu")(call)


def _merge(layer_class, rescaling):
    """Returns what makes a layer of two tensors, and a Rescaling of a tensor and a number.

    Args:
        layer_class: Of the layer, or None.
        rescaling: (place of the number, number) -> (scale, offset), or None; or None.
    """

    def make(call):
        name = call.operation.name
        if len(call.inputs) == 2:
            return layer_class and layer_class(name=name)
        found = [(i, x) for i, x in enumerate(call.args) if isinstance(x, numbers.Real)]
        if rescaling is None or len(call.inputs) != 1 or len(found) != 1:
            return None
        parameters = rescaling(*found[0])
        return parameters and _LAYERS.Rescaling(*parameters, name=name)

    return make


def _quotient(place, number):
    return None if place == 0 else (1.0 / number, 0.0)


def _mean(call):
    (tensor,), operation = call.inputs, call.operation
    rank = len(tensor.shape)
    axes = operation.axis if isinstance(operation.axis, list | tuple) else [operation.axis]
    layer_class = {3: _LAYERS.GlobalAveragePooling1D, 4: _LAYERS.GlobalAveragePooling2D}.get(rank)
    if layer_class is None or None in axes:
        return None
    if sorted(axis % rank for axis in axes) != list(range(1, rank - 1)):
        return None
    return layer_class("channels_last", keepdims=operation.keepdims, name=operation.name)


def _transposition(call):
    axes = call.operation.axes
    if axes is None or axes[0] != 0:
        return None
    return _LAYERS.Permute(axes[1:], name=call.operation.name)


def _reshaping(call):
    (tensor,) = call.inputs
    if call.output.shape[0] != tensor.shape[0] or None in call.output.shape[1:]:
        return None
    return _LAYERS.Reshape(call.output.shape[1:], name=call.operation.name)
