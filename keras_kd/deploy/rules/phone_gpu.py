"""Which ops the GPU of a phone takes: LiteRT's ML Drift delegate, read from its source.

The delegate asks each op whether it can run it, groups what it can into partitions, and takes the
largest one; the rest runs on the CPU. A model is asked of here in the same order: the op, its
version, the rank and the types of its tensors. What the delegate asks beyond that (operands that
must be constant, shapes that broadcast) is left out, so "gpu" is likely and "cpu" is certain.

Source: github.com/google-ai-edge/LiteRT, ml_drift_delegate/tflite/model_builder.cc
(NewOperationParser, the parsers' max_version, IsAllAllowedTensors, GetOpsToReplaceWithOptions) and
tflite/delegates/utils.cc, at commit f67457790c9c2ab67347d6fe53270e8d3df20868.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keras_kd.deploy import inspect
from keras_kd.deploy.findings import Placement

SOURCE = "github.com/google-ai-edge/LiteRT, ml_drift_delegate/tflite/model_builder.cc"
VERIFIED = (
    "ai-edge-litert 2.3.0's ML Drift on a software GPU (WebGPU on SwiftShader) took the same ops "
    "of the MLPerf Tiny models, hello_world, micro_speech, mobilenet_v1 and deeplabv3, and of "
    "students with GELU, LayerNormalization, GroupNormalization, unrolled LSTM, Conv3D, log_softmax"
)

_OPS = """
ABS ADD ADD_N ARG_MAX ATAN2 AVERAGE_POOL_2D BATCH_MATMUL BITCAST BITWISE_XOR CAST CEIL
CONCATENATION CONV_2D COS CUMSUM DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE DIV
DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED
GATHER GELU GREATER GREATER_EQUAL HARD_SWISH LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND
LOGICAL_NOT LOGICAL_OR LOGISTIC LSTM MAXIMUM MAX_POOL_2D MEAN MINIMUM MIRROR_PAD MUL NEG
NOT_EQUAL ONE_HOT PACK PAD PADV2 POW PRELU QUANTIZE REDUCE_ALL REDUCE_ANY REDUCE_MAX REDUCE_MIN
REDUCE_PROD RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR
REVERSE_V2 RIGHT_SHIFT ROUND RSQRT SELECT SELECT_V2 SIGN SIN SLICE SOFTMAX SPACE_TO_DEPTH SPLIT
SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CBRT STABLEHLO_CLAMP
STABLEHLO_COMPOSITE STABLEHLO_REMAINDER STABLEHLO_SHIFT_LEFT STRIDED_SLICE SUB SUM TANH TILE
TOPK_V2 TRANSPOSE TRANSPOSE_CONV UNPACK
"""
OPS = frozenset(_OPS.split())

_ELEMENTWISE = """
ADD_N ATAN2 BITWISE_XOR CEIL COS DIV ELU EQUAL EXP FLOOR FLOOR_MOD GREATER GREATER_EQUAL LESS
LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC NEG NOT_EQUAL POW RIGHT_SHIFT ROUND RSQRT
SIGN SIN SQRT SQUARE SQUARED_DIFFERENCE SUB TANH
"""
MAX_VERSIONS = dict.fromkeys(_ELEMENTWISE.split(), 2) | {
    "ABS": 5,
    "ADD": 6,
    "AVERAGE_POOL_2D": 2,
    "CONCATENATION": 6,
    "CONV_2D": 6,
    "CUMSUM": 1,
    "DEPTHWISE_CONV_2D": 6,
    "DEQUANTIZE": 3,
    "FLOOR_DIV": 3,
    "FULLY_CONNECTED": 14,
    "GELU": 3,
    "LSTM": 4,
    "MAXIMUM": 4,
    "MAX_POOL_2D": 2,
    "MINIMUM": 4,
    "MUL": 8,
    "ONE_HOT": 1,
    "PAD": 5,
    "PADV2": 5,
    "PRELU": 1,
    "QUANTIZE": 2,
    "RELU": 2,
    "RELU6": 2,
    "SLICE": 8,
    "SOFTMAX": 4,
    "SPACE_TO_DEPTH": 2,
    "STRIDED_SLICE": 2,
    "TRANSPOSE_CONV": 3,
}

MAX_RANK = 4
_INTEGERS = frozenset({"int8", "int16", "int32"})
_UNSIGNED = frozenset({"uint8", "uint16", "uint32"})
_FLOATS = frozenset({"float16", "float32"})
_COMPUTED = _FLOATS | {"int8", "uint8"}
_COMPARISONS = frozenset({"EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL"})
_LOGIC = frozenset({"BITWISE_XOR", "LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR"})
_ARITHMETIC = """
ABS ADD ATAN2 COS DIV FLOOR_DIV FLOOR_MOD MAXIMUM MINIMUM MUL NEG REDUCE_MAX REDUCE_MIN REDUCE_PROD
RIGHT_SHIFT SIGN SIN STABLEHLO_CLAMP STABLEHLO_REMAINDER STABLEHLO_SHIFT_LEFT SUB SUM TILE
"""
_ON_INTEGERS = frozenset(_ARITHMETIC.split())
_MOVES = """
BITCAST CAST CONCATENATION DYNAMIC_UPDATE_SLICE GATHER PACK PAD PADV2 RESHAPE REVERSE_V2 SELECT
SELECT_V2 SLICE STABLEHLO_BROADCAST_IN_DIM STRIDED_SLICE TRANSPOSE
"""
_ON_ANYTHING = frozenset(_MOVES.split())
# What reads a table or a position by an integer.
_INDEXED = frozenset({"DYNAMIC_UPDATE_SLICE", "EMBEDDING_LOOKUP", "ONE_HOT"})


def refusal(info: inspect.ModelInfo, op: inspect.Op) -> str:
    """Why the GPU does not take an op; "" where it likely does."""
    if op.subgraph:
        return "it stands in another subgraph than the first"
    if op.is_custom or op.name not in OPS:
        return "the GPU has no such op"
    newest = MAX_VERSIONS.get(op.name)
    if newest is not None and op.version > newest:
        return f"version {op.version}; the GPU knows up to {newest}"
    tensors = [info.tensor(index, op.subgraph) for index in (*op.inputs, *op.outputs) if index >= 0]
    high = max((len(tensor.shape) for tensor in tensors), default=0)
    if high > MAX_RANK:
        return f"a tensor of {high} dimensions; the GPU has up to {MAX_RANK}"
    if any(-1 in tensor.shape_signature[1:] for tensor in tensors):
        return "a size that is known only when the model runs"
    for role, indices, allowed in zip(
        ("input", "output"), (op.inputs, op.outputs), _dtypes(op.name), strict=True
    ):
        runtime = (info.tensor(index, op.subgraph) for index in indices if index >= 0)
        dtypes = sorted({t.dtype for t in runtime if not t.is_constant} - allowed)
        if dtypes:
            return f"{' and '.join(dtypes)} as {role}"
    return ""


def _dtypes(name: str) -> tuple[frozenset[str], frozenset[str]]:
    """Types that an op may read and write while the model runs."""
    if name in _ON_ANYTHING:
        anything = _COMPUTED | _INTEGERS | _UNSIGNED | {"bfloat16", "bool"}
        return anything, anything
    if name == "ARG_MAX":
        return _COMPUTED, frozenset({"int32"})
    if name in _LOGIC:
        return _INTEGERS | {"bool"}, _INTEGERS | {"bool"}
    if name in _COMPARISONS:
        return _COMPUTED | _INTEGERS | _UNSIGNED, _COMPUTED | {"bool"}
    if name == "TOPK_V2":
        return _COMPUTED, _COMPUTED | {"int32"}
    reads = _COMPUTED | (_INTEGERS if name in _ON_INTEGERS else frozenset())
    writes = reads
    return reads | ({"int32"} if name in _INDEXED else frozenset()), writes


def placements(info: inspect.ModelInfo) -> tuple[Placement, ...]:
    """Where each op runs: the largest partition of what the GPU can take is on it."""
    reasons = [refusal(info, op) for op in info.ops]
    parts = sorted(partitions(info, [not reason for reason in reasons]), key=len, reverse=True)
    largest = set(parts[0] if parts else ())
    placed = []
    for number, (op, reason) in enumerate(zip(info.ops, reasons, strict=True)):
        if number in largest:
            placed.append(Placement(op, "gpu"))
        else:
            alone = "the GPU takes one partition, and another one has more ops"
            placed.append(Placement(op, "cpu", reason or alone))
    return tuple(placed)


def partitions(info: inspect.ModelInfo, supported: Sequence[bool]) -> Iterator[tuple[int, ...]]:
    """The supported ops, grouped so that each group can run in one go.

    Ops are taken in order as long as they are of one kind and what they read is there; what is left
    over waits for the next group. Numbers are places in `info.ops`; the first subgraph alone is
    grouped.
    """
    waiting = [number for number, op in enumerate(info.ops) if op.subgraph == 0]
    made = {index for number in waiting for index in info.ops[number].outputs}
    there: set[int] = set()

    def is_ready(number: int) -> bool:
        return all(i < 0 or i in there or i not in made for i in info.ops[number].inputs)

    while waiting:
        kind = next((supported[n] for n in waiting if is_ready(n)), None)
        if kind is None:  # Ops that wait for each other: no order runs them.
            return
        group: list[int] = []
        for number in waiting:
            if supported[number] == kind and is_ready(number):
                group.append(number)
                there.update(info.ops[number].outputs)
        taken = set(group)
        waiting = [number for number in waiting if number not in taken]
        if kind:
            yield tuple(group)
