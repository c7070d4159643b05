"""Which Keras 3 layers have the same layer in tf_keras, and what its arguments are called there."""

import inspect

import keras

from keras_kd.quantization.tfmot.packages import tf_keras

_OUTPUT = ("activation", "activity_regularizer", "use_bias", "bias_regularizer")
_WINDOW = ("strides", "padding", "data_format")
_KERNEL = ("kernel_size", *_WINDOW, "dilation_rate", *_OUTPUT)
_POOLING = ("pool_size", *_WINDOW)
_GLOBAL_POOLING = ("data_format", "keepdims")

# The arguments of each layer; "name" and "trainable" go along for all.
_ARGUMENTS = {
    "Activation": ("activation",),
    "Add": (),
    "Average": (),
    "AveragePooling1D": _POOLING,
    "AveragePooling2D": _POOLING,
    "BatchNormalization": (
        "axis",
        "momentum",
        "epsilon",
        "center",
        "scale",
        "beta_regularizer",
        "gamma_regularizer",
    ),
    "Concatenate": ("axis",),
    "Conv1D": ("filters", "groups", "kernel_regularizer", *_KERNEL),
    "Conv2D": ("filters", "groups", "kernel_regularizer", *_KERNEL),
    "Conv2DTranspose": ("filters", "output_padding", "kernel_regularizer", *_KERNEL),
    "Cropping1D": ("cropping",),
    "Cropping2D": ("cropping", "data_format"),
    "Dense": ("units", "kernel_regularizer", *_OUTPUT),
    "DepthwiseConv2D": ("depth_multiplier", "depthwise_regularizer", *_KERNEL),
    "Dropout": ("rate", "noise_shape", "seed"),
    "ELU": ("alpha",),
    "Embedding": ("input_dim", "output_dim", "embeddings_regularizer"),
    "Flatten": ("data_format",),
    "GlobalAveragePooling1D": _GLOBAL_POOLING,
    "GlobalAveragePooling2D": _GLOBAL_POOLING,
    "GlobalMaxPooling1D": _GLOBAL_POOLING,
    "GlobalMaxPooling2D": _GLOBAL_POOLING,
    "LayerNormalization": (
        "axis",
        "epsilon",
        "center",
        "scale",
        "beta_regularizer",
        "gamma_regularizer",
    ),
    "LeakyReLU": ("negative_slope",),
    "MaxPooling1D": _POOLING,
    "MaxPooling2D": _POOLING,
    "Maximum": (),
    "Minimum": (),
    "Multiply": (),
    "PReLU": ("shared_axes", "alpha_regularizer"),
    "Permute": ("dims",),
    "ReLU": ("max_value", "negative_slope", "threshold"),
    "RepeatVector": ("n",),
    "Rescaling": ("scale", "offset"),
    "Reshape": ("target_shape",),
    "SeparableConv1D": (
        "filters",
        "depth_multiplier",
        "depthwise_regularizer",
        "pointwise_regularizer",
        *_KERNEL,
    ),
    "SeparableConv2D": (
        "filters",
        "depth_multiplier",
        "depthwise_regularizer",
        "pointwise_regularizer",
        *_KERNEL,
    ),
    "Softmax": ("axis",),
    "SpatialDropout1D": ("rate",),
    "SpatialDropout2D": ("rate", "data_format"),
    "Subtract": (),
    "UpSampling1D": ("size",),
    "UpSampling2D": ("size", "data_format", "interpolation"),
    "ZeroPadding1D": ("padding",),
    "ZeroPadding2D": ("padding", "data_format"),
}
_RENAMED = {("LeakyReLU", "negative_slope"): "alpha"}
# tf_keras's name of each activation that is the same function there; its hard_sigmoid, for one, is
# another.
_ACTIVATIONS = {
    name: name
    for name in (
        "elu",
        "exponential",
        "gelu",
        "linear",
        "mish",
        "relu",
        "selu",
        "sigmoid",
        "softmax",
        "softplus",
        "softsign",
        "tanh",
    )
} | {"silu": "swish"}
_REGULARIZERS = ("L1", "L2", "L1L2")


def supported():
    """Returns the names of the Keras 3 layers that a twin can hold."""
    return tuple(_ARGUMENTS)


def twin_of(layer):
    """Returns the tf_keras layer that computes what a Keras 3 layer does, without its weights.

    Initializers are left out, since the weights are copied.

    Args:
        layer: A Keras 3 layer, no model.

    Raises:
        ValueError: If it has no such layer, or an argument that tf_keras cannot honour.
    """
    kind = type(layer).__name__
    if not isinstance(layer, keras.Layer):
        raise ValueError(
            f"Expected layers alone. Received: the operation {kind} '{layer.name}', which has no "
            f"layer in tf_keras. Hint: keras.layers.Add and its like do what x + y does."
        )
    if kind not in _ARGUMENTS or type(layer) is not getattr(keras.layers, kind):
        raise ValueError(
            f"Expected layers that tf_keras has too. Received: {kind} '{layer.name}', whose "
            f"counterpart there is unknown or not known to compute the same. Hint: those known "
            f"are {', '.join(_ARGUMENTS)}."
        )
    policy = layer.dtype_policy.name
    if policy != "float32":
        raise ValueError(
            f"Expected layers in float32, which tensorflow-model-optimization works on. Received: "
            f"{kind} '{layer.name}' in {policy}. Hint: build the student in float32 and copy the "
            "weights."
        )
    arguments = {"name": layer.name, "trainable": layer.trainable}
    for key, value in layer.get_config().items():
        if key in ("name", "trainable", "dtype") or key.endswith("initializer"):
            continue
        if key in _ARGUMENTS[kind]:
            arguments[_RENAMED.get((kind, key), key)] = _value(layer, key, value)
        elif value not in (None, False, _default(layer, key)):
            raise _refused(layer, key, value)
    return getattr(tf_keras.layers, kind)(**arguments)


def _value(layer, key, value):
    if value is None:
        return None
    if key == "activation":
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            raise _refused(layer, key, value)
        return _ACTIVATIONS[value]
    if key.endswith("regularizer"):
        kind = value["class_name"] if isinstance(value, dict) else value
        if kind not in _REGULARIZERS or not isinstance(value, dict):
            raise _refused(layer, key, kind)
        return getattr(tf_keras.regularizers, kind)(**value["config"])
    return value


def _default(layer, key):
    """Returns the default of an argument, None for what has none."""
    if key == "data_format":
        # What tf_keras has where its layer lacks the argument.
        return "channels_last"
    parameter = inspect.signature(type(layer)).parameters.get(key)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def _refused(layer, key, value):
    return ValueError(
        f"Expected layers with arguments that tf_keras has too. Received: {key}={value!r} of "
        f"{type(layer).__name__} '{layer.name}'. Hint: activations can be "
        f"{', '.join(_ACTIVATIONS)}; regularizers {', '.join(_REGULARIZERS)}."
    )
