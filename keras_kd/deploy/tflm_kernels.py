"""The types that TFLite Micro's kernels take, op by op, and what else they insist on.

TFLM stops at the first op whose types it refuses and names that one alone; this table lets all of
them be named, without running anything.

Source: tensorflow/tflite-micro, tensorflow/lite/micro/kernels/*.cc, Prepare and Eval of each op, at
commit 90b983c2b3f1480642e040bbd2ddb37b998f3424. `tests/deploy/test_tflm_kernels.py` asks the
installed wheel about the ops of trained models, type by type, and fails where the table and the
wheel differ. (CAST to bool is the wheel's alone, which is newer.) A board may have other kernels
for some ops: CMSIS-NN's name the same types (read, not run); ESP-NN's were not looked at.

Versions: TFLM's resolver looks ops up by their code alone (micro_mutable_op_resolver.h, FindOp), so
no version is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re

from keras_kd.deploy import inspect

# Op, then the combinations of types that it takes: "inputs>outputs". "/" stands between types, any
# of which will do; T is one type everywhere in its combination, out of those behind the "|"; "_" is
# a tensor whose type is not looked at. A tensor beyond the last one named is not looked at, unless
# the last is "T...", which stands for all that follow. "|*" is any type.
TYPES = """
ABS                      T>T | float32/int8/int16
ADD                      T,T>T | float32/int8/int16/int32
ADD_N                    T...>T | float32/int8
ARG_MAX                  float32/int8,int32>int32
ARG_MIN                  float32/int8,int32>int32
ASSIGN_VARIABLE          resource/int32
AVERAGE_POOL_2D          T>T | float32/int8/int16
BATCH_MATMUL             T,T>T | float32/int8/int16
BATCH_TO_SPACE_ND        T>T | float32/int8
BROADCAST_ARGS           T,T>T | int32/int64
BROADCAST_TO             T,int32/int64>T | *
CAST                     int8/int16/int32/uint32/float32/bool>int8/int16/int32/uint32/float32/bool
CEIL                     T>T | float32
CONCATENATION            T...>T | float32/int8/int16/int32/int64/bool
CONV_2D                  T,T,T>T | float32
CONV_2D                  int8,int8/int4,int32>int8
CONV_2D                  int16,int8,int32/int64>int16
COS                      T>T | float32
CUMSUM                   T,int32>T | float32/int8
DEPTHWISE_CONV_2D        T,T,T>T | float32
DEPTHWISE_CONV_2D        int8,int8/int4,int32>int8
DEPTHWISE_CONV_2D        int16,int8,int64>int16
DEPTH_TO_SPACE           T>T | float32/int8
DEQUANTIZE               int8/int16/uint8>float32
DIV                      T,T>T | float32/int8/int32
DYNAMIC_UPDATE_SLICE     T,T,int32/int64>T | float32/int8/int16/int32
ELU                      T>T | float32/int8
EMBEDDING_LOOKUP         int32,float32>float32
EMBEDDING_LOOKUP         int32,int8>float32/int8
EQUAL                    T,T>bool | bool/float32/int8/int32/int64
EXP                      T>T | float32
EXPAND_DIMS              T,int32>T | float32/int8/int16
FILL                     int8/int16/int32/int64,T>T | float32/int8/int32
FLOOR                    T>T | float32
FLOOR_DIV                T,T>T | float32
FLOOR_MOD                T,T>T | float32
FULLY_CONNECTED          T,T,T>T | float32
FULLY_CONNECTED          int8,int8/int4,int32>int8
FULLY_CONNECTED          int16,int8,int32/int64>int16
GATHER                   T,int32>T | float32/int8
GATHER_ND                T,int32>T | float32/int8
GREATER                  T,T>bool | float32/int8/int16/int32/int64
GREATER_EQUAL            T,T>bool | float32/int8/int32/int64
HARD_SWISH               T>T | float32/int8
IF                       bool
L2_NORMALIZATION         T>T | float32/int8
L2_POOL_2D               T>T | float32
LEAKY_RELU               T>T | float32/int8/int16
LESS                     T,T>bool | float32/int8/int32/int64
LESS_EQUAL               T,T>bool | float32/int8/int32/int64
LOG                      T>T | float32
LOGICAL_AND              T,T>T | bool
LOGICAL_NOT              T>T | bool
LOGICAL_OR               T,T>T | bool
LOGISTIC                 T>T | float32/int8/int16
LOG_SOFTMAX              T>T | float32/int8
MAXIMUM                  T,T>T | float32/int8/int16/int32/int64
MAX_POOL_2D              T>T | float32/int8/int16
MEAN                     T,int32>T | float32/int8/int16
MINIMUM                  T,T>T | float32/int8/int16/int32/int64
MIRROR_PAD               T,int32/int64>T | float32/int8
MUL                      T,T>T | float32/int8/int16/int32
NEG                      T>T | float32
NOT_EQUAL                T,T>bool | bool/float32/int8/int32/int64
PACK                     T...>T | float32/int8/int16/int32/int64
PAD                      T,_>T | float32/int8/int16/int32
PADV2                    T,_,T>T | float32/int8/int16/int32
PRELU                    T,T>T | float32/int8
PRELU                    int16,int8>int16
QUANTIZE                 float32>int8/int16
QUANTIZE                 int32>int8/int16
QUANTIZE                 int16>int8/int16/int32
QUANTIZE                 int8>int8/uint8/int16/int32
QUANTIZE                 uint8>int8
REDUCE_ALL               T,int32>T | bool
REDUCE_MAX               T,int32>T | float32/int8
REDUCE_MIN               T,int32>T | float32/int8
RELU                     T>T | float32/int8/int16
RELU6                    T>T | float32/int8/int16
RESHAPE                  T>T | *
RESIZE_BILINEAR          T,int32>T | float32/int8
RESIZE_NEAREST_NEIGHBOR  T,int32>T | float32/int8/int16
REVERSE_V2               T,int32>T | float32/int8/uint8/int16/int32/int64/bool
ROUND                    T>T | float32
RSQRT                    T>T | float32/int8/int16
SELECT_V2                bool,T,T>T | float32/int8/int16
SHAPE                    _>int32
SIN                      T>T | float32
SLICE                    T,int32/int64,int32/int64>T | float32/int8/int16/int32/bool
SOFTMAX                  T>T | float32/int8/int16
SOFTMAX                  int8>int16
SPACE_TO_BATCH_ND        T>T | float32/int8
SPACE_TO_DEPTH           T>T | float32/int8
SPLIT                    int32,T>T | float32/int8/int16/int32
SPLIT_V                  T,_,int32>T | float32/int8/int16/int32
SQRT                     T>T | float32
SQUARE                   T>T | float32
SQUARED_DIFFERENCE       T,T>T | float32/int8/int16/int32
SQUEEZE                  T>T | *
STRIDED_SLICE            T>T | float32/int8/int16/int32/bool
SUB                      T,T>T | float32/int8/int16/int32
SUM                      T,int32>T | float32/int8/int16
SVDF                     T,T,T>T | float32
SVDF                     int8,int8,int8/int16>int8
TANH                     T>T | float32/int8/int16
TRANSPOSE                T,_>T | float32/int8/int16
TRANSPOSE_CONV           int32,T,T>T | float32/int8
TRANSPOSE_CONV           int32,int8,int16>int16
UNIDIRECTIONAL_SEQUENCE_LSTM  T,T,T>T | float32/int8
UNIDIRECTIONAL_SEQUENCE_LSTM  int16,int8,int8>int16
UNPACK                   T>T | float32/int8/int16/int32
ZEROS_LIKE               T>T | float32/int8/int32/int64
"""

# Inputs that must stand in the file: TFLM fixes every shape before it runs. Source: the kernels'
# "Non-constant >...< tensor is not supported".
_CONSTANT_INPUTS = {
    "BROADCAST_TO": (1,),
    "EXPAND_DIMS": (1,),
    "FILL": (0,),
    "PAD": (1,),
    "PADV2": (1,),
    "RESIZE_BILINEAR": (1,),
    "RESIZE_NEAREST_NEIGHBOR": (1,),
    "SPLIT": (0,),
    "SPLIT_V": (2,),
    "STRIDED_SLICE": (1, 2, 3),
    "TRANSPOSE": (1,),
}

MOST_CONCATENATED = 10  # concatenation.cc, kMaxInputNum.
# What TFLM can tell the size of: memory_helpers.cc, TfLiteTypeSizeOf.
_SIZED = """
float16 bfloat16 float32 float64 int4 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool
resource complex64 complex128
"""


@dataclasses.dataclass(frozen=True)
class Combination:
    """Types that a kernel takes together; None for a tensor that it does not look at.

    Attributes:
        inputs: The types for each input that is looked at.
        outputs: Likewise for each output.
        repeats: Whether all inputs beyond the last are held to the last one's.
    """

    inputs: tuple[frozenset[str] | None, ...]
    outputs: tuple[frozenset[str] | None, ...]
    repeats: bool = False

    def takes(self, inputs: tuple[str | None, ...], outputs: tuple[str | None, ...]) -> bool:
        """Whether these types are the combination's; None is an optional tensor left out."""
        expected = self.inputs
        if self.repeats and expected:
            expected += (expected[-1],) * (len(inputs) - len(expected))
        return _fit(expected, inputs) and _fit(self.outputs, outputs)


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why TFLM refuses an op that it has.

    Attributes:
        rule: "op-types", "op-constant" or "op-limit".
        reason: What it is given, and what it would take.
        given: The types of its inputs and outputs, "float32,int8>float32".
    """

    rule: str
    reason: str
    given: str


def combinations(op_name: str) -> tuple[Combination, ...]:
    """What the kernel of an op takes; empty for an op whose types TFLM does not look at."""
    return _table().get(op_name, ())


def refusals(info: inspect.ModelInfo, op: inspect.Op) -> tuple[Refusal, ...]:
    """Why TFLM would refuse one op of a model; empty where it takes it.

    Custom ops and ops that TFLM lacks have no entry here: see `micro_ops`.
    """
    inputs, outputs = _dtypes(info, op, op.inputs), _dtypes(info, op, op.outputs)
    given = f"{_said(inputs)}>{_said(outputs)}"
    found = []
    accepted = combinations(op.name)
    if not op.is_custom and accepted and not any(c.takes(inputs, outputs) for c in accepted):
        takes = " or ".join(_readable(line) for line in _lines()[op.name])
        found.append(
            Refusal("op-types", f"inputs>outputs are {given}, and it takes {takes}", given)
        )
    if not op.is_custom:
        found += [Refusal(rule, reason, given) for rule, reason in _limits(info, op)]
    return tuple(found)


def _limits(info: inspect.ModelInfo, op: inspect.Op) -> list[tuple[str, str]]:
    found = []
    loose = [
        slot
        for slot in _CONSTANT_INPUTS.get(op.name, ())
        if slot < len(op.inputs)
        and op.inputs[slot] >= 0
        and not info.tensor(op.inputs[slot], op.subgraph).is_constant
    ]
    if loose:
        names = ", ".join(f"'{info.tensor(op.inputs[s], op.subgraph).name}'" for s in loose)
        found.append(("op-constant", f"{names} is computed, and TFLM wants it constant"))
    if op.name == "CONCATENATION" and len(op.inputs) > MOST_CONCATENATED:
        reason = f"it joins {len(op.inputs)} tensors, and TFLM {MOST_CONCATENATED} at most"
        found.append(("op-limit", reason))
    if op.name == "CONCATENATION" and _rescales(info, op):
        found.append(
            ("op-limit", "its int8 inputs have other scales or zero points than its output")
        )
    return found


def _rescales(info: inspect.ModelInfo, op: inspect.Op) -> bool:
    """Whether int8 inputs would have to be requantized, which TFLM's kernel does not do."""
    tensors = [info.tensor(i, op.subgraph) for i in (*op.inputs, *op.outputs) if i >= 0]
    quantizations = {(t.scales, t.zero_points) for t in tensors if t.dtype == "int8"}
    return len(quantizations) > 1


