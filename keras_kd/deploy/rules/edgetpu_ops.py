"""What the Edge TPU compiler says of one op by itself, and of what it refuses a whole model for.

The limits of single ops are in `edgetpu_limits`; here is what holds for every op: types, rank,
constant parameters, the runtime's version, and the versions of ops that the compiler can read.
"""

from __future__ import annotations

from keras_kd.deploy import inspect
from keras_kd.deploy.rules.edgetpu_limits import (
    DOCS,
    DTYPE,
    ISSUES,
    LIMITATION,
    LISTED,
    MIN_INPUTS,
    NOT_CONSTANT,
    NOT_SUPPORTED,
    PAIRS,
    RANK,
    RULES,
    Refusal,
)

_BYTES = frozenset({"int8", "uint8"})
_FLOAT_ENDS = (
    "Convert with input_dtype and output_dtype 'uint8' or 'int8', or leave this conversion to the "
    "host: it is cheap."
)
_STATIC = "Convert at a static batch of 1 with weights as constants, as keras_kd.deploy.convert."

# The inputs that must be constants; those from 1 on where an op has them.
_PARAMETERS = {
    "CONV_2D": (1, 2),
    "DEPTHWISE_CONV_2D": (1, 2),
    "FULLY_CONNECTED": (1, 2),
    "MEAN": (1,),
    "PAD": (1,),
    "PRELU": (1,),
    "REDUCE_MAX": (1,),
    "REDUCE_MIN": (1,),
    "RESHAPE": (1,),
    "RESIZE_BILINEAR": (1,),
    "RESIZE_NEAREST_NEIGHBOR": (1,),
    "SLICE": (1, 2),
    "SPLIT": (0,),
    "STRIDED_SLICE": (1, 2, 3),
    "SUM": (1,),
    "TILE": (1,),
    "TRANSPOSE": (1,),
    "TRANSPOSE_CONV": (0, 1, 3),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": tuple(range(1, 18)),
}
# The oldest Edge TPU runtime, where the table names one above those that nobody has any more.
_RUNTIMES = {
    "RSQRT": 14,
    "SQUARED_DIFFERENCE": 14,
    "SUM": 13,
    "TRANSPOSE": 14,
    "TRANSPOSE_CONV": 13,
}
# Not in the table; the logs of compilers 15 and 16 refuse them.
_REFUSED = {
    "LEAKY_RELU": ("Use ReLU, or PReLU with shared_axes=[1, 2].", ISSUES + "272"),
    "HARD_SWISH": ("Use ReLU6.", ISSUES + "272"),
    "GATHER_ND": ("Slice or split with constant bounds, or gather on the host.", ISSUES + "714"),
}
_TYPE_CURES = {
    **dict.fromkeys(("QUANTIZE", "DEQUANTIZE", "CAST"), _FLOAT_ENDS),
    **dict.fromkeys(
        ("ARG_MAX", "ARG_MIN", "GATHER_ND", "FLOOR_DIV"),
        "End the model before it and do the rest on the host.",
    ),
}
_OTHER_CURES = {
    "BIDIRECTIONAL_SEQUENCE_LSTM": "Use a unidirectional LSTM.",
    "ELU": "Use ReLU6.",
    "EXP": "Leave it to the host, behind the model's output.",
    "PADV2": "Pad with zeros.",
    "MIRROR_PAD": "Pad with zeros.",
}


def refusal(info: inspect.ModelInfo, op: inspect.Op, *, runtime_version: int) -> Refusal | None:
    """Why the compiler would not map an op, all others apart; None where it would.

    Args:
        info: The model.
        op: One of its ops.
        runtime_version: Of the Edge TPU runtime on the device; 14 is the newest.
    """
    if op.is_custom:
        return Refusal(
            NOT_SUPPORTED,
            "it is a custom op",
            "Take it out of the model and do it on the host, behind the model's outputs.",
            DOCS,
            f"{PAIRS}: posenet, bodypix",
        )
    if op.subgraph:
        return Refusal(
            NOT_SUPPORTED,
            "it stands in the body of a control-flow op",
            "Unroll the loop (unroll=True), or take the condition out of the model.",
            DOCS,
        )
    needed = MIN_INPUTS.get(op.name, 1)
    if len(op.inputs) < needed or min(op.inputs[:needed]) < 0 or not op.outputs:
        return Refusal(
            NOT_SUPPORTED,
            f"{needed} inputs and an output are expected, it has {len(op.inputs)} and "
            f"{len(op.outputs)}",
            "The file is damaged: convert it again.",
            "tensorflow/tensorflow, tensorflow/lite/kernels: what the op's kernel expects",
        )
    # What is certain comes first: a missing entry in the table says less than a wrong type.
    return (
        _constants(info, op)
        or _types(info, op, runtime_version)
        or _rank(info, op)
        or _unlisted(op)
        or _old_runtime(op, runtime_version)
        or (RULES[op.name](info, op) if op.name in RULES else None)
    )


