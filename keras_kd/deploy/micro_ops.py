"""The ops that TFLite Micro's Python runtime has.

TFLM stops at the first op that it lacks and says only that one; this table lets all be named.

Source: tensorflow/tflite-micro, python/tflite_micro/python_ops_resolver.cc (118 registrations: 100
builtin ops, 17 custom ones, and Ethos-U's, which is empty off the device), with their codes from
tensorflow/lite/micro/micro_mutable_op_resolver.h, at commit
90b983c2b3f1480642e040bbd2ddb37b998f3424. `tests/deploy/test_micro_ops.py` asks the installed wheel
for every builtin op of the schema, and fails where this table and the wheel differ.

A listed op may still refuse a type: hybrid ops (float activations, int8 weights), float16 and
more; `tflm_kernels` has those.
"""

from __future__ import annotations

from keras_kd.deploy.model_contents import ModelInfo, Op, OpCount

_BUILTIN_OPS = """
ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND
BROADCAST_ARGS BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM
DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL
EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GREATER
GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG
LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM
MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX
REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT
SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE
SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE TRANSPOSE_CONV
UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE
"""
BUILTIN_OPS = frozenset(_BUILTIN_OPS.split())

_CUSTOM_OPS = """
CIRCULAR_BUFFER SignalDelay SignalEnergy SignalFftAutoScale SignalFilterBank
SignalFilterBankLog SignalFilterBankSpectralSubtraction SignalFilterBankSquareRoot SignalFramer
SignalIrfft SignalOverlapAdd SignalPCAN SignalRfft SignalStacker SignalWindow TFLM_DECODE
TFLite_Detection_PostProcess
"""
CUSTOM_OPS = frozenset(_CUSTOM_OPS.split())


def has(op: Op | OpCount) -> bool:
    """Whether TFLM has an op of that name."""
    return op.name in (CUSTOM_OPS if op.is_custom else BUILTIN_OPS)


def missing_ops(info: ModelInfo) -> tuple[str, ...]:
    """Names of the model's ops that TFLM lacks, each once, in order of first use."""
    return tuple(dict.fromkeys(count.name for count in info.op_counts if not has(count)))