def _dtypes(
    info: inspect.ModelInfo, op: inspect.Op, indices: tuple[int, ...]
) -> tuple[str | None, ...]:
    return tuple(None if i < 0 else info.tensor(i, op.subgraph).dtype for i in indices)


def _said(dtypes: tuple[str | None, ...]) -> str:
    return ",".join("-" if dtype is None else dtype for dtype in dtypes)


def _fit(expected: tuple[frozenset[str] | None, ...], dtypes: tuple[str | None, ...]) -> bool:
    return all(
        types is None or dtype is None or dtype in types
        for types, dtype in zip(expected, dtypes, strict=False)
    )


@functools.cache
def _lines() -> dict[str, tuple[str, ...]]:
    """The text of each op's combinations."""
    lines: dict[str, tuple[str, ...]] = {}
    for line in TYPES.strip().splitlines():
        name, text = line.split(maxsplit=1)
        lines[name] = (*lines.get(name, ()), text)
    return lines


def _readable(line: str) -> str:
    """A line of the table for a person, who need not know what T is where it is one type alone."""
    pattern, _, values = line.partition(" | ")
    if not values:
        return pattern
    if "/" in values or values == "*":
        return f"{pattern} for T = {'any' if values == '*' else values}"
    return re.sub(r"\bT\b", values, pattern)


@functools.cache
def _table() -> dict[str, tuple[Combination, ...]]:
    table: dict[str, tuple[Combination, ...]] = {}
    for name, lines in _lines().items():
        parsed = (_parsed(line) for line in lines)
        table[name] = tuple(itertools.chain.from_iterable(parsed))
    return table


def _parsed(line: str) -> list[Combination]:
    """One line's combinations, one for each type that T may be."""
    pattern, _, values = line.partition(" | ")
    types = (_SIZED.split() if values == "*" else values.split("/")) if values else [""]
    inputs, _, outputs = pattern.partition(">")
    repeats = inputs.endswith("...")
    inputs = inputs.removesuffix("...")

    def slots(text: str, value: str) -> tuple[frozenset[str] | None, ...]:
        return tuple(
            None if slot == "_" else frozenset({value} if slot == "T" else slot.split("/"))
            for slot in text.split(",")
            if slot
        )

    return [Combination(slots(inputs, v), slots(outputs, v), repeats) for v in types]
