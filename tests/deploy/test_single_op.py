"""Ops cut out of a model compute what they computed in it."""

import math

import numpy as np
import pytest

from keras_kd import deploy
from keras_kd.deploy.artifact import interface
from keras_kd.deploy.interpreter import Recorder, to_stored
from keras_kd.deploy.single_op import Cutter


def check_every_op(content, examples):
    """Runs the model, then each op on the tensors that it was handed; all bits must agree."""
    info = deploy.model_info(content)
    inputs, _ = interface(info)
    whole, cutter = Recorder(content), Cutter(info)
    for example in examples:
        whole.run([to_stored(example, tensor) for tensor in inputs])
        for op in info.ops:
            if all(cutter.derived(i) for i in op.inputs if i >= 0):
                continue
            cut = cutter.cut(op)
            alone = Recorder(cut)
            alone.run([whole.tensor(index) for index in cutter.inputs(op)])
            outputs = [index for _, index in deploy.model_info(cut).outputs]
            for index, place in zip(op.outputs, outputs, strict=True):
                np.testing.assert_array_equal(alone.tensor(place), whole.tensor(index))


@pytest.mark.parametrize("scheme", ["float32", "int8", "int16x8", "float16", "dynamic_range"])
def test_every_op_alone(converted, images, scheme):
    check_every_op(converted(scheme).content, [images[:1], images[1:2]])


def test_what_derives_a_constant_comes_along(converted):
    """float16 weights are widened by an op of the model, which the cut model needs too."""
    info = deploy.model_info(converted("float16").content)
    cutter = Cutter(info)
    dense = next(op for op in info.ops if op.name == "FULLY_CONNECTED")
    names = [op.name for op in deploy.model_info(cutter.cut(dense)).ops]
    assert names[-1] == "FULLY_CONNECTED"
    assert set(names[:-1]) == {"DEQUANTIZE"}
    assert len(cutter.inputs(dense)) == 1


def test_only_the_ops_own_constants_are_kept(converted):
    artifact = converted("int8")
    info = deploy.model_info(artifact.content)
    cutter = Cutter(info)
    for op in info.ops:
        own = sum(info.tensor(i).buffer_bytes for i in op.inputs if i >= 0)
        kept = deploy.model_info(cutter.cut(op)).buffer_bytes
        assert sum(kept) == own


def test_the_model_is_left_as_it_was(converted):
    info = deploy.model_info(converted("int8").content)
    cutter = Cutter(info)
    first = [cutter.cut(op) for op in info.ops]
    assert [cutter.cut(op) for op in info.ops] == first


@pytest.mark.data
def test_an_lstm_alone(data_folder):
    """Its state and the scales of its inner tensors come along, and each run starts afresh."""
    content = (data_folder / "models/tflite_micro/trained_lstm_int8.tflite").read_bytes()
    shape = interface(deploy.model_info(content))[0][0].shape
    x = np.random.default_rng(0).uniform(0, 1, (2, *shape[1:])).astype("float32")
    assert math.prod(shape) > 1
    check_every_op(content, [x[:1], x[1:]])
