"""What TensorFlow's converter gets wrong in a flatbuffer, put right without converting again.

- It lists inputs and outputs in an order of its own.
- Its fused LSTM cuts the cell state off at 10, which no Keras layer does
  (tensorflow/compiler/mlir/lite/utils/lstm_utils.cc, `ConvertKerasLSTMLayer`: `cell_clip` 10.0).
- It takes an int8 op whose kernel cannot change the scale for one that can. Before a Concatenate,
  whose inputs have one scale, an LSTM's or a REVERSE_V2's output got that scale by name, while the
  numbers in it were the old ones: outputs were off by 83 steps of 255 (TensorFlow 2.21). Such an op
  gets its true output back, and a QUANTIZE that carries it over to the scale that is wanted.
- It scales an int8 LSTM's cell state, which is int16, by the states that calibration ended with.
  Larger ones on the way are cut off, and where all ended below 0.5, LiteRT has no tanh for the
  scale and leaves the output as it finds it (lite/kernels/internal/reference/
  portable_tensor_utils.cc, `PortableApplyTanh`). The cells get room up to 16, in steps of 2**-11,
  a sixteenth of a step of an int8 output.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Sequence
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from keras_kd.deploy import inspect
from keras_kd.deploy.conversion_process import ConversionError
from keras_kd.deploy.flatbuffer_edits import op_code, op_number, packed

# Places in the LSTM's vectors (lite/kernels/lstm_shared.h and unidirectional_sequence_lstm.cc).
_OUTPUT_STATE, _CELL_STATE, _HIDDEN_SCALE = 18, 19, 4
_SMALLEST_CELL_SCALE = 2.0**-11


def in_model_order(
    content: bytes, input_names: Sequence[str], output_names: Sequence[str]
) -> bytes:
    """The flatbuffer with its inputs and outputs listed in the Keras model's order.

    The two vectors of tensor indices are permuted in place, so `input(0)` on a microcontroller is
    the model's first input; signatures go by tensor index and are not touched.

    Raises:
        ConversionError: The names are not those of the flatbuffer.
    """
    info = inspect.model_info(content)
    buffer = bytearray(content)
    graph = schema.Model.GetRootAs(buffer).Subgraphs(0)
    for names, slots, vector in (
        (input_names, info.inputs, graph.InputsAsNumpy()),
        (output_names, info.outputs, graph.OutputsAsNumpy()),
    ):
        places = dict(slots)
        if sorted(places) != sorted(names):
            raise ConversionError(
                f"Expected the converted model to have {sorted(names)}. Received: {sorted(places)}."
                " Hint: an input that no output depends on vanishes; leave it out of the student."
            )
        vector[:] = [places[name] for name in names]
    return bytes(buffer)


def without_cell_clip(content: bytes) -> bytes:
    """The flatbuffer whose fused LSTMs let the cell state grow until its int16 ends."""
    buffer = bytearray(content)
    model = schema.Model.GetRootAs(buffer)
    for op in inspect.model_info(content).ops:
        if op.name == "UNIDIRECTIONAL_SEQUENCE_LSTM":
            table = model.Subgraphs(op.subgraph).Operators(op.index).BuiltinOptions()
            # The second field of UnidirectionalSequenceLSTMOptions: fields begin at 4, 2 apart.
            place = table.Offset(6)
            if place:
                struct.pack_into("<f", buffer, table.Pos + place, 0.0)
    return bytes(buffer)


def with_true_scales(content: bytes) -> bytes:
    """The flatbuffer with a QUANTIZE behind each op whose output is labelled with a false scale.

    An int8 LSTM has its hidden state in three tensors, which have to have one scale: LiteRT takes
    that of the fifth intermediate, TFLite Micro that of the state, and the next op that of the
    output. The intermediate's is the range that calibration saw in all steps.

    A flatbuffer without such an op is given back as it is, byte for byte.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    repaired = [_repair(graph, model) for graph in model.subgraphs]
    return packed(model) if any(repaired) else content


def _repair(graph: Any, model: Any) -> bool:
    """Whether an op of the graph was repaired."""
    operators, repaired = [], False
    for operator in graph.operators:
        operators.append(operator)
        if op_number(model, operator) == schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM:
            repaired |= _widen_cell(graph.tensors[operator.inputs[_CELL_STATE]])
        labels = _labels(operator, graph, model)
        true = labels[0].quantization if labels else None
        if true is None or all(same_scale(true, tensor.quantization) for tensor in labels):
            continue
        repaired = True
        for state in labels[1:-1]:
            state.quantization = true
        output = labels[-1]
        if same_scale(true, output.quantization):
            continue
        unscaled = copy.copy(output)
        unscaled.name, unscaled.quantization = output.name + b"_before_rescaling", true
        graph.tensors.append(unscaled)
        rescaling = schema.OperatorT()
        # From one int8 to another it is version 1 (lite/tools/versioning/op_version.cc).
        rescaling.opcodeIndex = op_code(model, schema.BuiltinOperator.QUANTIZE, 1)
        rescaling.inputs, rescaling.outputs = [len(graph.tensors) - 1], operator.outputs
        operator.outputs = rescaling.inputs
        operators.append(rescaling)
    graph.operators = operators
    return repaired


def _widen_cell(cell: Any) -> bool:
    """Whether an int16 cell state had less room than 16, and has that now."""
    if cell.type != schema.TensorType.INT16 or cell.quantization.scale[0] >= _SMALLEST_CELL_SCALE:
        return False
    cell.quantization = copy.copy(cell.quantization)
    cell.quantization.scale = [_SMALLEST_CELL_SCALE]
    return True


def _labels(operator: Any, graph: Any, model: Any) -> list:
    """The int8 tensors that hold an op's output: first the one with its scale, last the output."""
    if op_number(model, operator) == schema.BuiltinOperator.REVERSE_V2:
        places = [operator.inputs[0], operator.outputs[0]]
    elif (
        op_number(model, operator) == schema.BuiltinOperator.UNIDIRECTIONAL_SEQUENCE_LSTM
        and operator.intermediates is not None
        and len(operator.intermediates) > _HIDDEN_SCALE
    ):
        places = [
            operator.intermediates[_HIDDEN_SCALE],
            operator.inputs[_OUTPUT_STATE],
            operator.outputs[0],
        ]
    else:
        return []
    tensors = [graph.tensors[place] for place in places]
    int8 = all(tensor.type == schema.TensorType.INT8 for tensor in tensors)
    return tensors if int8 else []


def same_scale(one: Any, other: Any) -> bool:
    """Whether the numbers of two tensors mean the same, by their `QuantizationParametersT`."""
    return bool(one.scale[0] == other.scale[0] and one.zeroPoint[0] == other.zeroPoint[0])
