"""Changes to a model's flatbuffer, unpacked: tensors, constants and ops put in and taken out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_kd.deploy import inspect

_ALIGNMENT = 16  # schema.fbs, Buffer: `data:[ubyte] (force_align: 16)`.
# schema.fbs, OperatorCode: what stands in the old field for an op that has no number there.
_LARGEST_OLD_CODE = schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES
_OP_NAMES = {
    number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)
}
# How the file has the numbers of constants.
NUMPY_DTYPES = {
    schema.TensorType.FLOAT32: "<f4",
    schema.TensorType.INT8: "<i1",
    schema.TensorType.INT16: "<i2",
    schema.TensorType.INT32: "<i4",
    schema.TensorType.INT64: "<i8",
}


def packed(model: Any) -> bytes:
    """The flatbuffer of a model that was unpacked with `schema.ModelT`."""
    model.buffers = [_AlignedBuffer.of(buffer) for buffer in model.buffers]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), inspect.FILE_IDENTIFIER)
    return bytes(builder.Output())


def op_number(model: Any, operator: Any) -> int:
    """An op's number in `schema.BuiltinOperator`."""
    return _number(model.operatorCodes[operator.opcodeIndex])


def op_name(model: Any, operator: Any) -> str:
    """An op's name in `schema.BuiltinOperator`."""
    return _OP_NAMES[op_number(model, operator)]


def op_code(model: Any, number: int, version: int) -> int:
    """Where the model lists an op of a version; it is added where it is not."""
    for index, code in enumerate(model.operatorCodes):
        if (_number(code), code.version) == (number, version):
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.version = number, version
    code.deprecatedBuiltinCode = min(number, _LARGEST_OLD_CODE)
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def around_zero(scale: Sequence[float], axis: int = 0) -> Any:
    """Quantization without zero points: one step, or one for each place on an axis."""
    steps = schema.QuantizationParametersT()
    steps.scale, steps.zeroPoint = [float(s) for s in scale], [0] * len(scale)
    steps.quantizedDimension = axis
    return steps


def is_constant(model: Any, tensor: Any) -> bool:
    """Whether a tensor has its values in the file."""
    return model.buffers[tensor.buffer].data is not None


def constant_values(model: Any, tensor: Any) -> np.ndarray:
    """The values of a constant of one of `NUMPY_DTYPES`."""
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
    shape = () if tensor.shape is None else tuple(tensor.shape)
    return data.view(NUMPY_DTYPES[tensor.type]).reshape(shape)


def set_constant(model: Any, tensor: Any, values: np.ndarray) -> None:
    """Gives a tensor values, in a buffer of its own; its shape is not touched."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.astype(NUMPY_DTYPES[tensor.type]).tobytes(), np.uint8)
    tensor.buffer = len(model.buffers)
    model.buffers.append(buffer)


def quantized_constant(model: Any, tensor: Any, dtype: int, steps: Any) -> Any:
    """A float32 constant as a new tensor of integers, which has a buffer but is in no graph yet.

    Args:
        model: The model, which gets the buffer.
        tensor: The constant.
        dtype: Of the integers, one of `NUMPY_DTYPES`.
        steps: What `around_zero` returned.
    """
    values = constant_values(model, tensor).astype(np.float64)
    shape = [1] * max(values.ndim, 1)
    shape[steps.quantizedDimension] = len(steps.scale)
    numbers = np.round(values / np.reshape(np.asarray(steps.scale, np.float64), shape))
    limits = np.iinfo(NUMPY_DTYPES[dtype])
    constant = copy.copy(tensor)
    constant.type, constant.quantization = dtype, steps
    set_constant(model, constant, np.clip(numbers, limits.min, limits.max))
    return constant


def indices(part: Any) -> list[int]:
    """The tensors that an op's inputs, outputs or intermediates name, some of them -1: none."""
    return [] if part is None else [int(index) for index in part]


def tensors_of(operator: Any) -> set[int]:
    """All that an op touches: an LSTM has intermediates for its scales as well."""
    parts = operator.inputs, operator.outputs, operator.intermediates
    return {index for part in parts for index in indices(part) if index >= 0}


def renumbered(operator: Any, places: Mapping[int, int]) -> Any:
    """A copy of an op whose tensors have other places; those without a place are none, -1."""
    moved = copy.copy(operator)
    for part in ("inputs", "outputs", "intermediates"):
        old = getattr(operator, part)
        if old is not None:
            setattr(moved, part, [places.get(index, -1) for index in indices(old)])
    return moved


def keep_tensors(
    model: Any, place: int, kept: Sequence[int], instead: Mapping[int, int] | None = None
) -> None:
    """Leaves a graph some of its tensors.

    Args:
        model: The model.
        place: Of the graph.
        kept: The tensors that stay; all that its ops still name.
        instead: {tensor that goes: the one in its place}.
    """
    graph = model.subgraphs[place]
    places = {old: new for new, old in enumerate(kept)}
    places |= {gone: places[other] for gone, other in (instead or {}).items()}
    graph.tensors = [graph.tensors[index] for index in kept]
    graph.inputs, graph.outputs = (
        [places[i] for i in ends] for ends in (graph.inputs, graph.outputs)
    )
    graph.operators = [renumbered(operator, places) for operator in graph.operators]
    for signature in model.signatureDefs or ():
        if signature.subgraphIndex == place:
            for end in (*signature.inputs, *signature.outputs):
                end.tensorIndex = places[end.tensorIndex]


def drop_unused(model: Any) -> None:
    """Takes out the tensors, buffers and listed ops that nothing in a model of one graph uses."""
    (graph,) = model.subgraphs
    used = {*graph.inputs, *graph.outputs}.union(*map(tensors_of, graph.operators))
    keep_tensors(model, 0, sorted(used))
    codes = sorted({operator.opcodeIndex for operator in graph.operators})
    for operator in graph.operators:
        operator.opcodeIndex = codes.index(operator.opcodeIndex)
    model.operatorCodes = [model.operatorCodes[index] for index in codes]
    owners = [*graph.tensors, *(model.metadata or ())]
    # The first one is empty, for tensors without data.
    buffers = sorted({0, *(owner.buffer for owner in owners)})
    for owner in owners:
        owner.buffer = buffers.index(owner.buffer)
    model.buffers = [model.buffers[index] for index in buffers]


def _number(code: Any) -> int:
    return max(code.builtinCode, code.deprecatedBuiltinCode)


class _AlignedBuffer(schema.BufferT):
    """A buffer that is packed where the schema wants it, as Python's own packing does not."""

    @classmethod
    def of(cls, buffer: Any) -> _AlignedBuffer:
        """The same buffer, aligned."""
        return cls(buffer.data, buffer.offset, buffer.size)

    def Pack(self, builder: Any) -> int:  # noqa: N802, the schema's name
        """Writes the buffer, and returns where."""
        data = None
        if self.data is not None:
            # Room for them such that they end up aligned: a builder writes from the end.
            builder.Prep(_ALIGNMENT, len(self.data))
            data = builder.CreateByteVector(bytes(self.data))
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        schema.BufferAddOffset(builder, self.offset)
        schema.BufferAddSize(builder, self.size)
        return schema.BufferEnd(builder)
