"""A float model that says where which range is, as one of int16 with kernels of int8.

Of FakeQuant ops of 16 bits TensorFlow 2.21's own quantizer makes files that are wrong: biases of 32
bits, of which LiteRT's depthwise kernel reads 64, and sums that take scales for powers of two; a
concatenation or a sigmoid ends it. Without the quantizer its converter writes the float model, with
a QUANTIZE and a DEQUANTIZE wherever a range is known. Here each float op that stands between such
pairs becomes the op of integers: the numbers that training ended with are those of the file.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_kd.deploy import flatbuffer_edits as edits
from keras_kd.deploy.conversion_process import ConversionError
from keras_kd.deploy.int16_ops import INT16_OPS, Int16Op

_FLOAT32, _INT16 = schema.TensorType.FLOAT32, schema.TensorType.INT16
# What TensorFlow writes for a grid of 16 bits with 0 in its middle, and for one of a kernel.
_ACTIVATION = (schema.TensorType.UINT16, {2**15})
_KERNEL = (schema.TensorType.UINT8, {2**7})
# Two float32 that were computed in two ways from the same range.
_SAME = 1e-6


def with_integers(
    content: bytes, *, float_inputs: bool = False, float_outputs: bool = False
) -> bytes:
    """The flatbuffer with integers between its float model's QUANTIZE and DEQUANTIZE ops.

    An op that is not among `INT16_OPS`, or that has a tensor of unknown range, stays float.

    Args:
        content: What TensorFlow's converter made, without quantizing, of a graph with FakeQuant ops
            of 16 bits for activations and 8 for kernels.
        float_inputs: Whether the model's inputs stay float32.
        float_outputs: Whether its outputs do.

    Raises:
        ConversionError: A range that int16 does not have, two for one tensor, or a loop.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    if len(model.subgraphs) > 1:
        raise ConversionError(
            "Expected a student without loops and branches for int16x8. Received: a model of "
            f"{len(model.subgraphs)} graphs. Hint: unroll them, or train with scheme='int8'."
        )
    _Integers(model).put_in(float_inputs=float_inputs, float_outputs=float_outputs)
    edits.drop_unused(model)
    return edits.packed(model)


