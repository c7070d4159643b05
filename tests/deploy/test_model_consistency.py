"""What is refused because its parts do not fit together; each case is sound but for one thing."""

import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_kd import deploy


def refusal(content):
    with pytest.raises(ValueError, match="cut short or damaged") as caught:
        deploy.model_info(content)
    return str(caught.value)


def set_in(model, path, value):
    """`set_in(model, "subgraphs[0].tensors[1].shape", [1])`."""
    target, _, name = path.rpartition(".")
    owner = model
    for part in target.replace("]", "").replace("[", ".").split("."):
        owner = owner[int(part)] if part.isdigit() else getattr(owner, part)
    setattr(owner, name, value)


CASES = [
    ("subgraphs[0].tensors[1].shape", [1, -4], "has shape (1, -4)"),
    ("subgraphs[0].tensors[1].shapeSignature", [1, -2], "another signature"),
    ("subgraphs[0].tensors[1].shapeSignature", [1], "another signature"),
    ("subgraphs[0].tensors[1].shape", [1] * 33, "claims 33 axes"),
    ("subgraphs[0].tensors[1].shape", [1 << 16, 1 << 15], "claims more than 2147483647 elements"),
    ("subgraphs[0].tensors[1].buffer", 7, "the buffer of tensor 1 is number 7 of 2"),
    ("subgraphs[0].tensors[1].quantization.zeroPoint", [0, 0, 0], "1 scales and 3 zero points"),
    ("subgraphs[0].tensors[1].quantization.scale", [0.5] * 3, "3 scales along axis 0 of (1, 4)"),
    ("subgraphs[0].inputs", [3], "an input or output is number 3 of 3"),
    ("subgraphs[0].outputs", [-1], "an input or output is number -1 of 3"),
    ("subgraphs[0].operators[0].inputs", [5], "a tensor of op 0 (RELU) is number 5 of 3"),
    ("subgraphs[0].operators[0].inputs", [-2], "a tensor of op 0 (RELU) is number -2 of 3"),
    ("subgraphs[0].operators[0].opcodeIndex", 9, "the operator code of op 0 is number 9 of 2"),
    ("operatorCodes[0].builtinCode", 4000, "operator code 4000"),
    ("subgraphs[0].operators[0].inputs", [2], "op 0 waits for op 1"),
    ("subgraphs[0].operators[0].inputs", [1], "op 0 waits for op 0"),
    ("subgraphs[0].operators[1].outputs", [1], "tensor 1 is written by ops 0, 1"),
    ("buffers[1].data", [0] * 5, "has 5 bytes and wants 4"),
    ("signatureDefs[0].subgraphIndex", 3, "a signature's subgraph is number 3 of 1"),
    ("signatureDefs[0].inputs[0].tensorIndex", 8, "'x' is number 8 of 3"),
    ("metadata[0].buffer", 5, "a metadata's buffer is number 5 of 2"),
]


@pytest.fixture(scope="module")
def sound(by_hand):
    def change(model):
        graph = model.subgraphs[0]
        graph.tensors[0].buffer = 1
        model.buffers = [schema.BufferT(), schema.BufferT()]
        model.buffers[1].data = [0] * 4
        signature, slot = schema.SignatureDefT(), schema.TensorMapT()
        slot.name, slot.tensorIndex = "x", 0
        signature.signatureKey, signature.inputs, signature.outputs = "serving", [slot], [slot]
        model.signatureDefs = [signature]
        model.metadata = [schema.MetadataT()]
        model.metadata[0].name = "m"

    content = by_hand.edited(by_hand.chain(["RELU", "RELU6"]), change)
    deploy.model_info(content)
    return content


@pytest.mark.parametrize(("path", "value", "reason"), CASES)
def test_a_model_whose_parts_do_not_fit(sound, by_hand, path, value, reason):
    assert reason in refusal(by_hand.edited(sound, lambda model: set_in(model, path, value)))


def while_model(by_hand, cond, body, inner=None):
    """A WHILE over one more subgraph, which may hold a WHILE itself."""

    def options(condition, turn):
        made = schema.WhileOptionsT()
        made.condSubgraphIndex, made.bodySubgraphIndex = condition, turn
        return made

    def change(model):
        model.subgraphs.append(schema.SubGraphT())
        graph = model.subgraphs[1]
        graph.name, graph.inputs, graph.outputs = "body", [0], [0]
        graph.tensors, graph.operators = [by_hand.tensor("state"), by_hand.tensor("next")], []
        model.subgraphs[0].tensors.append(by_hand.tensor("after"))
        by_hand.operator(model, "WHILE", [1], [2], options(cond, body), "WhileOptions")
        if inner is not None:
            op = by_hand.operator(model, "WHILE", [0], [1], options(*inner), "WhileOptions")
            model.subgraphs[0].operators.remove(op)
            graph.operators.append(op)

    return by_hand.edited(by_hand.chain(["RELU"]), change)


def test_subgraphs_that_run_each_other(by_hand):
    assert len(deploy.model_info(while_model(by_hand, 1, 1)).ops) == 2
    assert "the cond_subgraph_index of WHILE is number 4 of 2" in refusal(
        while_model(by_hand, 4, 1)
    )
    assert "subgraphs [0] run each other in a circle" in refusal(while_model(by_hand, 1, 0))
    assert "subgraphs [0, 1] run" in refusal(while_model(by_hand, 1, 1, inner=(0, 0)))


def test_what_a_sound_file_may_have(by_hand):
    """An op may leave inputs out, a state is read and written, one zero point may do for all."""

    def change(model):
        graph = model.subgraphs[0]
        graph.operators[0].inputs = [0, -1, 2]
        graph.operators[0].outputs = [1, 2]
        graph.tensors[2].isVariable = True
        graph.tensors[1].shape = [1, 2]
        graph.tensors[1].quantization.scale = [0.5, 0.25]
        graph.tensors[1].quantization.zeroPoint = [3]
        graph.tensors[1].quantization.quantizedDimension = 1

    info = deploy.model_info(by_hand.edited(by_hand.chain(["RELU", "RELU"]), change))
    assert info.ops[0].inputs == (0, -1, 2)
    assert info.tensors[1].zero_points == (3, 3)
    assert info.tensors[1].quantized_axis == 1


def test_an_axis_that_the_shape_lacks_is_left_to_the_rules(by_hand):
    """TFLite Micro's person detector is such a model, and runs there."""

    def change(model):
        tensor = model.subgraphs[0].tensors[1]
        tensor.shape = [4]
        tensor.quantization.scale, tensor.quantization.zeroPoint = [0.5] * 4, [0] * 4
        tensor.quantization.quantizedDimension = 3

    (_, tensor) = deploy.model_info(by_hand.edited(by_hand.chain(["RELU"]), change)).tensors
    assert (tensor.quantized_axis, tensor.shape) == (3, (4,))
