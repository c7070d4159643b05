"""Why a layer cannot be quantized."""

import keras
import numpy as np

from keras_kd.quantization.rules import Rule, activation_of, rule_of

_LAYERS = keras.layers

_FLOAT = "TensorFlow's converter leaves it in float"
_SEVERAL = "as integers it is several ops whose errors add up to more than a step"
_STATE = "its state would want a range in every step"
_MASK = "the device's ops know no masks"
_OWN_CALL = "it has a call of its own: rebuild it from layers with keras.Model(inputs, outputs)"

# Functions whose ops are of int8 alone.
_WITHOUT_INT16 = ("hard_silu", "log_softmax")

REFUSED = {
    _LAYERS.ELU: _FLOAT,
    _LAYERS.Attention: _SEVERAL,
    _LAYERS.AdditiveAttention: _SEVERAL,
    _LAYERS.GroupQueryAttention: _SEVERAL,
    _LAYERS.MultiHeadAttention: _SEVERAL,
    _LAYERS.GroupNormalization: _SEVERAL,
    _LAYERS.LayerNormalization: _SEVERAL,
    _LAYERS.RMSNormalization: _SEVERAL,
    _LAYERS.UnitNormalization: _SEVERAL,
    _LAYERS.Bidirectional: _STATE,
    _LAYERS.ConvLSTM1D: _STATE,
    _LAYERS.ConvLSTM2D: _STATE,
    _LAYERS.GRU: _STATE,
    _LAYERS.LSTM: _STATE,
    _LAYERS.RNN: _STATE,
    _LAYERS.SimpleRNN: _STATE,
    _LAYERS.Lambda: "what it computes is not known",
    _LAYERS.Masking: _MASK,
    _LAYERS.TimeDistributed: "call the layer within it on the sequence, or Reshape around it",
}


def refusal(call, in_kernel, scheme):
    """Returns why a call cannot be quantized: None where it can, "" where no more is known.

    Args:
        call: A `Call` of a lowered graph.
        in_kernel: Whether it is a BatchNormalization that becomes part of a kernel.
        scheme: The `Scheme` of the student.
    """
    operation, rule = call.operation, rule_of(call.operation)
    if isinstance(operation, keras.Model):
        return _OWN_CALL
    if rule is None:
        return REFUSED.get(type(operation), "")
    if getattr(operation, "data_format", None) == "channels_first":
        return "devices have the channels last"
    for reason in (
        _about_inputs(call, rule),
        _about_options(call, rule, in_kernel),
        _about_int16(call) if scheme.activation_bits == 16 else None,
    ):
        if reason is not None:
            return reason
    return None


def _about_inputs(call, rule):
    whole = [x for x in call.inputs if not keras.backend.is_float_dtype(x.dtype)]
    if isinstance(call.operation, _LAYERS.Embedding):
        return None if whole else 'tokens are no floats: keras.Input(..., dtype="int32")'
    if whole and rule not in (Rule.SAME_VALUES, Rule.INPUT_RANGE):
        return "it reads integers, which have no range: give it a float Input"
    return None


def _about_options(call, rule, in_kernel):
    operation = call.operation
    if rule is Rule.BATCH_NORM and not in_kernel:
        return "its channels are not the last of at most four axes"
    if rule is Rule.RANGE and activation_of(operation) == "other":
        function = getattr(operation, "activation", None)
        return f"of {getattr(function, '__name__', 'these arguments')}: {_FLOAT}"
    if isinstance(operation, _LAYERS.Embedding) and operation.mask_zero:
        return f"{_MASK}: mask_zero=False"
    if isinstance(operation, _LAYERS.Rescaling):
        scale, offset = np.asarray(operation.scale), np.asarray(operation.offset)
        if np.any(scale != 1) and np.any(offset != 0):
            return "its numbers are not one for each channel of at most four axes"
    return _about_interpolation(operation)


def _about_int16(call):
    operation = call.operation
    if activation_of(operation) in _WITHOUT_INT16:
        return f"of {activation_of(operation)}: LiteRT has no kernel of int16 for it"
    if isinstance(operation, _LAYERS.PReLU):
        return "LiteRT's kernel of int16 wants slopes of 8 bits, which training does not round"
    if getattr(operation, "interpolation", None) == "bilinear":
        sizes = zip(call.inputs[0].shape[1:3], call.output.shape[1:3], strict=True)
        # It has the ratio of the sizes, and half of it, in steps of 2^-10 (`ResizeBilinearInteger`,
        # tflite/kernels/internal/reference/resize_bilinear.h of google-ai-edge/LiteRT).
        if any(before is None or 2**10 * before % (2 * after) for before, after in sizes):
            return "LiteRT's kernel of int16 has 10 bits for a place: enlarge by a power of 2"
    return None


def _about_interpolation(operation):
    if not isinstance(operation, _LAYERS.Resizing | _LAYERS.UpSampling2D):
        return None
    if operation.interpolation not in ("nearest", "bilinear"):
        return f"devices have no {operation.interpolation} interpolation"
    more = ("antialias", "crop_to_aspect_ratio", "pad_to_aspect_ratio")
    if any(operation.get_config().get(option) for option in more):
        return "it does more than resize"
    return None
