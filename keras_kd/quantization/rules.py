"""What quantizing means for each kind of layer."""

import enum

import keras

from keras_kd.quantization import device_layers
from keras_kd.quantization.kernels import kernel_of
from keras_kd.quantization.observers import Fixed


class Rule(enum.Enum):
    """How a layer's outputs get onto an integer grid."""

    # It has a kernel, which is rounded; the outputs get a range.
    KERNEL = "kernel"
    # It computes; its outputs get a range.
    RANGE = "range"
    # It is computed within the range of its input, and rounded to that.
    INPUT_RANGE = "input_range"
    # It moves values that are on a grid already.
    SAME_VALUES = "same_values"
    # Its inputs share a range, which is the output's too.
    JOINT_RANGE = "joint_range"
    # It becomes part of the kernel in front of it.
    BATCH_NORM = "batch_norm"


_LAYERS = keras.layers

RULES = {
    _LAYERS.Activation: Rule.RANGE,
    _LAYERS.Add: Rule.RANGE,
    _LAYERS.Embedding: Rule.RANGE,
    _LAYERS.GlobalAveragePooling1D: Rule.RANGE,
    _LAYERS.GlobalAveragePooling2D: Rule.RANGE,
    _LAYERS.LeakyReLU: Rule.RANGE,
    _LAYERS.Multiply: Rule.RANGE,
    _LAYERS.PReLU: Rule.RANGE,
    _LAYERS.ReLU: Rule.RANGE,
    _LAYERS.Rescaling: Rule.RANGE,
    _LAYERS.Softmax: Rule.RANGE,
    _LAYERS.Subtract: Rule.RANGE,
    device_layers.SaturatingReLU: Rule.RANGE,
    _LAYERS.AveragePooling2D: Rule.INPUT_RANGE,
    _LAYERS.Resizing: Rule.INPUT_RANGE,
    _LAYERS.UpSampling2D: Rule.INPUT_RANGE,
    # It moves values too, but the converter has one reshape for all that do the same one to a
    # tensor, which it leaves in float where their ranges are not the next thing behind it.
    _LAYERS.Reshape: Rule.INPUT_RANGE,
    _LAYERS.Cropping1D: Rule.SAME_VALUES,
    _LAYERS.Cropping2D: Rule.SAME_VALUES,
    _LAYERS.Flatten: Rule.SAME_VALUES,
    _LAYERS.GlobalMaxPooling1D: Rule.SAME_VALUES,
    _LAYERS.GlobalMaxPooling2D: Rule.SAME_VALUES,
    _LAYERS.Identity: Rule.SAME_VALUES,
    _LAYERS.InputLayer: Rule.SAME_VALUES,
    _LAYERS.MaxPooling1D: Rule.SAME_VALUES,
    _LAYERS.MaxPooling2D: Rule.SAME_VALUES,
    _LAYERS.Permute: Rule.SAME_VALUES,
    _LAYERS.ZeroPadding1D: Rule.SAME_VALUES,
    _LAYERS.ZeroPadding2D: Rule.SAME_VALUES,
    device_layers.NearestUpsampling: Rule.SAME_VALUES,
    # Of training alone.
    _LAYERS.ActivityRegularization: Rule.SAME_VALUES,
    _LAYERS.Dropout: Rule.SAME_VALUES,
    _LAYERS.GaussianDropout: Rule.SAME_VALUES,
    _LAYERS.GaussianNoise: Rule.SAME_VALUES,
    _LAYERS.RandomBrightness: Rule.SAME_VALUES,
    _LAYERS.RandomContrast: Rule.SAME_VALUES,
    _LAYERS.RandomFlip: Rule.SAME_VALUES,
    _LAYERS.RandomRotation: Rule.SAME_VALUES,
    _LAYERS.RandomTranslation: Rule.SAME_VALUES,
    _LAYERS.RandomZoom: Rule.SAME_VALUES,
    _LAYERS.SpatialDropout1D: Rule.SAME_VALUES,
    _LAYERS.SpatialDropout2D: Rule.SAME_VALUES,
    _LAYERS.Concatenate: Rule.JOINT_RANGE,
    _LAYERS.Maximum: Rule.JOINT_RANGE,
    _LAYERS.Minimum: Rule.JOINT_RANGE,
    _LAYERS.BatchNormalization: Rule.BATCH_NORM,
}

