"""What is in a TFLite flatbuffer: ops, tensors and signatures, and the numbers that it holds."""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

_NUMPY_DTYPES = frozenset({"bool", "float16", "float32", "float64"}) | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
FLOAT_DTYPES = frozenset({"float16", "bfloat16", "float32", "float64"})


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor: `shape_signature` has -1 where the size is not fixed, `shape` has 1 there."""

    index: int
    subgraph: int
    name: str
    shape: tuple[int, ...]
    shape_signature: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    quantized_axis: int | None
    buffer: int
    buffer_bytes: int
    is_variable: bool
    is_sparse: bool = False

    @property
    def is_constant(self) -> bool:
        """Whether the file holds its values."""
        return self.buffer_bytes > 0

    @property
    def is_float(self) -> bool:
        """Whether it has numbers, and they are floating point.

        An int8 LSTM has float tensors of no size, for scales of a layer normalization.
        """
        return self.dtype in FLOAT_DTYPES and 0 not in self.shape


@dataclasses.dataclass(frozen=True)
class Op:
    """One operator. `name` is TFLite's ("CONV_2D"), or a custom op's own ("FlexErf").

    `inputs` and `outputs` are tensor indices in its subgraph; -1 is an optional input left out.
    `options` are the builtin options by the schema's names in snake case, enumerations by name:
    {"padding": "SAME", "stride_w": 1, "fused_activation_function": "RELU6", ...}.
    """

    index: int
    subgraph: int
    name: str
    version: int
    is_custom: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True)
class OpCount:
    """How often an op of one version occurs."""

    name: str
    version: int
    count: int
    is_custom: bool


@dataclasses.dataclass(frozen=True)
class Signature:
    """A named entry: (name, tensor index) for each input and output."""

    key: str
    subgraph: int
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is in a `.tflite`.

    `inputs` and `outputs` are those of the main subgraph in its own order, as (name, tensor index);
    the names are the signature's where there is one, else the tensors'.
    """

    size_bytes: int
    schema_version: int
    description: str
    subgraph_names: tuple[str, ...]
    ops: tuple[Op, ...]
    tensors: tuple[Tensor, ...]
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]
    signatures: tuple[Signature, ...]
    buffer_bytes: tuple[int, ...]
    metadata: tuple[tuple[str, int], ...]
    content: bytes = dataclasses.field(repr=False, compare=False)

    def values(self, tensor: Tensor) -> np.ndarray | None:
        """A constant's numbers, in its shape; None for what the file does not hold.

        Raises:
            ValueError: The type has no NumPy counterpart.
        """
        if not tensor.is_constant or tensor.is_sparse:
            return None
        data = buffer_content(self.content, tensor.buffer)
        if tensor.dtype not in _NUMPY_DTYPES:
            raise ValueError(
                f"Expected a constant of {', '.join(sorted(_NUMPY_DTYPES))}. "
                f"Received: '{tensor.name}' of {tensor.dtype}."
            )
        return np.frombuffer(data, tensor.dtype).reshape(tensor.shape)

    def origin(self, op: Op) -> str:
        """Where an op came from: the name of its first output, up to the first ";".

        The converter takes it from the layer: "dense/BiasAdd;dense/MatMul".
        """
        names = [self.tensor(i, op.subgraph).name for i in op.outputs if i >= 0]
        return names[0].split(";")[0] if names else ""

    def tensor(self, index: int, subgraph: int = 0) -> Tensor:
        """The tensor of that index."""
        return self._by_place[subgraph, index]

    @functools.cached_property
    def _by_place(self) -> dict[tuple[int, int], Tensor]:
        return {(tensor.subgraph, tensor.index): tensor for tensor in self.tensors}

    @property
    def op_counts(self) -> tuple[OpCount, ...]:
        """Each op and version with its number, in order of first use."""
        counts = collections.Counter((op.name, op.version, op.is_custom) for op in self.ops)
        return tuple(
            OpCount(name, version, count, is_custom)
            for (name, version, is_custom), count in counts.items()
        )

    @property
    def custom_ops(self) -> tuple[str, ...]:
        """Names of the custom ops, Flex ops among them, each once."""
        return tuple(dict.fromkeys(op.name for op in self.ops if op.is_custom))

    @property
    def float_tensors(self) -> tuple[Tensor, ...]:
        """Every tensor whose numbers are floating point."""
        return tuple(tensor for tensor in self.tensors if tensor.is_float)

    @property
    def is_stateful(self) -> bool:
        """Whether one run changes the next: variable tensors or resource variables."""
        return any(t.is_variable or t.dtype == "resource" for t in self.tensors)


def buffer_content(content: bytes, index: int) -> bytes:
    """The bytes of one buffer, where they lie within the flatbuffer or behind it."""
    buffer = schema().Model.GetRootAs(content).Buffers(index)
    if is_external(buffer):
        return content[buffer.Offset() : buffer.Offset() + buffer.Size()]
    return b"" if buffer.DataIsNone() else buffer.DataAsNumpy().tobytes()


def is_external(buffer: Any) -> bool:
    """Whether the bytes lie behind the flatbuffer; where both are, LiteRT takes those in it."""
    return buffer.DataIsNone() and buffer.Offset() > 1  # schema.fbs, Buffer: 0 and 1 are none.


def schema() -> ModuleType:
    """LiteRT's generated schema: `inspect.py` says why that one."""
    from ai_edge_litert import schema_py_generated

    return schema_py_generated
