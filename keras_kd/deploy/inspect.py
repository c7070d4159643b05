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

import functools
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_kd.deploy.flatbuffer_bounds import check_bounds
from keras_kd.deploy.model_consistency import check_graphs, check_index, check_tensor
from keras_kd.deploy.model_contents import (
    ModelInfo,
    Op,
    Signature,
    Tensor,
    is_external,
    schema,
)

FILE_IDENTIFIER = b"TFL3"
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


@functools.cache
def _enum_names(enum: str) -> dict[int, str]:
    members = vars(getattr(schema(), enum))
    return {value: name for name, value in members.items() if isinstance(value, int)}


def builtin_op_names() -> frozenset[str]:
    """Every builtin operator that the schema knows."""
    return frozenset(_enum_names("BuiltinOperator").values()) - {"CUSTOM"}


@functools.cache
def _option_tables() -> dict[int, str]:
    """The table of each type of builtin options; type 0 is none."""
    return {kind: name for kind, name in _enum_names("BuiltinOptions").items() if kind}


def _parsed(content: bytes) -> ModelInfo:
    model = schema().Model.GetRootAs(content)
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
    if not is_external(buffer):
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
    kind, table = operator.BuiltinOptionsType(), operator.BuiltinOptions()
    if not kind or table is None:
        return {}
    read = getattr(schema(), f"{_enum_names('BuiltinOptions')[kind]}T")
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