# Functions that the converter makes part of the op in front of them. No value of theirs is below 0.
FUSED = {"relu", "relu6"}
# The ranges that the runtime has for these, whatever was seen, by the bits of its integers: 1/256,
# 1/128 and 1/16 a step of int8, 2^-15 of int16. Sources: the LiteRT 8-bit quantization
# specification, LOGISTIC, SOFTMAX, TANH, LOG_SOFTMAX; `SoftmaxPrepare`, `TanhPrepare` and
# `SigmoidPrepare` in tflite/kernels/activations.cc of google-ai-edge/LiteRT.
_INT16 = (-1.0, 1.0 - 2.0**-15)
FIXED = {
    8: {
        "softmax": (0.0, 255 / 256),
        "sigmoid": (0.0, 255 / 256),
        "tanh": (-1.0, 127 / 128),
        "log_softmax": (-255 / 16, 0.0),
    },
    16: {"softmax": _INT16, "sigmoid": _INT16, "tanh": _INT16},
}
# Functions with an op each. That of silu is a sigmoid and a product; the sigmoid in between is off
# by half of its step of 1/256 at most, which is half a step of the product: its range is as long as
# its largest factor.
OWN_OP = {"exponential", "gelu", "hard_silu", "silu"}


def rule_of(operation):
    """Returns the `Rule` of a layer's kind; None for one that we cannot quantize."""
    if kernel_of(operation) is not None:
        return Rule.KERNEL
    return RULES.get(type(operation))


def activation_of(operation):
    """Returns the name of the function that an activation layer is.

    None for a layer that is none, and "other" for a function that no rule knows.
    """
    if isinstance(operation, device_layers.SaturatingReLU):
        return "relu"
    if isinstance(operation, _LAYERS.ReLU):
        if operation.negative_slope or operation.threshold:
            return "other"
        return {None: "relu", 6.0: "relu6"}.get(operation.max_value, "other")
    if isinstance(operation, _LAYERS.Softmax):
        return "softmax"
    function = getattr(operation, "activation", None)
    if function is None:
        return None
    for name in ("linear", *FUSED, *FIXED[8], *OWN_OP):
        if function == keras.activations.get(name):
            return name
    return "other"


def is_fused(operation):
    """Returns whether the converter makes a layer part of the op in front of it."""
    return isinstance(
        operation, _LAYERS.ReLU | _LAYERS.Activation | device_layers.SaturatingReLU
    ) and (activation_of(operation) in FUSED)


def takes_activation(operation):
    """Returns whether a layer's op is one that a function behind it becomes part of."""
    merges = _LAYERS.Add | _LAYERS.Multiply | _LAYERS.Rescaling | _LAYERS.Subtract
    return rule_of(operation) in (Rule.KERNEL, Rule.BATCH_NORM) or isinstance(operation, merges)


def unfused(operation):
    """Returns what stands for a layer that is part of no op in front of it: mostly itself.

    TFLite Micro's RELU6 in int8 does not carry values over to the range of its outputs
    (tensorflow/lite/micro/kernels/activations_common.cc, `Relu6Quantized`); its RELU does.
    """
    if isinstance(operation, _LAYERS.ReLU | _LAYERS.Activation) and (
        activation_of(operation) == "relu6"
    ):
        return device_layers.SaturatingReLU(6.0, name=f"{operation.name}_unfused")
    return operation


def observer_for(operation, observer, bits):
    """Returns the observer of a layer's outputs: the given one, or the range that is known.

    Args:
        operation: The layer.
        observer: The given one.
        bits: Of the outputs' integer type.
    """
    if isinstance(operation, device_layers.SaturatingReLU):
        return Fixed(0.0, operation.limit)
    fixed = FIXED[bits].get(activation_of(operation))
    return Fixed(*fixed) if fixed else observer
