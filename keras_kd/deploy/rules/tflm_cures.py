"""What to do about an op that TFLite Micro does not run."""

from __future__ import annotations

from collections.abc import Iterable

_RECURRENT = (
    "Make the layer one fused UNIDIRECTIONAL_SEQUENCE_LSTM, or unroll it (unroll=True): unrolled, "
    "it is made of ops that TFLM has."
)
_STATIC = (
    "It computes a shape: convert at a fixed batch of 1 and fixed input sizes, as "
    "keras_kd.deploy.convert does, and it is gone."
)
_SPECTRUM = (
    "Compute the spectrum before the model: TFLM has Signal ops for it, and so has CMSIS-DSP."
)
_AFTERWARDS = "Let the model end before it, and do it in the application."
_THREE_DIMENSIONAL = (
    "Use Conv2D frame by frame (TimeDistributed), or a Conv2D over space and a Conv1D over time."
)

# What Keras models run into; by op.
_MISSING = {
    "GELU": "Use ReLU6 (keras.layers.ReLU(6.0)) or keras.activations.hard_silu, which is "
    "HARD_SWISH in TFLM, and train again for a few epochs.",
    "SELECT": "Write keras.ops.where(c, a, b) as c * a + (1 - c) * b, or let c broadcast: "
    "that is SELECT_V2, which TFLM has for float32, int8 and int16.",
    "REDUCE_PROD": _STATIC,
    "RANGE": _STATIC,
    "RANK": _STATIC,
    "WHERE": "Replace the choice of elements by a multiplication with a mask of 0 and 1.",
    "TILE": "Let the next op broadcast, or use Concatenate or UpSampling2D.",
    "POW": "Write x * x for squares, keras.ops.sqrt for roots.",
    "SIGN": "Write x / maximum(abs(x), 1e-6), or leave it to the application.",
    "ONE_HOT": "Hand the one-hot vector over as the input.",
    "TOPK_V2": _AFTERWARDS,
    "UNIQUE": _AFTERWARDS,
    "NON_MAX_SUPPRESSION_V4": _AFTERWARDS,
    "NON_MAX_SUPPRESSION_V5": _AFTERWARDS,
    "CONV_3D": _THREE_DIMENSIONAL,
    "CONV_3D_TRANSPOSE": _THREE_DIMENSIONAL,
    "RELU_N1_TO_1": "Use ReLU6 (keras.layers.ReLU(6.0)) or tanh.",
    "RELU_0_TO_1": "Use ReLU6 (keras.layers.ReLU(6.0)).",
    "LOCAL_RESPONSE_NORMALIZATION": "Use BatchNormalization, which folds into the convolution.",
    "REDUCE_ANY": "Take keras.ops.max of the mask as int8 or float32.",
    "DENSIFY": "Convert without sparse tensors: the weights are stored dense then.",
    "LSTM": _RECURRENT,
    "RNN": _RECURRENT,
    "BIDIRECTIONAL_SEQUENCE_LSTM": _RECURRENT,
    "BIDIRECTIONAL_SEQUENCE_RNN": _RECURRENT,
    "UNIDIRECTIONAL_SEQUENCE_RNN": _RECURRENT,
    "RFFT2D": _SPECTRUM,
    "COMPLEX_ABS": _SPECTRUM,
    "REAL": _SPECTRUM,
    "IMAG": _SPECTRUM,
    "EMBEDDING_LOOKUP_SPARSE": "Use a dense Embedding.",
}
_OTHERWISE = (
    "Replace the layer it comes from by one with ops that TFLM has "
    "(keras_kd.deploy.micro_ops.BUILTIN_OPS), or compute it before or after the model."
)


def for_missing(op_name: str) -> str:
    """The cure for a builtin op that TFLM lacks."""
    return _MISSING.get(op_name, _OTHERWISE)


def for_types(dtypes: Iterable[str]) -> str:
    """The cure for an op that TFLM has, but not for these types.

    Args:
        dtypes: Types of the op's inputs and outputs.
    """
    dtypes = set(dtypes)
    if "float16" in dtypes:
        return 'Convert with quantization="int8" (or "float32"): TFLM does not compute in float16.'
    if "float32" in dtypes and "int8" in dtypes:
        return (
            "This is a dynamic-range model, float activations with int8 weights: convert with "
            'quantization="int8" and some hundred examples as calibration.'
        )
    if "uint8" in dtypes:
        return (
            'Convert the float model again with quantization="int8": uint8 is the older scheme, '
            "which TFLM takes at the model's input and output alone."
        )
    if "int16" in dtypes:
        return 'Convert with quantization="int8": TFLM has this op for int8, not for int16.'
    if "int64" in dtypes or "uint64" in dtypes:
        return (
            "Let it be int32: keras.ops.cast(x, 'int32'), and indices of dtype int32; or leave "
            "argmax and the like to the application."
        )
    if "int8" in dtypes:
        return (
            "TFLM has this op in float32 alone: replace the layer it comes from, or leave it in "
            "float32 (allow_float=) if the float ops around it are affordable."
        )
    return "Replace the layer it comes from, or cast its input to a type that TFLM takes."


def for_limit(rule: str, op_name: str) -> str:
    """The cure for a constant that is computed ("op-constant"), or a limit of one op."""
    if rule == "op-constant":
        return (
            "Give the layer fixed sizes, and convert at a batch of 1 with static input sizes: "
            "what a shape depends on must stand in the file."
        )
    if op_name == "CONCATENATION":
        return (
            "Concatenate in groups of at most ten, and convert with keras_kd.deploy.convert, which "
            "gives what is joined one scale."
        )
    return _OTHERWISE
