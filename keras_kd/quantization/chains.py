"""Layers that are several ops on the device, or another one, as chains of layers of an op each."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_kd.quantization import device_layers
from keras_kd.quantization.kernels import kernel_of
from keras_kd.quantization.operations import layer_like

_LAYERS = keras.layers

# Of these, two tensors make an op.
PAIRWISE = (_LAYERS.Add, _LAYERS.Multiply)


def chain_of(call):
    """Returns the layers that a call comes to, the first of which takes its tensors.

    None for a layer that has an op of its own, or that none is known for.
    """
    if not isinstance(call.operation, keras.Layer):
        layer = layer_like(call)
        if layer is None:
            return None
        call = dataclasses.replace(call, operation=layer, args=call.inputs, kwargs={})
        return chain_of(call) or [layer]
    layer = call.operation
    if getattr(layer, "data_format", None) == "channels_first":
        return None
    if type(layer) in CHAINS:
        return CHAINS[type(layer)](call)
    if kernel_of(layer) is not None and has_activation(layer):
        return [copy_of(layer, activation=None), *_activation(layer)]
    return None


def copy_of(operation, **changes):
    """Returns a new layer with the configuration, but for changes, and the values of another."""
    # The function of a Lambda is the caller's own, not that of a file.
    trusted = {"safe_mode": False} if isinstance(operation, _LAYERS.Lambda) else {}
    copy = type(operation).from_config({**operation.get_config(), **changes}, **trusted)
    if isinstance(operation, keras.Layer) and operation.built and operation.weights:
        copy.build_from_config(operation.get_build_config())
        copy.set_weights(operation.get_weights())
    return copy


def has_activation(layer):
    """Returns whether a layer ends in a function that is not the identity."""
    activation = getattr(layer, "activation", None)
    return activation is not None and activation is not keras.activations.linear


def is_over_channels(axis, tensor):
    """Returns whether a layer's axis, or its only one, is the last one of a tensor."""
    axes = axis if isinstance(axis, list | tuple) else [axis]
    return [a % len(tensor.shape) for a in axes] == [len(tensor.shape) - 1]


def _activation(layer):
    """Returns what an activation within a layer comes to behind it."""
    if not has_activation(layer):
        return []
    name = getattr(layer.activation, "__name__", type(layer.activation).__name__)
    behind = _LAYERS.Activation(layer.activation, name=f"{layer.name}_{name}")
    return _hard_sigmoid(behind) or [behind]


def _hard_sigmoid(layer):
    if layer.activation is not keras.activations.hard_sigmoid:
        return None
    # clip(x / 6 + 1/2, 0, 1) as clip(x + 3, 0, 6) / 6: the clipping is part of the sum.
    return [
        _LAYERS.Rescaling(1.0, 3.0, name=f"{layer.name}_shifted"),
        _LAYERS.ReLU(6.0, name=f"{layer.name}_clipped"),
        _LAYERS.Rescaling(1 / 6, name=layer.name),
    ]


def _like(layer, name):
    return {"name": name, "dtype": layer.dtype_policy, "trainable": layer.trainable}


def _separable(call):
    layer, shape = call.operation, call.inputs[0].shape
    one_axis = len(layer.kernel_size) == 1
    depthwise_class, pointwise_class = (
        (_LAYERS.DepthwiseConv1D, _LAYERS.Conv1D)
        if one_axis
        else (_LAYERS.DepthwiseConv2D, _LAYERS.Conv2D)
    )
    depthwise = depthwise_class(
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        depth_multiplier=layer.depth_multiplier,
        dilation_rate=layer.dilation_rate,
        use_bias=False,
        depthwise_regularizer=layer.depthwise_regularizer,
        depthwise_constraint=layer.depthwise_constraint,
        **_like(layer, f"{layer.name}_depthwise"),
    )
    pointwise = pointwise_class(
        layer.filters,
        1,
        use_bias=layer.use_bias,
        kernel_regularizer=layer.pointwise_regularizer,
        kernel_constraint=layer.pointwise_constraint,
        bias_regularizer=layer.bias_regularizer,
        bias_constraint=layer.bias_constraint,
        **_like(layer, layer.name),
    )
    depthwise.build(shape)
    pointwise.build(depthwise.compute_output_shape(shape))
    kernel, *others = layer.get_weights()
    depthwise.set_weights([kernel])
    pointwise.set_weights(others)
    return [depthwise, pointwise, *_activation(layer)]


def _lone_norm(call):
    """A BatchNormalization behind a depthwise convolution of ones: one op, and one rounding."""
    norm, tensor = call.operation, call.inputs[0]
    if not is_over_channels(norm.axis, tensor) or len(tensor.shape) > 4:
        return None
    inner = _inner(tensor)
    norm = type(norm).from_config({**norm.get_config(), "axis": -1})
    norm.build((None, *inner))
    norm.set_weights(call.operation.get_weights())
    ones = np.ones(inner[-1])
    return _with_axes(call, [_scaling(norm, inner, ones, None, f"{norm.name}_kernel"), norm])


def _affine(call, scale, offset):
    """X * scale + offset, with a number for each channel: one op, and one rounding."""
    layer, inner = call.operation, _inner(call.inputs[0])
    values = [np.broadcast_to(np.ravel(x), inner[-1:]) for x in (scale, offset)]
    return _with_axes(call, [_scaling(layer, inner, *values, layer.name)])


