"""What TensorFlow's quantizer leaves in float or not, as it comes, put right: splits of integers.

Its pattern takes an op only while every output has a QUANTIZE behind it. That of an output which
nothing reads is dead, and may be gone before the quantizer comes to the op. Such an output has the
SPLIT in the first step of an unrolled GRU or LSTM, whose state of zeros leaves a gate without use.
In which order the quantizer goes depends on a hash table of pointers, that is on addresses in
memory: one calibrated bidirectional GRU came out in eight forms in 25 times, in 14 of them with
float SPLITs, and in the same forms each time where addresses are not random (`setarch -R`).

Such an op only moves values: it works on the integers that stand around it.

Reference: TensorFlow 2.21, tensorflow/compiler/mlir/quantization/common/quantization_lib/
quantization_utils.h, `QuantizationPattern` and its `outputs_replaced`.
"""

from __future__ import annotations

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from keras_kd.deploy import flatbuffer_edits as edits
from keras_kd.deploy.repair import same_scale

# The ops of several outputs that move values, and where among the inputs those are.
_MOVERS = {
    schema.BuiltinOperator.SPLIT: 1,
    schema.BuiltinOperator.SPLIT_V: 0,
    schema.BuiltinOperator.UNPACK: 0,
}


def with_integer_splits(content: bytes) -> bytes:
    """The flatbuffer in which no op moves floats that are made of integers, and integers behind it.

    A flatbuffer without such an op is given back as it is, byte for byte.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    repaired = [_repair(place, model) for place in range(len(model.subgraphs))]
    return edits.packed(model) if any(repaired) else content


def _repair(place: int, model: Any) -> bool:
    """Whether an op of the graph at a place of the model was repaired."""
    graph = model.subgraphs[place]
    makers = {tensor: maker for maker in graph.operators for tensor in edits.indices(maker.outputs)}
    # Tensors that vanish, and those that stand in their place.
    instead: dict[int, int] = {}
    for operator in graph.operators:
        source, quantizers = _integers_around(operator, makers, graph, model)
        if source is None:
            continue
        inputs = list(operator.inputs)
        inputs[_MOVERS[edits.op_number(model, operator)]] = source
        operator.inputs = inputs
        for tensor in (graph.tensors[output] for output in operator.outputs):
            tensor.type = graph.tensors[source].type
            tensor.quantization = graph.tensors[source].quantization
        instead.update({quantize.outputs[0]: quantize.inputs[0] for quantize in quantizers})
    if instead:
        _drop(place, model, instead)
    return bool(instead)


def _integers_around(
    operator: Any, makers: dict[int, Any], graph: Any, model: Any
) -> tuple[int | None, list[Any]]:
    """The integers whose floats an op moves, and the ops that make what it gives integers again.

    (None, []) where it moves no floats or floats of its own, or where something else reads them.
    """
    place = _MOVERS.get(edits.op_number(model, operator))
    maker = None if place is None else makers.get(operator.inputs[place])
    if maker is None or edits.op_number(model, maker) != schema.BuiltinOperator.DEQUANTIZE:
        return None, []
    source, moved = graph.tensors[maker.inputs[0]], set(operator.outputs)
    readers = [
        reader for reader in graph.operators if moved.intersection(edits.indices(reader.inputs))
    ]
    for reader in readers:
        quantizes = edits.op_number(model, reader) == schema.BuiltinOperator.QUANTIZE
        end = graph.tensors[reader.outputs[0]]
        if not (
            quantizes
            and end.type == source.type
            and same_scale(end.quantization, source.quantization)
        ):
            return None, []
    if moved.intersection(graph.outputs):
        return None, []
    return int(maker.inputs[0]), readers


def _drop(place: int, model: Any, instead: dict[int, int]) -> None:
    """Takes tensors that others stand in place of out of a graph, and what nothing reads any more.

    Args:
        place: The graph's place in the model.
        model: A `ModelT`.
        instead: {tensor: the one in its place}.
    """
    graph = model.subgraphs[place]
    operators = [
        op for op in graph.operators if not instead.keys() & set(edits.indices(op.outputs))
    ]
    read = {tensor for op in operators for tensor in edits.indices(op.inputs)}.union(graph.outputs)
    graph.operators = [
        op
        for op in operators
        if edits.op_number(model, op) != schema.BuiltinOperator.DEQUANTIZE or op.outputs[0] in read
    ]
    used = {*graph.inputs, *graph.outputs}.union(*map(edits.tensors_of, graph.operators))
    edits.keep_tensors(model, place, sorted(used - instead.keys()), instead)
