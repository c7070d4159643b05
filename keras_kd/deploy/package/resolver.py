"""TFLite Micro's resolver with the ops of one model and no other, so that no other is linked.

Source of the names: tensorflow/tflite-micro, tensorflow/lite/micro/micro_mutable_op_resolver.h, at
commit 90b983c2b3f1480642e040bbd2ddb37b998f3424. `tests/deploy/test_package_resolver.py` reads that
header where the sources are at hand, and fails where it and these names differ.
"""

from __future__ import annotations

from keras_kd.deploy import inspect, micro_ops

# The methods are the ops' names in camel case: CONCATENATION is AddConcatenation. These are not.
_BUILTIN_METHODS = {
    "AVERAGE_POOL_2D": "AddAveragePool2D",
    "BATCH_MATMUL": "AddBatchMatMul",
    "CONV_2D": "AddConv2D",
    "CUMSUM": "AddCumSum",
    "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
    "L2_POOL_2D": "AddL2Pool2D",
    "MAX_POOL_2D": "AddMaxPool2D",
    "PADV2": "AddPadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
}
# Custom ops are found by the name in the file; the signal library's are "Signal" and the method's.
_CUSTOM_METHODS = {
    "CIRCULAR_BUFFER": "AddCircularBuffer",
    "TFLM_DECODE": "AddDecode",
    "TFLite_Detection_PostProcess": "AddDetectionPostprocess",
}
ETHOS_U = "ethos-u"  # tensorflow/lite/micro/kernels/ethos_u/ethosu.cc, GetString_ETHOSU.


def method_of(name: str, *, is_custom: bool = False) -> str:
    """The method of `tflite::MicroMutableOpResolver` that registers an op.

    Args:
        name: TFLite's name of the op, or a custom op's own.
        is_custom: Which of the two it is.

    Raises:
        ValueError: TFLite Micro has no such op.

    Example:
        >>> method_of("MAX_POOL_2D")
        'AddMaxPool2D'
    """
    if is_custom and name == ETHOS_U:
        return "AddEthosU"
    if name not in (micro_ops.CUSTOM_OPS if is_custom else micro_ops.BUILTIN_OPS):
        raise ValueError(
            f"Expected an op that TFLite Micro has. Received: {name!r}. Hint: `keras-kd check` "
            "names every op of a model that it lacks."
        )
    if is_custom:
        return _CUSTOM_METHODS.get(name) or f"Add{name.removeprefix('Signal')}"
    camel = "".join(part.capitalize() for part in name.split("_"))
    return _BUILTIN_METHODS.get(name, f"Add{camel}")


def methods_of(info: inspect.ModelInfo) -> tuple[str, ...]:
    """The methods for all ops of a model, of every subgraph, each once, in order of first use.

    Raises:
        ValueError: An op that TFLite Micro has not.
    """
    return tuple(dict.fromkeys(method_of(op.name, is_custom=op.is_custom) for op in info.op_counts))