def _unlisted(op: inspect.Op) -> Refusal | None:
    if op.name in LISTED:
        return None
    if op.name in _REFUSED:
        cure, source = _REFUSED[op.name]
        return Refusal(NOT_SUPPORTED, "the table has no such op", cure, source)
    return Refusal(
        "Not in the table of supported operations",
        "ops that are not in it are known to be mapped (TILE) and to be refused (LEAKY_RELU)",
        _OTHER_CURES.get(op.name, "Replace it by ops of the table, or compile to see."),
        DOCS,
        is_certain=False,
    )


def _old_runtime(op: inspect.Op, runtime_version: int) -> Refusal | None:
    needed = _RUNTIMES.get(op.name, 0)
    if runtime_version >= needed:
        return None
    return Refusal(
        NOT_SUPPORTED,
        f"it needs Edge TPU runtime {needed}, the device has {runtime_version}",
        "Install the newest Edge TPU runtime (libedgetpu) on the device.",
        DOCS,
    )


def _types(info: inspect.ModelInfo, op: inspect.Op, runtime_version: int) -> Refusal | None:
    tensors = [info.tensor(i, op.subgraph) for i in (*op.inputs, *op.outputs) if i >= 0]
    # A constant may be a bias or a size; a variable is the state of an LSTM.
    wrong = [
        t
        for t in tensors
        if t.dtype not in _BYTES
        and not t.is_variable
        and not (t.is_constant and t.dtype in ("int32", "int64"))
    ]
    if wrong:
        dtypes = ", ".join(dict.fromkeys(t.dtype for t in wrong))
        cure = _TYPE_CURES.get(op.name, "Convert in full int8 (quantization='int8').")
        # Logs give float QUANTIZE the unspecified limitation, and all else the type.
        status = LIMITATION if op.name == "QUANTIZE" else DTYPE
        return Refusal(status, f"it has {dtypes} tensors", cure, DOCS, f"{PAIRS}: movenet")
    if runtime_version < 12 and any(t.dtype == "int8" for t in tensors):
        return Refusal(
            DTYPE,
            f"int8 needs Edge TPU runtime 12, the device has {runtime_version}",
            "Install the newest Edge TPU runtime (libedgetpu) on the device.",
            "google-coral/libedgetpu, api/runtime_version.h",
        )
    return None


def _constants(info: inspect.ModelInfo, op: inspect.Op) -> Refusal | None:
    for slot in _PARAMETERS.get(op.name, ()):
        if slot >= len(op.inputs) or op.inputs[slot] < 0:
            continue
        tensor = info.tensor(op.inputs[slot], op.subgraph)
        if not (tensor.is_constant or tensor.is_variable):
            return Refusal(
                NOT_CONSTANT,
                f"its input '{tensor.name}' is computed",
                _STATIC,
                ISSUES + "25",
            )
    return None


def _rank(info: inspect.ModelInfo, op: inspect.Op) -> Refusal | None:
    for i in (*op.inputs, *op.outputs):
        tensor = info.tensor(i, op.subgraph) if i >= 0 else None
        if tensor is None or tensor.is_constant or tensor.is_variable:
            continue
        if any(size != 1 for size in tensor.shape[:-3]):
            return Refusal(
                RANK,
                f"'{tensor.name}' has shape {list(tensor.shape)}",
                "Convert at batch 1 and keep to height, width and channels: fold further "
                "dimensions into these.",
                ISSUES + "708",
            )
    return None


