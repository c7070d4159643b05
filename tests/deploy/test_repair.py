"""Flatbuffers with the converter's faults, and what becomes of them."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_kd.deploy import inspect, repair
from tests.deploy.flatbuffers_by_hand import packed


def unpacked(content):
    return schema.ModelT.InitFromPackedBuf(content, 0)


def reversing(by_hand, scales, zero_points=(0, 0)):
    """One REVERSE_V2 whose input and output have these scales and zero points."""
    ends = zip("ab", scales, zero_points, strict=True)
    tensors = [by_hand.tensor(n, scale=scale, zero_point=zero) for n, scale, zero in ends]
    return by_hand.chain(["REVERSE_V2"], tensors)


def lstm(by_hand, *, hidden=0.5, state=0.5, output=0.5, cell=2.0**-11, dtype="INT8"):
    """One LSTM with these scales of its hidden state's three tensors and of its cell."""
    tensors = [
        by_hand.tensor("input"),
        by_hand.tensor("output", scale=output, dtype=dtype),
        by_hand.tensor("state", scale=state, dtype=dtype, variable=True),
        by_hand.tensor("cell", scale=cell, dtype="INT16", variable=True),
        by_hand.tensor("hidden", scale=hidden, dtype=dtype, shape=(0,)),
        by_hand.tensor("nothing", scale=None, dtype="FLOAT32", shape=(0,)),
    ]
    model = unpacked(by_hand.chain(["UNIDIRECTIONAL_SEQUENCE_LSTM"], tensors))
    op = model.subgraphs[0].operators[0]
    op.inputs = [0, *[-1] * 17, 2, 3, -1, -1, -1, -1]
    op.intermediates = [5, 5, 5, 5, 4]
    op.builtinOptionsType = schema.BuiltinOptions.UnidirectionalSequenceLSTMOptions
    op.builtinOptions = schema.UnidirectionalSequenceLSTMOptionsT()
    op.builtinOptions.cellClip, op.builtinOptions.projClip = 10.0, 3.0
    return packed(model)


def scales(content):
    return {t.name: t.scales[0] for t in inspect.model_info(content).tensors if t.scales}


@pytest.mark.parametrize(
    ("after", "zero_points"), [(0.25, (0, 0)), (0.5, (0, 3))], ids=["scale", "zero point"]
)
def test_an_op_that_cannot_rescale_gets_one_that_can(by_hand, after, zero_points):
    content = repair.with_true_scales(reversing(by_hand, (0.5, after), zero_points))
    info = inspect.model_info(content)
    assert [op.name for op in info.ops] == ["REVERSE_V2", "QUANTIZE"]
    before, rescaled = (info.tensor(op.outputs[0]) for op in info.ops)
    assert info.ops[1].inputs == info.ops[0].outputs
    assert (before.scales, before.zero_points) == ((0.5,), (0,))
    # The output is the tensor that it was, for whoever reads it.
    assert (rescaled.name, rescaled.scales) == ("b", (after,))
    assert info.outputs == inspect.model_info(reversing(by_hand, (0.5, after))).outputs


@pytest.mark.parametrize("dtype", ["INT16", "FLOAT32"])
def test_what_needs_no_repair_keeps_its_bytes(by_hand, dtype):
    contents = [
        reversing(by_hand, (0.5, 0.5)),
        lstm(by_hand),
        lstm(by_hand, hidden=0.25, dtype=dtype),
        by_hand.chain(["RELU"], [by_hand.tensor("a"), by_hand.tensor("b", scale=0.25)]),
    ]
    assert [repair.with_true_scales(content) for content in contents] == contents


def test_an_lstm_has_its_hidden_state_in_one_scale(by_hand):
    content = repair.with_true_scales(lstm(by_hand, hidden=0.25, state=0.125))
    assert [op.name for op in inspect.model_info(content).ops] == [
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        "QUANTIZE",
    ]
    found = scales(content)
    assert found["hidden"] == found["state"] == found["output_before_rescaling"] == 0.25
    assert found["output"] == 0.5


def test_a_state_alone_is_relabelled(by_hand):
    content = repair.with_true_scales(lstm(by_hand, state=0.125))
    assert [op.name for op in inspect.model_info(content).ops] == ["UNIDIRECTIONAL_SEQUENCE_LSTM"]
    assert scales(content)["state"] == 0.5


@pytest.mark.parametrize(("cell", "expected"), [(-17, -11), (-14, -11), (-11, -11), (-10, -10)])
def test_a_cell_has_room_up_to_sixteen(by_hand, cell, expected):
    content = repair.with_true_scales(lstm(by_hand, cell=2.0**cell))
    assert scales(content)["cell"] == 2.0**expected


def test_the_cell_is_not_clipped_and_nothing_else_changes(by_hand):
    content = lstm(by_hand)
    repaired = repair.without_cell_clip(content)
    options = inspect.model_info(repaired).ops[0].options
    assert (options["cell_clip"], options["proj_clip"]) == (0.0, 3.0)
    assert sum(a != b for a, b in zip(content, repaired, strict=True)) <= 4
    other = reversing(by_hand, (0.5, 0.5))
    assert repair.without_cell_clip(other) == other


@pytest.mark.parametrize("size", range(1, 19))
def test_constants_lie_where_the_schema_wants_them(by_hand, size):
    model = unpacked(reversing(by_hand, (0.5, 0.25)))
    values = np.arange(size, dtype=np.uint8)
    for _ in range(3):
        model.buffers.append(schema.BufferT())
        model.buffers[-1].data = values
    content = repair.with_true_scales(packed(model))
    found, first = schema.Model.GetRootAs(content), np.frombuffer(content, np.uint8).ctypes.data
    for index in range(1, 4):
        data = found.Buffers(index).DataAsNumpy()
        assert data.tolist() == values.tolist()
        assert (data.ctypes.data - first) % 16 == 0
    assert found.Buffers(0).DataIsNone()


def test_outputs_are_listed_in_the_order_that_is_asked_for(by_hand):
    model = unpacked(reversing(by_hand, (0.5, 0.5)))
    model.subgraphs[0].outputs = [1, 0]
    content = repair.in_model_order(packed(model), ["a"], ["a", "b"])
    assert inspect.model_info(content).outputs == (("a", 0), ("b", 1))
    with pytest.raises(repair.ConversionError, match=r"Expected the converted model to have \['c'"):
        repair.in_model_order(content, ["a"], ["c", "d"])
