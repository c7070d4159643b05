"""Reads a TFLite flatbuffer: ops, tensors, types, sizes, signatures. No TensorFlow, no interpreter.

The schema is `ai_edge_litert.schema_py_generated`. Four packages ship the generated schema: that
one, TensorFlow (under `tensorflow.lite.python`, which imports all of TensorFlow and is to leave the
package), `tflite-micro` (an optional extra here, under a path its own `__init__` calls unsupported)
and the third-party `tflite` (which trails the schema by a release or more). LiteRT's is at the top
level of a package that this project depends on anyway, is generated from the schema of the runtime
that will read the file, and imports nothing but `flatbuffers`.

A flatbuffer in Python is not verified before it is read. So `flatbuffer_bounds.py` walks it first,
which bounds the work and the memory by the file's size, and `model_consistency.py` refuses what
would lead whoever uses a `ModelInfo` astray: indices, shapes, scales and orders that cannot be.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from keras_kd.deploy.flatbuffer_bounds import check_bounds
from keras_kd.deploy.model_consistency import check_graphs, check_index, check_tensor

FILE_IDENTIFIER = b"TFL3"
_NUMPY_DTYPES = frozenset({"bool", "float16", "float32", "float64"}) | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
# Options that hold a number of an enumeration, in whichever op they stand.
_OPTION_ENUMS = {
    "fusedActivationFunction": "ActivationFunctionType",
    "padding": "Padding",
    "weightsFormat": "FullyConnectedOptionsWeightsFormat",
    "kernelType": "LSTMKernelType",
    "mode": "MirrorPadMode",
    "inDataType": "TensorType",
    "outDataType": "TensorType",
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
        check_bounds(content, _option_tables())
        return _parsed(content)
    except (struct.error, IndexError, TypeError, ValueError, KeyError, AttributeError) as err:
        # The first two and the last three are what flatbuffers' accessors raise on odd offsets.
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


def buffer_content(content: bytes, index: int) -> bytes:
    """The bytes of one buffer, where they lie within the flatbuffer or behind it."""
    buffer = _schema().Model.GetRootAs(content).Buffers(index)
    if _is_external(buffer):
        return content[buffer.Offset() : buffer.Offset() + buffer.Size()]
    return b"" if buffer.DataIsNone() else buffer.DataAsNumpy().tobytes()


def _is_external(buffer: Any) -> bool:
    """Whether the bytes lie behind the flatbuffer; where both are, LiteRT takes those in it."""
    return buffer.DataIsNone() and buffer.Offset() > 1  # schema.fbs, Buffer: 0 and 1 are none.


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


@functools.cache
def _option_tables() -> dict[int, str]:
    """The table of each type of builtin options; type 0 is none."""
    return {kind: name for kind, name in _enum_names("BuiltinOptions").items() if kind}


def _parsed(content: bytes) -> ModelInfo:
    model = _schema().Model.GetRootAs(content)
    buffer_bytes = tuple(
        _buffer_bytes(model.Buffers(i), content) for i in range(model.BuffersLength())
    )
    graphs = [model.Subgraphs(i) for i in range(model.SubgraphsLength())]
    if not graphs:
        raise ValueError("no subgraph")
    counts = [graph.TensorsLength() for graph in graphs]
    signatures = tuple(
        _signature(model.SignatureDefs(i), counts) for i in range(model.SignatureDefsLength())
    )
    tensors = tuple(
        _tensor(graph.Tensors(i), i, number, buffer_bytes)
        for number, graph in enumerate(graphs)
        for i in range(graph.TensorsLength())
    )
    for number, graph in enumerate(graphs):
        for index in _numbers(graph.InputsAsNumpy()) + _numbers(graph.OutputsAsNumpy()):
            check_index(index, counts[number], "an input or output")
    codes = [_op_code(model.OperatorCodes(i)) for i in range(model.OperatorCodesLength())]
    ops = tuple(
        _op(graph.Operators(i), i, number, codes, counts[number])
        for number, graph in enumerate(graphs)
        for i in range(graph.OperatorsLength())
    )
    variables = {(t.subgraph, t.index) for t in tensors if t.is_variable}
    check_graphs(ops, variables, len(graphs))
    metadata = tuple(_metadata(model.Metadata(i)) for i in range(model.MetadataLength()))
    for _, buffer in metadata:
        check_index(buffer, len(buffer_bytes), "a metadata's buffer")
    names = {tensor.index: tensor.name for tensor in tensors if tensor.subgraph == 0}
    main = next((s for s in signatures if s.subgraph == 0), None)
    return ModelInfo(
        size_bytes=len(content),
        schema_version=model.Version(),
        description=_text(model.Description()),
        subgraph_names=tuple(_text(graph.Name()) for graph in graphs),
        ops=ops,
        tensors=tensors,
        inputs=_slots(graphs[0].InputsAsNumpy(), main.inputs if main else (), names),
        outputs=_slots(graphs[0].OutputsAsNumpy(), main.outputs if main else (), names),
        signatures=signatures,
        buffer_bytes=buffer_bytes,
        metadata=metadata,
        content=content,
    )


def _buffer_bytes(buffer: Any, content: bytes) -> int:
    if not _is_external(buffer):
        return buffer.DataLength()
    if buffer.Offset() + buffer.Size() > len(content):
        raise ValueError(
            f"a buffer leads from byte {buffer.Offset():,} to {buffer.Offset() + buffer.Size():,}"
        )
    return buffer.Size()


def _metadata(metadata: Any) -> tuple[str, int]:
    return _text(metadata.Name()), metadata.Buffer()


def _slots(
    indices: Any, signature: tuple[tuple[str, int], ...], names: dict[int, str]
) -> tuple[tuple[str, int], ...]:
    """(name, index) for each index; a tensor that is two outputs has two names, one for each."""
    named: dict[int, list[str]] = {}
    for name, index in signature:
        named.setdefault(index, []).append(name)
    return tuple((named[i].pop(0) if named.get(i) else names[i], i) for i in _numbers(indices))


def _signature(signature: Any, tensor_counts: Sequence[int]) -> Signature:
    check_index(signature.SubgraphIndex(), len(tensor_counts), "a signature's subgraph")

    def slots(count: int, item: Any) -> tuple[tuple[str, int], ...]:
        found = tuple((_text(item(i).Name()), item(i).TensorIndex()) for i in range(count))
        for name, index in found:
            check_index(index, tensor_counts[signature.SubgraphIndex()], f"'{name}'")
        return found

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
    if len(zero_points) <= 1:
        # A file may give one for all scales, or leave them out: they are zeros then.
        zero_points = (zero_points or (0,)) * len(scales)
    check_index(tensor.Buffer(), len(buffer_bytes), f"the buffer of tensor {index}")
    described = Tensor(
        index=index,
        subgraph=subgraph,
        name=_text(tensor.Name()),
        shape=shape,
        shape_signature=_numbers(tensor.ShapeSignatureAsNumpy()) or shape,
        dtype=_enum_names("TensorType")[tensor.Type()].lower(),
        scales=scales,
        zero_points=zero_points,
        quantized_axis=quantization.QuantizedDimension() if len(scales) > 1 else None,
        buffer=tensor.Buffer(),
        buffer_bytes=buffer_bytes[tensor.Buffer()],
        is_variable=bool(tensor.IsVariable()),
        is_sparse=tensor.Sparsity() is not None,
    )
    check_tensor(described)
    return described


def _op_code(code: Any) -> tuple[str, int, bool]:
    """Name, version, and whether it is a custom op."""
    # Codes up to 127 were once a byte: old files fill only that field (schema.fbs, OperatorCode).
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    builtin = _enum_names("BuiltinOperator").get(number)
    if builtin is None:
        raise ValueError(f"operator code {number}, which the schema does not have")
    is_custom = builtin == "CUSTOM"
    return _text(code.CustomCode()) if is_custom else builtin, code.Version(), is_custom


def _op(
    operator: Any, index: int, subgraph: int, codes: Sequence[tuple[str, int, bool]], tensors: int
) -> Op:
    check_index(operator.OpcodeIndex(), len(codes), f"the operator code of op {index}")
    name, version, is_custom = codes[operator.OpcodeIndex()]
    inputs, outputs = _numbers(operator.InputsAsNumpy()), _numbers(operator.OutputsAsNumpy())
    for tensor in inputs + outputs:
        check_index(tensor, tensors, f"a tensor of op {index} ({name})", optional=True)
    return Op(
        index=index,
        subgraph=subgraph,
        name=name,
        version=version,
        is_custom=is_custom,
        inputs=inputs,
        outputs=outputs,
        options={} if is_custom else _options(operator),
    )


def _options(operator: Any) -> dict[str, Any]:
    """An op's builtin options, read through the class that the schema generated for their type."""
    schema = _schema()
    kind, table = operator.BuiltinOptionsType(), operator.BuiltinOptions()
    if not kind or table is None:
        return {}
    read = getattr(schema, f"{_enum_names('BuiltinOptions')[kind]}T")
    found = {}
    for key, value in vars(read.InitFromBuf(table.Bytes, table.Pos)).items():
        if key in _OPTION_ENUMS:
            value = _enum_names(_OPTION_ENUMS[key]).get(value, str(value))
        elif isinstance(value, np.ndarray):
            value = tuple(value.tolist())
        found[re.sub("[A-Z]", lambda letter: f"_{letter.group().lower()}", key)] = value
    return found


def _numbers(vector: Any) -> tuple:
    # flatbuffers' `...AsNumpy` gives the int 0 for a vector that the file leaves out.
    return () if isinstance(vector, int) else tuple(vector.tolist())


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode("utf-8", errors="replace")