# The newest version of an op that compiler 16 can read. Its own TFLite is not public; three are
# known from its errors. The others are those of a TFLite that is newer than it (it registers GELU,
# which the compiler does not know, #818): what that does not take, the compiler does not either.
# Source: tensorflow/tensorflow at 00b1ec2, tensorflow/lite/kernels/register.cc.
_NEWEST_VERSIONS = {
    **dict.fromkeys(("EXPAND_DIMS", "HARD_SWISH", "PRELU", "RESHAPE"), 1),
    **dict.fromkeys(("DIV", "L2_NORMALIZATION", "LEAKY_RELU", "RSQRT", "SPACE_TO_DEPTH"), 2),
    **dict.fromkeys(("SQUARED_DIFFERENCE", "SQUEEZE", "SUM"), 2),
    **dict.fromkeys(("ARG_MAX", "AVERAGE_POOL_2D", "CONCATENATION", "GATHER_ND", "LOGISTIC"), 3),
    **dict.fromkeys(("MAX_POOL_2D", "MEAN", "PACK", "REDUCE_MAX", "REDUCE_MIN", "RELU"), 3),
    **dict.fromkeys(("RELU6", "SOFTMAX", "TANH", "TILE", "UNIDIRECTIONAL_SEQUENCE_LSTM"), 3),
    **dict.fromkeys(("ADD", "BATCH_MATMUL", "CAST", "MAXIMUM", "MINIMUM", "PAD"), 4),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SPLIT", "UNPACK"), 4),
    **dict.fromkeys(("DEQUANTIZE", "GATHER", "MUL", "SLICE", "SUB", "TRANSPOSE"), 5),
    **dict.fromkeys(("DEPTHWISE_CONV_2D", "STRIDED_SLICE"), 6),
    "FULLY_CONNECTED": 9,
    "CONV_2D": 5,  # issue 631: "Didn't find op for builtin opcode 'CONV_2D' version '6'"
    "EXP": 1,  # google-coral/libedgetpu issue 71
    "QUANTIZE": 2,  # issue 879
    "TRANSPOSE_CONV": 3,  # issue 845
}
_VERSION_CURES = {
    "CONV_2D": "Version 6 is a grouped convolution: use a SeparableConv2D or DepthwiseConv2D, or "
    "one convolution for each group.",
    "EXP": "Leave the exponential to the host, behind the model's output.",
    "QUANTIZE": "Version 3 quantizes per channel while the model runs, as quantization-aware "
    "training may leave it: convert the plain model in full int8 (quantization='int8').",
    "TRANSPOSE_CONV": "Version 4 has a fused activation: use UpSampling2D and Conv2D instead of "
    "Conv2DTranspose.",
}
# "Op builtin_code out of range: 150" is what the compiler says of GELU, #667 and #818.
_FIRST_UNKNOWN_CODE = 150
_NEW_OP_CURES = {"GELU": "Replace GELU by ReLU6 and train again."}
# Inputs that give an output its size; where one is computed, TFLite makes the output dynamic.
_SIZES = {
    "BROADCAST_TO": (1,),
    "EXPAND_DIMS": (1,),
    "FILL": (0,),
    "MEAN": (1,),
    "PAD": (1,),
    "PADV2": (1,),
    "RANGE": (0, 1, 2),
    "RESHAPE": (1,),
    "RESIZE_BILINEAR": (1,),
    "RESIZE_NEAREST_NEIGHBOR": (1,),
    "SLICE": (1, 2),
    "STRIDED_SLICE": (1, 2, 3),
    "SUM": (1,),
    "TILE": (1,),
    "TRANSPOSE": (1,),
    "TRANSPOSE_CONV": (0,),
}
_ALWAYS_DYNAMIC = frozenset({"NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "UNIQUE", "WHERE"})


def whole_refusal(info: inspect.ModelInfo, op: inspect.Op) -> Refusal | None:
    """Why the compiler would not compile a model with such an op at all; None where it would."""
    if op.is_custom:
        return None
    code = _builtin_code(op.name)
    if code >= _FIRST_UNKNOWN_CODE:
        return Refusal(
            f"Op builtin_code out of range: {code}",
            f"{op.name} is newer than the compiler",
            _NEW_OP_CURES.get(op.name, "Replace it by ops of the table of supported operations."),
            f"{ISSUES}818",
        )
    newest = _NEWEST_VERSIONS.get(op.name)
    if newest is not None and op.version > newest:
        return Refusal(
            f"Didn't find op for builtin opcode '{op.name}' version '{op.version}'",
            f"the newest that compiler 16 reads is {newest}",
            _VERSION_CURES.get(op.name, "Convert with an older TensorFlow, 2.8 for one."),
            f"{ISSUES}631, 845, 879",
        )
    odd = [t for t in _inputs(info, op) if (t.quantized_axis or 0) >= max(len(t.shape), 1)]
    if odd:
        return Refusal(
            f"quantized_dimension must be in range [0, {len(odd[0].shape)}). Was "
            f"{odd[0].quantized_axis}",
            f"'{odd[0].name}' has no such dimension, and TensorFlow Lite, which the compiler "
            "loads the model with, wants it",
            "Convert it again; TFLite Micro alone runs it as it is.",
            "tensorflow/tensorflow, tensorflow/lite/core/interpreter_builder.cc: ParseQuantization",
            "LiteRT 2.3 refuses tflite-micro's person_detect.tflite so",
        )
    computed = [
        slot
        for slot in _SIZES.get(op.name, ())
        if slot < len(op.inputs)
        and op.inputs[slot] >= 0
        and not info.tensor(op.inputs[slot], op.subgraph).is_constant
    ]
    if computed or op.name in _ALWAYS_DYNAMIC:
        return Refusal(
            "Attempting to use a delegate that only supports static-sized tensors with a graph "
            "that has dynamic-sized tensors",
            "the size of its output is computed when the model runs",
            _STATIC,
            f"{ISSUES}829",
        )
    return None


def _inputs(info: inspect.ModelInfo, op: inspect.Op) -> list[inspect.Tensor]:
    return [info.tensor(i, op.subgraph) for i in op.inputs if i >= 0]


def _builtin_code(name: str) -> int:
    from ai_edge_litert import schema_py_generated as schema

    return getattr(schema.BuiltinOperator, name, 0)
