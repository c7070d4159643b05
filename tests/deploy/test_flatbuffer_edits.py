"""What is put into a model's flatbuffer and taken out of it."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_kd.deploy import flatbuffer_edits as edits
from keras_kd.deploy import inspect


def unpacked(content):
    return schema.ModelT.InitFromPackedBuf(content, 0)


def test_buffers_lie_where_the_schema_wants_them(by_hand, rng):
    numbers = [rng.integers(-128, 128, size) for size in (9, 11, 16, 13)]
    values = [by_hand.constant(f"c{len(n)}", n) for n in numbers]
    y = by_hand.tensor("y")
    content = by_hand.graph([by_hand.op("CONCATENATION", range(4), [4])], [*values, y], [0], [4])
    packed = edits.packed(unpacked(content))
    assert [packed.index(data) % 16 for _, data in values] == [0, 0, 0, 0]
    assert [op.name for op in inspect.model_info(packed).ops] == ["CONCATENATION"]


def test_an_op_is_listed_once_a_version(by_hand):
    model = unpacked(by_hand.chain(["RELU", "GELU"]))
    relu, gelu = schema.BuiltinOperator.RELU, schema.BuiltinOperator.GELU
    assert edits.op_code(model, relu, 1) == 0
    assert edits.op_code(model, gelu, 2) == edits.op_code(model, gelu, 2) == 2
    code = model.operatorCodes[2]
    # A reader of the old field, which is a byte, knows by 127 that it has to look at the new one.
    assert (code.builtinCode, code.deprecatedBuiltinCode, code.version) == (gelu, 127, 2)
    assert [edits.op_name(model, op) for op in model.subgraphs[0].operators] == ["RELU", "GELU"]


@pytest.mark.parametrize(
    ("scale", "axis", "expected"),
    [([0.5], 0, [[2, -4, 127], [1, 0, -128]]), ([0.5, 0.25], 0, [[2, -4, 127], [2, 1, -128]])],
    ids=["one step", "a step a row"],
)
def test_a_constant_in_integers(by_hand, scale, axis, expected):
    values = np.float32([[1.0, -2.2, 99.0], [0.5, 0.15, -99.0]])
    content = by_hand.single(
        "RELU", [by_hand.constant("c", values, "FLOAT32", None)], by_hand.tensor("y")
    )
    model = unpacked(content)
    constant = model.subgraphs[0].tensors[0]
    steps = edits.around_zero(scale, axis)
    made = edits.quantized_constant(model, constant, schema.TensorType.INT8, steps)
    np.testing.assert_array_equal(edits.constant_values(model, made), expected)
    np.testing.assert_array_equal(edits.constant_values(model, constant), values)
    assert (made.name, list(made.quantization.zeroPoint)) == (constant.name, [0] * len(scale))


def test_what_nothing_uses_is_dropped(by_hand):
    used, unused = by_hand.constant("used", [1, 2]), by_hand.constant("unused", [3, 4])
    tensors = [by_hand.tensor("x"), unused, used, by_hand.tensor("y"), by_hand.tensor("z")]
    ops = [by_hand.op("RELU", [0], [4]), by_hand.op("ADD", [0, 2], [3])]
    model = unpacked(by_hand.graph(ops, tensors, [0], [3]))
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.inputs, signature.outputs = "serve", [], []
    for ends, name, index in ((signature.inputs, "in", 0), (signature.outputs, "out", 3)):
        end = schema.TensorMapT()
        end.name, end.tensorIndex = name, index
        ends.append(end)
    model.signatureDefs = [signature]
    model.metadata = [schema.MetadataT()]
    model.metadata[0].name, model.metadata[0].buffer = "note", len(model.buffers)
    model.buffers.append(schema.BufferT())
    model.buffers[-1].data = np.frombuffer(b"kept", np.uint8)
    del model.subgraphs[0].operators[0]
    edits.drop_unused(model)
    info = inspect.model_info(edits.packed(model))
    assert [t.name for t in info.tensors] == ["x", "used", "y"]
    assert [(op.name, op.inputs, op.outputs) for op in info.ops] == [("ADD", (0, 1), (2,))]
    assert (info.inputs, info.outputs) == ((("in", 0),), (("out", 2),))
    assert [code.builtinCode for code in model.operatorCodes] == [schema.BuiltinOperator.ADD]
    assert [b.data is not None for b in model.buffers] == [False, True, True]
