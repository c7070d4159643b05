"""Reads a TFLite flatbuffer: ops, tensors, types, sizes, signatures. No TensorFlow, no interpreter.

The schema is `ai_edge_litert.schema_py_generated`. Four packages ship the generated schema: that
one, TensorFlow (under `tensorflow.lite.python`, which imports all of TensorFlow and is to leave the
package), `tflite-micro` (an optional extra here, under a path its own `__init__` calls unsupported)
and the third-party `tflite` (which trails the schema by a release or more). LiteRT's is at the top
level of a package that this project depends on anyway, is generated from the schema of the runtime
that will read the file, and imports nothing but `flatbuffers`.

A flatbuffer in Python is not verified before it is read, so a damaged file is caught where it is
read, and said to be one.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

FILE_IDENTIFIER = b"TFL3"
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

    @property
    def is_constant(self) -> bool:
        """Whether the file holds its values."""
        return self.buffer_bytes > 0

    @property
    def is_float(self) -> bool:
        """Whether its numbers are floating point."""
        return self.dtype in FLOAT_DTYPES


@dataclasses.dataclass(frozen=True)
class Op:
    """One operator. `name` is TFLite's ("CONV_2D"), or a custom op's own ("FlexErf").

    `inputs` and `outputs` are tensor indices in its subgraph; -1 is an optional input left out.
    """

    index: int
    subgraph: int
    name: str
    version: int
    is_custom: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


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


def model_info(model: bytes | str | os.PathLike) -> ModelInfo:
    """Reads a `.tflite`.

    Args:
        model: The flatbuffer's bytes, or the path of a file.

    Returns:
        A `ModelInfo`.

    Raises:
        ValueError: It is no TFLite flatbuffer, or a damaged one.

    Example:
        >>> info = model_info("student.tflite")
        >>> [(op.name, op.count) for op in info.op_counts]
        [('CONV_2D', 2), ('MEAN', 1), ('FULLY_CONNECTED', 1)]
    """
    content, label = _content(model)
    if len(content) < 8 or content[4:8] != FILE_IDENTIFIER:
        raise ValueError(
            f"Expected a TFLite flatbuffer, with '{FILE_IDENTIFIER.decode()}' at byte 4. "
            f"Received: {label}, {len(content)} bytes, starting {content[:8]!r}. "
            "Hint: convert a Keras model with `keras_kd.deploy.convert` or `keras-kd convert`."
        )
    try:
        return _parsed(content)
    except (struct.error, IndexError, TypeError, ValueError, KeyError, AttributeError) as err:
        # What flatbuffers' accessors raise on offsets that lead nowhere.
        raise ValueError(
            f"Expected a whole TFLite flatbuffer. Received: {label}, {len(content)} bytes, cut "
            f"short or damaged ({type(err).__name__}: {err}). Hint: convert it again."
        ) from err


def _content(model: bytes | str | os.PathLike) -> tuple[bytes, str]:
    if isinstance(model, bytes | bytearray | memoryview):
        return bytes(model), "bytes"
    if isinstance(model, str | os.PathLike):
        return Path(model).read_bytes(), f"'{os.fspath(model)}'"
    raise TypeError(
        "Expected a TFLite flatbuffer as bytes, or the path of one. "
        f"Received: {type(model).__name__}. Hint: an Artifact's bytes are its `.content`."
    )


def _schema() -> ModuleType:
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


@functools.cache
def _enum_names(enum: str) -> dict[int, str]:
    members = vars(getattr(_schema(), enum))
    return {value: name for name, value in members.items() if isinstance(value, int)}


def builtin_op_names() -> frozenset[str]:
    """Every builtin operator that the schema knows."""
    return frozenset(_enum_names("BuiltinOperator").values()) - {"CUSTOM"}


def _parsed(content: bytes) -> ModelInfo:
    model = _schema().Model.GetRootAs(content)
    buffer_bytes = tuple(
        max(model.Buffers(i).DataLength(), model.Buffers(i).Size())
        for i in range(model.BuffersLength())
    )
    graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    if not graphs:
        raise ValueError("no subgraph")
    signatures = tuple(
        _signature(model.SignatureDefs(i)) for i in range(model.SignatureDefsLength())
    )
    tensors = tuple(
        _tensor(graph.Tensors(i), i, number, buffer_bytes)
        for number, graph in enumerate(graphs)
        for i in range(graph.TensorsLength())
    )
    names = {tensor.index: tensor.name for tensor in tensors if tensor.subgraph == 0}
    main = next((s for s in signatures if s.subgraph == 0), None)
    return ModelInfo(
        size_bytes=len(content),
        schema_version=model.Version(),
        description=_text(model.Description()),
        subgraph_names=tuple(_text(graph.Name()) for graph in graphs),
        ops=tuple(
            _op(graph.Operators(i), i, number, model)
            for number, graph in enumerate(graphs)
            for i in range(graph.OperatorsLength())
        ),
        tensors=tensors,
        inputs=_slots(graphs[0].InputsAsNumpy(), main.inputs if main else (), names),
        outputs=_slots(graphs[0].OutputsAsNumpy(), main.outputs if main else (), names),
        signatures=signatures,
        buffer_bytes=buffer_bytes,
        metadata=tuple(
            (_text(model.Metadata(i).Name()), model.Metadata(i).Buffer())
            for i in range(model.MetadataLength())
        ),
    )


def _slots(
    indices: Any, signature: tuple[tuple[str, int], ...], names: dict[int, str]
) -> tuple[tuple[str, int], ...]:
    """(name, index) for each index; a tensor that is two outputs has two names, one for each."""
    named: dict[int, list[str]] = {}
    for name, index in signature:
        named.setdefault(index, []).append(name)
    return tuple((named[i].pop(0) if named.get(i) else names[i], i) for i in _numbers(indices))


def _signature(signature: Any) -> Signature:
    def slots(count: int, item: Any) -> tuple[tuple[str, int], ...]:
        return tuple((_text(item(i).Name()), item(i).TensorIndex()) for i in range(count))

    return Signature(
        key=_text(signature.SignatureKey()),
        subgraph=signature.SubgraphIndex(),
        inputs=slots(signature.InputsLength(), signature.Inputs),
        outputs=slots(signature.OutputsLength(), signature.Outputs),
    )


def _tensor(tensor: Any, index: int, subgraph: int, buffer_bytes: tuple[int, ...]) -> Tensor:
    quantization = tensor.Quantization()
    scales = _numbers(quantization.ScaleAsNumpy()) if quantization else ()
    zero_points = _numbers(quantization.ZeroPointAsNumpy()) if quantization else ()
    shape = _numbers(tensor.ShapeAsNumpy())
    return Tensor(
        index=index,
        subgraph=subgraph,
        name=_text(tensor.Name()),
        shape=shape,
        shape_signature=_numbers(tensor.ShapeSignatureAsNumpy()) or shape,
        dtype=_enum_names("TensorType")[tensor.Type()].lower(),
        scales=scales,
        # A file may leave the zero points out: they are zeros then.
        zero_points=zero_points or (0,) * len(scales),
        quantized_axis=quantization.QuantizedDimension() if len(scales) > 1 else None,
        buffer=tensor.Buffer(),
        buffer_bytes=buffer_bytes[tensor.Buffer()],
        is_variable=bool(tensor.IsVariable()),
    )


def _op(operator: Any, index: int, subgraph: int, model: Any) -> Op:
    code = model.OperatorCodes(operator.OpcodeIndex())
    # Codes up to 127 were once a byte: old files fill only that field (schema.fbs, OperatorCode).
    builtin = _enum_names("BuiltinOperator")[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    is_custom = builtin == "CUSTOM"
    return Op(
        index=index,
        subgraph=subgraph,
        name=_text(code.CustomCode()) if is_custom else builtin,
        version=code.Version(),
        is_custom=is_custom,
        inputs=_numbers(operator.InputsAsNumpy()),
        outputs=_numbers(operator.OutputsAsNumpy()),
    )


def _numbers(vector: Any) -> tuple:
    # flatbuffers' `...AsNumpy` gives the int 0 for a vector that the file leaves out.
    return () if isinstance(vector, int) else tuple(vector.tolist())


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", errors="replace")
