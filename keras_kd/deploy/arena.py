"""How much memory TFLite Micro's arena wants: what to reserve, and what it cannot do without."""

from __future__ import annotations

import dataclasses
import math

from keras_kd.deploy import inspect

# Between the arena in Python and a Cortex-M55's with CMSIS-NN lay up to 13 %, either way, on MLPerf
# Tiny's keyword, ResNet-8 and person models; a fifth is more than that. The kilobyte: TFLM takes
# more while it starts than it keeps, which is what it reports. hello_world_int8 keeps 1,504 bytes
# and starts in 1,937, the anomaly model 3,984 and 4,647, the keyword model 24,272 and 24,283.
MARGIN = 0.2
STARTING_BYTES = 1024

_BITS = {
    # TFLM gives a number of 4 bits a byte of its own (memory_helpers.cc, TfLiteTypeSizeOf).
    "int4": 8,
    "bool": 8,
    "resource": 32,
    "bfloat16": 16,
    "complex64": 64,
    "complex128": 128,
}


@dataclasses.dataclass(frozen=True)
class LowerBound:
    """The least that an arena can be.

    Attributes:
        arena_bytes: Bytes of the tensors that are alive at once, where they are most.
        op: The op that runs then; None for a model without ops.
    """

    arena_bytes: int
    op: inspect.Op | None


def arena_to_reserve(measured_bytes: int) -> int:
    """The arena to give a model on a board: what was measured, a fifth more, and a kilobyte.

    Args:
        measured_bytes: What the model took of an arena on this host, at least 0.

    Returns:
        Bytes, a multiple of 16, which is what TFLM aligns to.
    """
    wanted = measured_bytes + math.ceil(MARGIN * measured_bytes) + STARTING_BYTES
    return -(-wanted // 16) * 16


def lower_bound(info: inspect.ModelInfo) -> LowerBound:
    """The most bytes of tensors that are alive at once in the main subgraph.

    A tensor lives from the op that writes it to the last that reads it, inputs from the start,
    outputs to the end, variables always; constants stay in flash. The arena holds all of them, and
    beside them what TFLM's interpreter and kernels keep, so it is larger. A free size counts as 1.
    """
    ops = [op for op in info.ops if op.subgraph == 0]
    born = {index: 0 for _, index in info.inputs}
    dies = {index: 0 for _, index in info.inputs}
    for step, op in enumerate(ops):
        for index in op.outputs:
            born.setdefault(index, step)
        dies |= dict.fromkeys((*op.inputs, *op.outputs), step)
    dies |= {index: len(ops) for _, index in info.outputs}
    alive = [0] * max(len(ops), 1)
    for tensor in info.tensors:
        if tensor.subgraph or tensor.is_constant:
            continue
        if tensor.is_variable:
            first, last = 0, len(alive) - 1
        elif tensor.index in born:
            first, last = born[tensor.index], min(dies[tensor.index], len(alive) - 1)
        else:
            continue
        for step in range(first, last + 1):
            alive[step] += _bytes(tensor)
    most = max(range(len(alive)), key=alive.__getitem__)
    return LowerBound(alive[most], ops[most] if ops else None)


def _bytes(tensor: inspect.Tensor) -> int:
    bits = _BITS.get(tensor.dtype) or int("".join(filter(str.isdigit, tensor.dtype)) or 0)
    return math.prod(tensor.shape) * bits // 8