def _scaling(layer, inner, scale, offset, name):
    """Returns the depthwise convolution that multiplies each channel, and adds to it."""
    one_axis = len(inner) == 2
    depthwise = (_LAYERS.DepthwiseConv1D if one_axis else _LAYERS.DepthwiseConv2D)(
        1, use_bias=offset is not None, **_like(layer, name)
    )
    # Its numbers are those of a layer that does not learn them.
    depthwise.trainable = False
    depthwise.build((None, *inner))
    kernel = np.reshape(scale, depthwise.kernel.shape)
    depthwise.set_weights([kernel] if offset is None else [kernel, offset])
    return depthwise


def _inner(tensor):
    """Returns a tensor's shape without the batch, with the axes that a convolution wants."""
    shape = tuple(tensor.shape[1:])
    return (1, 1, *shape) if len(shape) == 1 else shape


def _with_axes(call, chain):
    shape, inner = tuple(call.inputs[0].shape[1:]), _inner(call.inputs[0])
    if shape == inner:
        return chain
    name = call.operation.name
    return [
        _LAYERS.Reshape(inner, name=f"{name}_with_axes"),
        *chain,
        _LAYERS.Reshape(shape, name=f"{name}_without_axes"),
    ]


def _rescaling(call):
    layer = call.operation
    scale, offset = np.asarray(layer.scale), np.asarray(layer.offset)
    if np.all(offset == 0) or np.all(scale == 1):
        return None
    return _affine(call, scale, offset) if _is_by_channel(call, scale, offset) else None


def _normalization(call):
    layer = call.operation
    mean, variance = (ops.convert_to_numpy(x) for x in (layer.mean, layer.variance))
    if layer.invert or not _is_by_channel(call, mean, variance):
        return None
    scale = 1.0 / np.maximum(np.sqrt(variance), keras.config.epsilon())
    return _affine(call, scale, -mean * scale)


def _is_by_channel(call, *values):
    """Returns whether values that are broadcast to a tensor are one number for each channel."""
    tensor = call.inputs[0]
    return len(tensor.shape) <= 4 and all(
        value.size == 1 or value.size == value.shape[-1] == tensor.shape[-1] for value in values
    )


def _relu(call):
    layer = call.operation
    if layer.threshold or (layer.negative_slope and layer.max_value is not None):
        return None
    if layer.negative_slope:
        return [_LAYERS.LeakyReLU(layer.negative_slope, name=layer.name)]
    if layer.max_value in (None, 6):
        return None
    return [device_layers.SaturatingReLU(layer.max_value, name=layer.name)]


def _average(call):
    name = call.operation.name
    return [_LAYERS.Add(name=f"{name}_sum"), _LAYERS.Rescaling(1 / len(call.inputs), name=name)]


def _several(call):
    """A sum of more than two; see `PAIRWISE`."""
    return [copy_of(call.operation)] if len(call.inputs) > 2 else None


def _upsampling(call):
    layer = call.operation
    if layer.interpolation != "nearest":
        return None
    return [device_layers.NearestUpsampling(layer.size, name=layer.name)]


def _upsampling_1d(call):
    layer, (steps, channels) = call.operation, call.inputs[0].shape[1:]
    upsampling = device_layers.NearestUpsampling((1, layer.size), name=layer.name)
    return _as_row(call, upsampling, (layer.size * steps, channels))


def _repeating(call):
    layer, channels = call.operation, call.inputs[0].shape[-1]
    repeating = device_layers.NearestUpsampling((1, layer.n), name=layer.name)
    return _as_row(call, repeating, (layer.n, channels))


def _pooling_1d(call):
    layer = call.operation
    pooling = _LAYERS.AveragePooling2D(
        (1, *layer.pool_size), (1, *layer.strides), layer.padding, name=layer.name
    )
    return _as_row(call, pooling, layer.compute_output_shape(call.inputs[0].shape)[1:])


def _as_row(call, layer, shape):
    """Returns a layer of images with a sequence as an image of one row around it.

    Keras makes an image of one column in the layer itself. The converter has one reshape for all
    layers that do so to a tensor, and leaves it in float if one of them is a pooling.
    """
    name, channels = call.operation.name, call.inputs[0].shape[-1]
    return [
        _LAYERS.Reshape((1, -1, channels), name=f"{name}_row"),
        layer,
        _LAYERS.Reshape(shape, name=f"{name}_sequence"),
    ]


CHAINS = {
    _LAYERS.SeparableConv1D: _separable,
    _LAYERS.SeparableConv2D: _separable,
    _LAYERS.BatchNormalization: _lone_norm,
    _LAYERS.Rescaling: _rescaling,
    _LAYERS.Normalization: _normalization,
    _LAYERS.Activation: lambda call: _hard_sigmoid(call.operation),
    _LAYERS.ReLU: _relu,
    _LAYERS.Average: _average,
    _LAYERS.Add: _several,
    _LAYERS.Multiply: _several,
    _LAYERS.UpSampling1D: _upsampling_1d,
    _LAYERS.UpSampling2D: _upsampling,
    _LAYERS.RepeatVector: _repeating,
    _LAYERS.AveragePooling1D: _pooling_1d,
}