class _Integers:
    """The model's one graph while its float ops are replaced."""

    def __init__(self, model: Any):
        self._model = model
        self._graph = model.subgraphs[0]
        # By the tensor that a QUANTIZE reads: the step of an activation, the steps of a kernel.
        self._steps: dict[int, float] = {}
        self._kernels: dict[int, Any] = {}
        # Of what a DEQUANTIZE gives back: the tensor that was rounded.
        self._rounded: dict[int, int] = {}
        # New tensors by what they are made of, so that what several ops read is there once.
        self._constants: dict = {}
        self._as_float: dict[int, int] = {}
        self._operators: list = []

    def put_in(self, *, float_inputs: bool, float_outputs: bool) -> None:
        """Replaces the ops, and what stands at the ends of the graph."""
        graph = self._graph
        float_operators = self._read_ranges()
        self._spread_ranges(float_operators)
        self._fix_ranges(float_operators)
        self._spread_ranges(float_operators)
        inputs = {index: index for index in graph.inputs}
        if float_inputs:
            inputs |= {index: self._with_float_input(index) for index in graph.inputs}
        for operator in float_operators:
            if self._is_integer(operator):
                self._operators.append(self._integer(operator))
            else:
                self._keep_float(operator)
        outputs = {index: self._source(index) for index in graph.outputs}
        if float_outputs:
            outputs = {index: self._as_floats(source) for index, source in outputs.items()}
        for index, step in self._steps.items():
            graph.tensors[index].type = _INT16
            graph.tensors[index].quantization = edits.around_zero([step])
        graph.operators = self._operators
        graph.inputs = [inputs[index] for index in graph.inputs]
        graph.outputs = [outputs[index] for index in graph.outputs]
        for signature in self._model.signatureDefs or ():
            for ends, new in ((signature.inputs, inputs), (signature.outputs, outputs)):
                for end in ends:
                    end.tensorIndex = new[end.tensorIndex]
        # The oldest runtime that has the float ops is not that which has these.
        metadata = self._model.metadata or ()
        self._model.metadata = [m for m in metadata if m.name != b"min_runtime_version"]

    def _read_ranges(self) -> list:
        """Notes what QUANTIZE and DEQUANTIZE ops say, and returns the others."""
        others, quantized = [], {}
        for operator in self._graph.operators:
            name = self._name(operator)
            if name == "QUANTIZE":
                source, grid = self._source(operator.inputs[0]), operator.outputs[0]
                quantized[grid] = source
                self._read_range(source, self._graph.tensors[grid])
            elif name == "DEQUANTIZE" and operator.inputs[0] in quantized:
                self._rounded[operator.outputs[0]] = quantized[operator.inputs[0]]
            elif name in ("RESHAPE", "TRANSPOSE") and self._has_one_step(operator.inputs[0]):
                self._turn_kernel(operator, name)
            else:
                others.append(operator)
        return others

    def _read_range(self, source: int, grid: Any) -> None:
        kind = grid.type, set(grid.quantization.zeroPoint)
        if kind == _KERNEL and self._is_constant(source):
            self._kernels[source] = grid.quantization
            return
        if kind != _ACTIVATION:
            raise ConversionError(
                "Expected ranges of 16 bits with 0 in their middle, and of 8 bits for kernels. "
                f"Received: another one for '{self._called(source)}'. Hint: "
                "keras_kd.quantization.quantize_aware(student, scheme='int16x8') makes such."
            )
        self._set_step(source, float(grid.quantization.scale[0]))

    def _has_one_step(self, index: int) -> bool:
        """Whether a tensor is a kernel with one step for all of it."""
        kernel = self._kernels.get(self._source(index))
        return kernel is not None and len(kernel.scale) == 1

    def _turn_kernel(self, operator: Any, name: str) -> None:
        """Makes a kernel of what an op comes to that moves the values of one."""
        source, turned = self._source(operator.inputs[0]), self._graph.tensors[operator.outputs[0]]
        values = edits.constant_values(self._model, self._graph.tensors[source])
        if name == "TRANSPOSE":
            order = self._graph.tensors[operator.inputs[1]]
            values = values.transpose(edits.constant_values(self._model, order))
        edits.set_constant(self._model, turned, values)
        self._kernels[operator.outputs[0]] = self._kernels[source]

    def _set_step(self, index: int, step: float) -> None:
        known = self._steps.setdefault(index, step)
        if abs(known - step) > _SAME * known:
            raise ConversionError(
                f"Expected one range for each tensor. Received: steps of {known:g} and of {step:g} "
                f"for '{self._called(index)}'. Hint: layers that do the same to one tensor are one "
                "op for TensorFlow's converter; leave one of them out."
            )

    def _fix_ranges(self, operators: Sequence[Any]) -> None:
        """Gives the output of an op that has a range of its own that very range.

        Where another one is known, or none of what it reads, the op stays float.
        """
        for operator in operators:
            op = INT16_OPS.get(self._name(operator))
            if op is None or op.output_step is None:
                continue
            *read, output = self._activations(operator, op)
            known = self._steps.get(output, op.output_step)
            same = abs(known - op.output_step) <= _SAME * known
            if same and all(index in self._steps for index in read):
                self._steps[output] = op.output_step

    def _spread_ranges(self, operators: Sequence[Any]) -> None:
        """Gives tensors the range of the values that are moved to them, or from them."""
        known = -1
        while known != len(self._steps):
            known = len(self._steps)
            for operator in operators:
                op = INT16_OPS.get(self._name(operator))
                if op is None or not op.one_range:
                    continue
                tensors = self._activations(operator, op)
                for step in [self._steps[index] for index in tensors if index in self._steps]:
                    for index in tensors:
                        self._set_step(index, step)

    def _activations(self, operator: Any, op: Int16Op) -> list[int]:
        """The float tensors that an op reads and writes, but for constants."""
        inputs = [
            self._source(index)
            for place, index in enumerate(operator.inputs)
            if place not in (op.kernel, op.bias) and index >= 0
        ]
        read = [i for i in inputs if self._is_float(i) and not self._is_constant(i)]
        return read + list(operator.outputs)

    def _is_integer(self, operator: Any) -> bool:
        op = INT16_OPS.get(self._name(operator))
        if op is None or not all(i in self._steps for i in self._activations(operator, op)):
            return False
        if op.output_step not in (None, self._steps[operator.outputs[0]]):
            return False
        return op.kernel is None or self._source(operator.inputs[op.kernel]) in self._kernels

    def _integer(self, operator: Any) -> Any:
        """The op on integers."""
        op = INT16_OPS[self._name(operator)]
        code = self._model.operatorCodes[operator.opcodeIndex]
        integer = copy.copy(operator)
        integer.opcodeIndex = edits.op_code(
            self._model,
            edits.op_number(self._model, operator),
            # Some shapes need a later version than integers do.
            max(op.version, code.version),
        )
        integer.inputs = [
            self._integer_input(place, operator, op) for place in range(len(operator.inputs))
        ]
        for option, value in op.options:
            setattr(integer.builtinOptions, option, value)
        return integer

    def _integer_input(self, place: int, operator: Any, op: Int16Op) -> int:
        index = operator.inputs[place]
        if index < 0:
            return index
        source = self._source(index)
        if place in (op.kernel, op.bias):
            grid = self._kernels[self._source(operator.inputs[op.kernel])]
            if place == op.kernel:
                steps = edits.around_zero(grid.scale, grid.quantizedDimension)
                return self._constant(source, schema.TensorType.INT8, steps)
            step = self._steps[self._activations(operator, op)[0]]
            steps = edits.around_zero([step * float(scale) for scale in grid.scale])
            return self._constant(source, schema.TensorType.INT64, steps)
        if not (self._is_float(source) and self._is_constant(source)):
            return source
        if op.one_range:
            step = self._steps[operator.outputs[0]]
        else:
            values = edits.constant_values(self._model, self._graph.tensors[source])
            step = (float(np.abs(values).max(initial=0.0)) or 1.0) / (2**15 - 1)
        return self._constant(source, _INT16, edits.around_zero([step]))

    def _constant(self, source: int, dtype: int, steps: Any) -> int:
        key = source, dtype, tuple(steps.scale)
        if key not in self._constants:
            tensor = self._graph.tensors[source]
            new = edits.quantized_constant(self._model, tensor, dtype, steps)
            self._constants[key] = self._add(new)
        return self._constants[key]

    def _keep_float(self, operator: Any) -> None:
        """Adds a float op, with floats made of the integers that it reads, and back."""
        kept = copy.copy(operator)
        kept.inputs = [
            index if index < 0 else self._as_floats(self._source(index))
            for index in operator.inputs
        ]
        ranged = [index for index in operator.outputs if index in self._steps]
        made = {index: self._float_twin(index) for index in ranged}
        kept.outputs = [made.get(index, index) for index in operator.outputs]
        self._operators.append(kept)
        for index, twin in made.items():
            self._append("QUANTIZE", twin, index)

    def _with_float_input(self, index: int) -> int:
        if index not in self._steps:
            return index
        twin = self._float_twin(index)
        self._append("QUANTIZE", twin, index)
        return twin

    def _as_floats(self, index: int) -> int:
        if index not in self._steps:
            return index
        if index not in self._as_float:
            self._as_float[index] = self._float_twin(index)
            self._append("DEQUANTIZE", index, self._as_float[index])
        return self._as_float[index]

    def _float_twin(self, index: int) -> int:
        twin = copy.copy(self._graph.tensors[index])
        twin.name += b"_float"
        return self._add(twin)

    def _append(self, name: str, read: int, written: int) -> None:
        """Adds a QUANTIZE or a DEQUANTIZE, which have int16 from versions 2 and 3 on."""
        operator = schema.OperatorT()
        number, version = getattr(schema.BuiltinOperator, name), 2 if name == "QUANTIZE" else 3
        operator.opcodeIndex = edits.op_code(self._model, number, version)
        operator.inputs, operator.outputs = [read], [written]
        self._operators.append(operator)

    def _add(self, tensor: Any) -> int:
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _source(self, index: int) -> int:
        return self._rounded.get(index, index)

    def _name(self, operator: Any) -> str:
        return edits.op_name(self._model, operator)

    def _called(self, index: int) -> str:
        return self._graph.tensors[index].name.decode("utf-8", "replace")

    def _is_float(self, index: int) -> bool:
        return self._graph.tensors[index].type == _FLOAT32

    def _is_constant(self, index: int) -> bool:
        return edits.is_constant(self._model, self._graph.tensors[index])
