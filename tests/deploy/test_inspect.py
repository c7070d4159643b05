"""What is read from a flatbuffer, against what was put there; and against the runtime's view."""

import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from ai_edge_litert import schema_py_generated as schema

from keras_kd import deploy
from keras_kd.deploy import inspect
from keras_kd.deploy.model_contents import buffer_content

RELU_TWICE = ["RELU", "RELU", "+Own", "RELU6"]


@pytest.fixture(scope="module")
def chain(by_hand):
    return by_hand.chain


def test_ops_and_their_counts(chain):
    info = deploy.model_info(chain(RELU_TWICE))
    assert [(op.name, op.is_custom, op.inputs, op.outputs) for op in info.ops] == [
        ("RELU", False, (0,), (1,)),
        ("RELU", False, (1,), (2,)),
        ("Own", True, (2,), (3,)),
        ("RELU6", False, (3,), (4,)),
    ]
    assert [(count.name, count.count) for count in info.op_counts] == [
        ("RELU", 2),
        ("Own", 1),
        ("RELU6", 1),
    ]
    assert info.custom_ops == ("Own",)
    assert info.description == "by hand"
    assert info.inputs == (("t0", 0),)
    assert info.outputs == (("t4", 4),)


def test_tensors(chain, by_hand):
    tensors = [
        by_hand.tensor("in", (1, 2, 3), "UINT8", 0.25, 7),
        by_hand.tensor("state", (), "FLOAT32", None, variable=True),
    ]
    info = deploy.model_info(chain(["RELU"], tensors))
    first, state = info.tensors
    assert (first.name, first.shape, first.dtype) == ("in", (1, 2, 3), "uint8")
    assert (first.scales, first.zero_points, first.quantized_axis) == ((0.25,), (7,), None)
    assert (state.shape, state.dtype, state.scales) == ((), "float32", ())
    assert (state.is_variable, state.is_float, info.is_stateful) == (True, True, True)
    assert info.float_tensors == (state,)
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.name = "other"


@pytest.mark.parametrize("quantization", ["int8", "float16"])
def test_the_runtime_sees_the_same_tensors(converted, quantization):
    content = converted(quantization).content
    info = deploy.model_info(content)
    runtime = litert.Interpreter(model_content=content)
    details = {detail["index"]: detail for detail in runtime.get_tensor_details()}
    for tensor in info.tensors:
        detail = details[tensor.index]
        assert (tensor.name, tensor.shape) == (detail["name"], tuple(detail["shape"]))
        assert tensor.dtype == np.dtype(detail["dtype"]).name
        parameters = detail["quantization_parameters"]
        np.testing.assert_array_equal(np.float32(tensor.scales), parameters["scales"])
        np.testing.assert_array_equal(tensor.zero_points, parameters["zero_points"])
    (signature,) = info.signatures
    assert runtime.get_signature_list()[signature.key] == {
        "inputs": [name for name, _ in signature.inputs],
        "outputs": [name for name, _ in signature.outputs],
    }


def test_sizes_add_up(converted):
    artifact = converted("int8")
    info = deploy.model_info(artifact.content)
    assert info.size_bytes == artifact.size_bytes > sum(info.buffer_bytes)
    # int8 weights, int32 biases; the reshape's two numbers.
    weights = 9 * 8 + 72 * 32 + 32 * 4
    constants = sum(t.buffer_bytes for t in info.tensors if t.is_constant)
    assert constants == weights + 4 * (8 + 32 + 4) + 4 * 2
    per_channel = [t for t in info.tensors if len(t.scales) == 32]
    assert {t.quantized_axis for t in per_channel} == {0}


def test_paths_and_bytes(converted, tmp_path):
    saved = converted("int8").save(tmp_path / "student.tflite")
    assert deploy.model_info(saved.path) == deploy.model_info(saved.content)
    assert deploy.model_info(str(saved.path)) == deploy.model_info(bytearray(saved.content))


