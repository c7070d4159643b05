"""What an integer model still computes in float: found, named by origin, and priced.

The quantizer leaves an op float where TFLite has no integer kernel for it, and puts DEQUANTIZE
before and QUANTIZE behind. LayerNormalization and GroupNormalization become several such islands
(their NEG and SQUARE), RMSNormalization likewise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from keras_kd.deploy import inspect
from keras_kd.deploy.artifact import quantization_of
from keras_kd.deploy.findings import WARNING, Finding, places
from keras_kd.deploy.macs import macs

CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE", "CAST"})
_ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


def float_ops(info: inspect.ModelInfo) -> tuple[inspect.Op, ...]:
    """The ops of an integer model that compute in float, conversions from and to integers aside.

    Empty for a model that is float throughout: it has no islands, it is the sea.
    """
    if quantization_of(info) not in ("int8", "int16x8"):
        return ()
    return tuple(op for op in info.ops if op.name not in CONVERSIONS and _activations(info, op))


def findings(info: inspect.ModelInfo) -> Iterator[Finding]:
    """The finding that an integer model has float islands, if it has."""
    ops = float_ops(info)
    if not ops:
        return
    written = {(t.subgraph, t.index): t for op in ops for t in _activations(info, op)}
    around = sum(
        op.name in CONVERSIONS and any((op.subgraph, i) in written for i in op.inputs + op.outputs)
        for op in info.ops
    )
    float_bytes = sum(math.prod(t.shape) * _ITEM_BYTES[t.dtype] for t in written.values())
    yield Finding(
        WARNING,
        "float-island",
        f"{len(ops)} of {len(info.ops)} ops of this integer model compute in float, with {around} "
        f"conversions around them: {_share(info, ops, elements)} of the elements that ops write, "
        f"{_share(info, ops, macs)} of the multiply-accumulates, {float_bytes:,} bytes of float "
        "activations. Accelerators for integers leave them to the CPU, and cores without a "
        "floating-point unit compute them in software.",
        "Train the student with BatchNormalization, which folds into the convolution, in place of "
        "layer, group or RMS normalization; or measure what they cost and keep them.",
        places(info, ops),
        "TensorFlow 2.21.0, tf.lite.TFLiteConverter: what it leaves float, between conversions",
        "keras_kd's int8 conversions of LayerNormalization and GroupNormalization",
    )


def elements(info: inspect.ModelInfo, op: inspect.Op) -> int:
    """How many numbers an op writes."""
    return sum(math.prod(info.tensor(i, op.subgraph).shape) for i in op.outputs if i >= 0)


def _activations(info: inspect.ModelInfo, op: inspect.Op) -> tuple[inspect.Tensor, ...]:
    """The float tensors that an op reads or writes and the file does not hold."""
    tensors = (info.tensor(i, op.subgraph) for i in op.inputs + op.outputs if i >= 0)
    return tuple(t for t in tensors if t.is_float and not t.is_constant)


def _share(
    info: inspect.ModelInfo,
    ops: tuple[inspect.Op, ...],
    count: Callable[[inspect.ModelInfo, inspect.Op], int],
) -> str:
    total = sum(count(info, op) for op in info.ops)
    return f"{sum(count(info, op) for op in ops) / total:.1%}" if total else "none"
