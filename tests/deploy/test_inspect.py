"""What is read from a flatbuffer, against what was put there; and against the runtime's view."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert import interpreter as litert

from keras_kd import deploy
from keras_kd.deploy import inspect

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


def test_no_interpreter_and_no_tensorflow_is_needed():
    """Seen from the modules that `inspect.py` itself imports; the package's `__init__` is heavy."""
    code = (
        "import importlib.util, sys; "
        f"spec = importlib.util.spec_from_file_location('own', {inspect.__file__!r}); "
        "module = importlib.util.module_from_spec(spec); sys.modules['own'] = module; "
        "spec.loader.exec_module(module); module.builtin_op_names(); "
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
