"""Ops that LiteRT computes in int16, and what each of them asks of a file.

An op that is not here stays float. Sources, of google-ai-edge/LiteRT: the kernels' `Prepare` in
tflite/kernels; versions from tflite/converter/tools/versioning/op_version.cc, which says of each op
the lowest that has it in int16.
"""

from __future__ import annotations

import dataclasses

from ai_edge_litert import schema_py_generated as schema

# Kernels take the type of a bias from the op, where it is said; where it is not, from nothing:
# some read int64, whatever there is.
_INT64_BIAS = (("quantizedBiasType", schema.TensorType.INT64),)
# Without it scales are taken for powers of two.
_ANY_SCALE = (("potScaleInt16", False),)


@dataclasses.dataclass(frozen=True)
class Int16Op:
    """An op in int16.

    Attributes:
        version: The lowest that has it.
        kernel: Where among its inputs the kernel is, which is of int8; None for an op without.
        bias: Where the bias is, which is of int64.
        one_range: Whether its outputs and those of its inputs that are quantized have one scale.
        output_step: That of its output where the runtime fixes it.
        options: What is said in its options, by the schema's name.
    """

    version: int
    kernel: int | None = None
    bias: int | None = None
    one_range: bool = False
    output_step: float | None = None
    options: tuple[tuple[str, int], ...] = ()


INT16_OPS = {
    "ADD": Int16Op(3, options=_ANY_SCALE),
    "AVERAGE_POOL_2D": Int16Op(3, one_range=True),
    "CONCATENATION": Int16Op(3, one_range=True),
    "CONV_2D": Int16Op(8, kernel=1, bias=2, options=_INT64_BIAS),
    "DEPTHWISE_CONV_2D": Int16Op(5, kernel=1, bias=2),
    "EXP": Int16Op(2),
    "EXPAND_DIMS": Int16Op(1, one_range=True),
    "FULLY_CONNECTED": Int16Op(11, kernel=1, bias=2, options=_INT64_BIAS),
    "GATHER": Int16Op(4, one_range=True),
    # op_version.cc does not know it in int16: the version is that of int8.
    "GELU": Int16Op(2),
    "LEAKY_RELU": Int16Op(2),
    "LOGISTIC": Int16Op(3, output_step=2.0**-15),
    "MAXIMUM": Int16Op(4, one_range=True),
    "MAX_POOL_2D": Int16Op(3, one_range=True),
    "MEAN": Int16Op(3),
    "MINIMUM": Int16Op(4, one_range=True),
    "MUL": Int16Op(4),
    "PAD": Int16Op(3, one_range=True),
    "REDUCE_MAX": Int16Op(3, one_range=True),
    "RELU": Int16Op(3),
    "RESHAPE": Int16Op(1, one_range=True),
    "RESIZE_BILINEAR": Int16Op(4, one_range=True),
    "RESIZE_NEAREST_NEIGHBOR": Int16Op(4, one_range=True),
    "SOFTMAX": Int16Op(3, output_step=2.0**-15),
    "SQUEEZE": Int16Op(1, one_range=True),
    "STRIDED_SLICE": Int16Op(2, one_range=True),
    "SUB": Int16Op(5, options=_ANY_SCALE),
    "TANH": Int16Op(3, output_step=2.0**-15),
    "TRANSPOSE": Int16Op(5, one_range=True),
    "TRANSPOSE_CONV": Int16Op(5, kernel=1, bias=3, options=_INT64_BIAS),
}
