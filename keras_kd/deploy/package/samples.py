"""Recorded samples: what goes into the inputs, and what TFLite Micro gives for it here.

The firmware repeats them on the device, where the same integers have to come out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_kd.deploy.artifact import TensorInfo
from keras_kd.deploy.interpreter import Interpreter, to_stored
from keras_kd.deploy.package.c_array import float_literal
from keras_kd.deploy.structure import values_by_input

# TFLite's types as C++ writes them. Others (float16, strings, complex numbers) TFLM has no
# kernels for at a model's ends.
C_TYPES = {
    "bool": "bool",
    "float32": "float",
    **{f"int{bits}": f"std::int{bits}_t" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"std::uint{bits}_t" for bits in (8, 16, 32)},
}
MADE_SEED = 0
# The samples are in the test program's flash: beside most models this much is bearable.
MAX_SAMPLES, MAX_SAMPLE_BYTES = 10, 64 * 1024
NUMBERS_PER_LINE = 16


@dataclasses.dataclass(frozen=True)
class Samples:
    """Inputs and the outputs that TFLite Micro gave for them, as the tensors hold them.

    Attributes:
        inputs: An array [samples, 1, ...] for each input, in the file's order.
        outputs: Likewise for each output.
        are_real: Whether the inputs were given; else they were made from a seed.
    """

    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    are_real: bool

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.inputs[0])


def recorded(interpreter: Interpreter, x: Any = None, *, count: int | None = None) -> Samples:
    """Runs the first `count` examples, or made ones, one by one from the model's initial state.

    Args:
        interpreter: The model; on "tflm" for outputs that a microcontroller has to repeat.
        x: Examples as `Interpreter.predict` takes them; None makes them: uniform over what each
            integer input holds, over [0, 1] for float inputs, and 0 or 1 for integers without a
            scale, which may be indices of a small table.
        count: How many; None takes at most ten, and fewer where they are more than 64 KiB.

    Raises:
        ValueError: No example, a count below 1 or above the number of examples, or what
            `Interpreter.predict` refuses.
    """
    inputs = interpreter.inputs
    sample_bytes = sum(_bytes_of(t) for t in (*inputs, *interpreter.outputs))
    fitting = max(1, min(MAX_SAMPLES, MAX_SAMPLE_BYTES // max(1, sample_bytes)))
    if count is not None and count < 1:
        raise ValueError(f"Expected a sample count of at least 1. Received: {count}.")
    if x is None:
        rng = np.random.default_rng(MADE_SEED)
        stored = [_made(rng, tensor, count or fitting) for tensor in inputs]
    else:
        names = [tensor.name for tensor in inputs]
        arrays = values_by_input(x, names, rank=len(inputs[0].shape), what="samples")
        available = min(len(array) for array in arrays)
        if not available or (count or 1) > available:
            raise ValueError(f"Expected at least {count or 1} samples. Received: {available}.")
        arrays = [np.asarray(array)[: count or fitting] for array in arrays]
        stored = [_as_stored(array, t) for array, t in zip(arrays, inputs, strict=True)]
    outputs = interpreter.predict_quantized(stored if len(stored) > 1 else stored[0])
    if isinstance(outputs, dict):
        outputs = [outputs[tensor.name] for tensor in interpreter.outputs]
    if not isinstance(outputs, list):
        outputs = [outputs]
    return Samples(tuple(stored), tuple(map(np.asarray, outputs)), x is not None)


def _bytes_of(tensor: TensorInfo) -> int:
    return math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize


def _made(rng: np.random.Generator, tensor: TensorInfo, count: int) -> np.ndarray:
    shape, dtype = (count, *tensor.shape[1:]), np.dtype(tensor.dtype)
    if dtype.kind == "f":
        return rng.uniform(0.0, 1.0, shape).astype(dtype)
    if dtype.kind == "b" or tensor.scale is None:
        return rng.integers(0, 2, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def _as_stored(array: np.ndarray, tensor: TensorInfo) -> np.ndarray:
    """As `Interpreter.predict` does it: what has a quantized input's dtype is stored already."""
    if tensor.scale is not None and array.dtype == tensor.dtype:
        return array
    return to_stored(array, tensor)


def c_type(tensor: TensorInfo) -> str:
    """The C++ type of a tensor's numbers.

    Raises:
        ValueError: A type that C++ code for TFLite Micro has no counterpart of.
    """
    if tensor.dtype not in C_TYPES:
        raise ValueError(
            f"Expected inputs and outputs of {', '.join(C_TYPES)}. Received: '{tensor.name}' of "
            f"{tensor.dtype}. Hint: convert with input_dtype and output_dtype."
        )
    return C_TYPES[tensor.dtype]


def declarations(inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]) -> str:
    """Declarations of the arrays `sample_input_0`, ..., `sample_output_0`, ..."""
    return "\n".join(
        f"extern const {c_type(tensor)} sample_{role}_{i}[sample_count][{_length(tensor)}];"
        for role, tensors in (("input", inputs), ("output", outputs))
        for i, tensor in enumerate(tensors)
    )


def definitions(
    samples: Samples, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]
) -> str:
    """Their definitions."""
    lines = []
    for role, tensors, arrays in (
        ("input", inputs, samples.inputs),
        ("output", outputs, samples.outputs),
    ):
        for i, (tensor, array) in enumerate(zip(tensors, arrays, strict=True)):
            name = f"sample_{role}_{i}[sample_count][{_length(tensor)}]"
            lines.append(f"alignas(16) const {c_type(tensor)} {name} = {{")
            for sample in array:
                lines.append("    {")
                lines.extend(_numbers(np.ravel(sample)))
                lines.append("    },")
            lines.append("};\n")
    return "\n".join(lines)


def _length(tensor: TensorInfo) -> int:
    return math.prod(tensor.shape)


def _numbers(values: np.ndarray) -> Iterator[str]:
    for start in range(0, len(values), NUMBERS_PER_LINE):
        part = values[start : start + NUMBERS_PER_LINE]
        yield "        " + " ".join(f"{_literal(value)}," for value in part)


def _literal(value: Any) -> str:
    if value.dtype.kind == "f":
        if np.isnan(value):
            return "std::numeric_limits<float>::quiet_NaN()"
        if np.isinf(value):
            return f"{'-' * bool(value < 0)}std::numeric_limits<float>::infinity()"
        return float_literal(float(value))
    if value.dtype.kind == "b":
        return "true" if value else "false"
    number = int(value)
    suffix = "LL" if value.dtype == np.int64 else ""
    # A minus sign is no part of a C++ literal, so the lowest numbers have none.
    if number in (-(2**31), -(2**63)):
        return f"({number + 1}{suffix} - 1)"
    return f"{number}{suffix}{'u' * (value.dtype.kind == 'u')}"
