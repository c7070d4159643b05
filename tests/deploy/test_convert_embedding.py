"""Embeddings: one op on every runtime, and what the layer computes."""

import contextlib

import keras
import numpy as np
import pytest

from keras_kd import deploy
from keras_kd.deploy.embedding import traced_as_gather

TOKENS, VOCABULARY = 6, 12
RUNTIMES = ("litert", "litert_reference", "tflm")


@pytest.fixture
def ids(rng):
    return rng.integers(0, VOCABULARY, (60, TOKENS)).astype("int32")


def reader(dtype="int32"):
    """Two uses of one table, in a model inside, and what is read of them."""
    inputs = keras.Input((TOKENS,), dtype=dtype, name="ids")
    table = keras.layers.Embedding(VOCABULARY, 8, name="table")
    inner = keras.Input((TOKENS,), dtype=dtype)
    inside = keras.Model(inner, table(inner), name="inside")
    x = keras.layers.Concatenate()([inside(inputs), table(inputs[:, ::-1])])
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(x)))


def ops(artifact):
    return {op.name: op.count for op in deploy.model_info(artifact.content).op_counts}


@pytest.mark.parametrize("quantization", ["int8", "float32"])
def test_it_runs_on_every_runtime(ids, quantization):
    model = reader()
    calibration = ids if quantization == "int8" else None
    artifact = deploy.convert(model, quantization=quantization, calibration=calibration)
    found = ops(artifact)
    assert found["GATHER"] == 2
    assert not {"LESS", "SELECT", "SELECT_V2"} & found.keys()
    expected = model.predict(ids, verbose=0)
    # Rounded are the table, its mean, the kernel and the output, each to half a step; a row that
    # is another would be off by some hundred. In floats the means are summed in another order.
    most = 2 * artifact.outputs[0].scale if quantization == "int8" else 1e-6
    for runtime in RUNTIMES:
        assert np.abs(deploy.predict(artifact, ids, runtime) - expected).max() <= most


def test_tokens_that_come_as_floats(ids):
    model = reader("float32")
    artifact = deploy.convert(model, quantization="float32")
    found = deploy.predict(artifact, ids.astype("float32"), "tflm")
    np.testing.assert_allclose(found, model.predict(ids, verbose=0), atol=1e-6)


def test_the_layer_stays_as_it_is(ids):
    """Within the context negative tokens are none, behind it they count from the table's end."""
    model = reader()
    table = model.get_layer("table")
    with contextlib.suppress(KeyError), traced_as_gather(model):
        assert "call" in vars(table)
        np.testing.assert_array_equal(table(ids), table.embeddings.numpy()[ids])
        raise KeyError
    assert "call" not in vars(table)
    np.testing.assert_array_equal(table(ids - VOCABULARY), table(ids))


def test_a_subclass_keeps_its_own_call(ids):
    class Doubled(keras.layers.Embedding):
        def call(self, inputs):
            return 2.0 * super().call(inputs)

    inputs = keras.Input((TOKENS,), dtype="int32")
    model = keras.Model(inputs, Doubled(VOCABULARY, 4)(inputs))
    expected = model(ids)
    with traced_as_gather(model):
        np.testing.assert_array_equal(model(ids), expected)
