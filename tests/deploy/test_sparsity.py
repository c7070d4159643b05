"""Zeros and shared values are counted alike in a Keras model and in the file made of it."""

import gzip

import keras
import numpy as np
import pytest
from keras import layers

from keras_kd import deploy

X = np.random.default_rng(0).normal(size=(60, 6, 6, 2)).astype("float32")


def student():
    """36 weights of which 9 are 0 and 3 values; 36 of which 18 are 0; 12 of which none is."""
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(2, 3, use_bias=True, name="conv")(inputs)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(3, name="dense")(x))
    conv = np.tile([0.0, -1.0, 1.0, 1.0], 9).reshape(3, 3, 2, 2)
    depthwise = np.concatenate([np.zeros(18), np.linspace(0.5, 1.0, 18)]).reshape(3, 3, 2, 2)
    dense = np.linspace(0.5, 1.0, 12).reshape(4, 3)
    for name, kernel in (("conv", conv), ("depthwise", depthwise), ("dense", dense)):
        layer = model.get_layer(name)
        layer.set_weights([kernel, np.ones(layer.bias.shape)])
    return model


EXPECTED = [(36, 9, 3), (36, 18, 19), (12, 0, 12)]


def counted(found):
    return [(k.weights, k.zeros, k.unique) for k in found.kernels]


def test_counts_the_kernels_of_a_keras_model():
    found = deploy.sparsity(student())
    assert counted(found) == EXPECTED
    assert [k.name for k in found.kernels] == ["conv/kernel", "depthwise/kernel", "dense/kernel"]
    assert found.weights == 84
    assert found.sparsity == 27 / 84
    assert found.kernels[0].sparsity == 0.25
    assert (found.size_bytes, found.compressed_bytes) == (None, None)


@pytest.mark.slow
def test_counts_the_same_in_a_float16_file():
    """Its weights stand behind an op that makes float32 of them."""
    found = deploy.sparsity(deploy.convert(student(), quantization="float16"))
    assert counted(found) == EXPECTED


def test_zeros_are_zeros_in_int8_too(tmp_path):
    path = tmp_path / "student.tflite"
    artifact = deploy.convert(student(), path, calibration=X)
    found = deploy.sparsity(artifact)
    assert [(k.weights, k.zeros) for k in found.kernels] == [case[:2] for case in EXPECTED]
    # One value has one code where all channels share the largest value.
    assert found.kernels[0].unique == 3
    assert found.size_bytes == path.stat().st_size
    assert found.compressed_bytes == len(gzip.compress(path.read_bytes()))
    assert deploy.sparsity(path) == deploy.sparsity(str(path)) == found
    assert deploy.sparsity(artifact.content) == found
    text = found.report().text()
    assert f"{found.size_bytes:,} bytes, {found.compressed_bytes:,} after gzip." in text


@pytest.mark.slow
def test_an_embedding_is_a_kernel_and_a_shared_one_counts_once():
    inputs = keras.Input((2,), dtype="int32")
    dense = layers.Dense(4, name="dense")
    x = layers.Flatten()(layers.Embedding(5, 2)(inputs))
    model = keras.Model(inputs, dense(dense(x)))
    found = deploy.sparsity(deploy.convert(model, quantization="float32"))
    assert [k.weights for k in found.kernels] == [10, 16]


def test_reports_each_kernel():
    report = deploy.sparsity(student()).report()
    text = report.text()
    assert "32.1% of 84 weights are zero." in text
    assert "bytes" not in text
    assert "conv/kernel" in text
    assert report.data["kernels"][0]["zeros"] == 9


def test_refuses_what_has_no_kernels_to_count():
    with pytest.raises(TypeError, match=r"Expected a Keras model, an Artifact, .* Received: dict"):
        deploy.sparsity({})
    with pytest.raises(ValueError, match="Expected a TFLite flatbuffer"):
        deploy.sparsity(b"no model at all")