def test_what_is_no_flatbuffer(converted, tmp_path):
    content = converted("int8").content
    for bad in (b"", b"TFL3", b"PK\x03\x04" + bytes(100)):
        with pytest.raises(ValueError, match="Expected a TFLite flatbuffer, with 'TFL3' at byte 4"):
            deploy.model_info(bad)
    path = tmp_path / "student.keras"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ValueError, match=r"student\.keras', 104 bytes"):
        deploy.model_info(path)
    with pytest.raises(TypeError, match="Expected a TFLite flatbuffer as bytes"):
        deploy.model_info(3)
    # Cut short anywhere it is read or refused, and never anything else.
    refused = 0
    for length in range(8, len(content), len(content) // 40):
        try:
            deploy.model_info(content[:length])
        except ValueError as err:
            refused += "cut short or damaged" in str(err)
    assert refused > 20


def test_options_by_their_names(converted):
    """Of the student's layers, as its Keras code says: 3x3 convolution with ReLU, 2x2 pooling."""
    info = deploy.model_info(converted("int8").content)
    first = {op.name: op.options for op in reversed(info.ops)}
    conv = first["CONV_2D"]
    assert (conv["padding"], conv["fused_activation_function"]) == ("VALID", "RELU")
    assert (conv["stride_w"], conv["stride_h"]) == (1, 1)
    assert (conv["dilation_w_factor"], conv["dilation_h_factor"]) == (1, 1)
    pool = first["MAX_POOL_2D"]
    assert (pool["filter_width"], pool["filter_height"], pool["padding"]) == (2, 2, "VALID")
    dense = first["FULLY_CONNECTED"]
    assert dense["fused_activation_function"] == "RELU"
    assert (dense["weights_format"], dense["keep_num_dims"]) == ("DEFAULT", False)


def test_options_that_are_vectors_and_enumerations(by_hand):
    reshape = schema.ReshapeOptionsT()
    reshape.newShape = [2, 2]
    tensors = [by_hand.tensor("a")], [by_hand.tensor("b", (2, 2))]
    (op,) = deploy.model_info(by_hand.one_op("RESHAPE", *tensors, reshape, "ReshapeOptions")).ops
    assert op.options == {"new_shape": (2, 2)}
    cast = schema.CastOptionsT()
    cast.inDataType, cast.outDataType = schema.TensorType.INT8, schema.TensorType.FLOAT32
    (op,) = deploy.model_info(by_hand.one_op("CAST", *tensors, cast, "CastOptions")).ops
    assert op.options == {"in_data_type": "INT8", "out_data_type": "FLOAT32"}
    # A number that the enumeration does not have is shown as it is.
    pool = schema.Pool2DOptionsT()
    pool.padding = 9
    (op,) = deploy.model_info(by_hand.one_op("MAX_POOL_2D", *tensors, pool, "Pool2DOptions")).ops
    assert op.options["padding"] == "9"
    (op,) = deploy.model_info(by_hand.chain(["+Own"])).ops
    assert op.options == {}


def test_origin_is_the_first_outputs_name(by_hand, converted):
    tensors = [by_hand.tensor("in"), by_hand.tensor("dense/BiasAdd;dense/MatMul;other")]
    info = deploy.model_info(by_hand.chain(["RELU"], tensors))
    assert info.origin(info.ops[0]) == "dense/BiasAdd"
    assert info.origin(dataclasses.replace(info.ops[0], outputs=())) == ""
    # Of a real student: Keras's layers, with the number that TensorFlow adds.
    info = deploy.model_info(converted("int8").content)
    assert info.origin(info.ops[0]).startswith("relu_1/")


def test_values_of_constants(converted, student):
    """scale * stored is the Keras weight, to half a step."""
    info = deploy.model_info(converted("int8").content)
    logits = next(op for op in reversed(info.ops) if op.name == "FULLY_CONNECTED")
    kernel = info.tensor(logits.inputs[1])
    stored = info.values(kernel)
    assert (stored.shape, stored.dtype) == ((4, 32), "int8")
    scales = np.asarray(kernel.scales)[:, None]
    expected = student.get_layer("logits").get_weights()[0].T
    # Rounding to the nearest step, and float32's own in the scale.
    assert np.all(np.abs(scales * stored - expected) <= scales * (0.5 + 1e-4))
    assert info.values(info.tensor(logits.outputs[0])) is None


def test_values_without_a_numpy_type(by_hand):
    def change(model):
        model.subgraphs[0].tensors[0].type = schema.TensorType.INT4
        model.buffers[0].data = [0x21, 0x43]

    info = deploy.model_info(by_hand.edited(by_hand.chain(["RELU"]), with_constant(change)))
    with pytest.raises(ValueError, match=r"Expected a constant of .* Received: 't0' of int4"):
        info.values(info.tensors[0])


def with_constant(change):
    """The second tensor stays without a buffer of its own."""

    def both(model):
        model.buffers.append(schema.BufferT())
        model.subgraphs[0].tensors[1].buffer = 1
        change(model)

    return both


def test_buffers_behind_the_flatbuffer(by_hand):
    """As files beyond two gigabytes have them: offset and size, from the start of the file."""
    numbers = np.array([1, -2, 3, -4], "int8")

    def behind(offset, size):
        def change(model):
            model.buffers[0].offset, model.buffers[0].size = offset, size

        return by_hand.edited(by_hand.chain(["RELU"]), with_constant(change))

    length = len(behind(1 << 20, 4))
    content = behind(length, 4) + numbers.tobytes()
    assert len(content) == length + 4
    info = deploy.model_info(content)
    first, second = info.tensors
    assert (first.is_constant, first.buffer_bytes, second.is_constant) == (True, 4, False)
    np.testing.assert_array_equal(info.values(first), numbers.reshape(1, 4))
    assert buffer_content(content, 0) == numbers.tobytes()
    with pytest.raises(ValueError, match="a buffer leads from byte"):
        deploy.model_info(content[:-1])


def test_sparse_constants_are_told_and_not_read(by_hand):
    def change(model):
        tensor = model.subgraphs[0].tensors[0]
        tensor.sparsity = schema.SparsityParametersT()
        model.buffers[0].data = [1, 2]

    info = deploy.model_info(by_hand.edited(by_hand.chain(["RELU"]), with_constant(change)))
    assert (info.tensors[0].is_sparse, info.tensors[1].is_sparse) == (True, False)
    assert info.values(info.tensors[0]) is None


def test_no_interpreter_and_no_tensorflow_is_needed():
    """Seen from `inspect.py` itself: the packages' own `__init__` files are left out."""
    folder = pathlib.Path(inspect.__file__).parent
    code = (
        "import sys, types\n"
        f"for name, path in (('keras_kd', {str(folder.parent)!r}),"
        f" ('keras_kd.deploy', {str(folder)!r})):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "    sys.modules[name].__path__ = [path]\n"
        "from keras_kd.deploy import inspect\n"
        "inspect.builtin_op_names()\n"
        "print('tensorflow' in sys.modules, 'ai_edge_litert.interpreter' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"], done.stderr


@pytest.mark.data
def test_every_published_model_is_read(data_folder):
    paths = sorted(data_folder.rglob("*.tflite"))
    assert paths
    for path in paths:
        info = deploy.model_info(path)
        assert info.ops
        assert info.inputs
        for op in info.ops:
            assert all(info.tensor(i, op.subgraph) for i in op.inputs + op.outputs if i >= 0)
