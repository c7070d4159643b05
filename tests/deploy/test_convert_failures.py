"""The converter's failures and crashes, and models that a device would not run: one error each."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import deploy
from keras_kd.deploy import conversion_process
from keras_kd.deploy.float_tensors import price


@pytest.fixture
def dense():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """A function that puts other code in the place of the worker."""

    def replace(code):
        path = tmp_path / "worker.py"
        path.write_text(code)
        monkeypatch.setattr(conversion_process, "WORKER", path)

    return replace


class Loop(keras.layers.Layer):
    """Adds the steps of a sequence up, one after the other."""

    def call(self, x):
        return tf.scan(lambda total, step: total + step, tf.transpose(x, [1, 0, 2]))[-1]


def test_a_crash_of_the_converter_is_one_error(rng):
    """A real one: full int8 of a loop ends TensorFlow's converter with a SIGSEGV."""
    model = keras.Sequential([keras.Input((6, 4)), Loop()])
    with pytest.raises(deploy.ConversionError, match="ended by SIGSEGV") as caught:
        deploy.convert(model, calibration=rng.normal(size=(60, 6, 4)))
    message = str(caught.value)
    # Where in Python it was, and what to do; and not TensorFlow's greetings.
    assert "calibrator.py" in message
    assert "replace a while_loop or scan" in message
    assert "cudart_stub" not in message


def test_a_worker_that_is_killed_is_named_with_its_last_words(dense, worker):
    worker(
        "import os, signal, sys\n"
        "for i in range(100): print('line', i, file=sys.stderr, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with pytest.raises(deploy.ConversionError, match="ended by SIGKILL") as caught:
        deploy.convert(dense, quantization="float32")
    message = str(caught.value)
    assert "line 99" in message
    assert "line 9\n" not in message
    assert "out of memory" in message


def test_a_worker_that_takes_too_long_is_stopped(dense, worker):
    worker("import time\nprint('begun', flush=True)\ntime.sleep(60)\n")
    with pytest.raises(deploy.ConversionError, match=r"within timeout_s=2 seconds") as caught:
        deploy.convert(dense, quantization="float32", timeout_s=2)
    assert "begun" in str(caught.value)


def test_an_exception_in_the_worker_is_shown_without_its_stack(dense, worker):
    worker("raise RuntimeError('no such op: ROLL')")
    with pytest.raises(deploy.ConversionError, match="RuntimeError: no such op: ROLL") as caught:
        deploy.convert(dense, quantization="float32")
    assert "Traceback" not in str(caught.value)


class Special(keras.layers.Layer):
    """Two functions that TFLite has no op for."""

    def call(self, x):
        return tf.math.digamma(x * x + 1.0) + tf.math.erfinv(tf.tanh(x) * 0.5)


def test_every_flex_and_custom_op_is_named():
    model = keras.Sequential([keras.Input((4,)), Special()])
    with pytest.raises(deploy.ConversionError, match=r"needs Digamma, Erfinv \(Flex and custom"):
        deploy.convert(model, quantization="float32")


class Table(keras.layers.Layer):
    """Holds what no flatbuffer can."""

    def __init__(self):
        super().__init__()
        pairs = tf.lookup.KeyValueTensorInitializer([1, 2], [3, 4])
        self.table = tf.lookup.StaticHashTable(pairs, 0)

    def call(self, x):
        return tf.cast(self.table.lookup(tf.cast(x, tf.int32)), tf.float32)


def test_a_lookup_table_is_refused():
    model = keras.Sequential([keras.Input((4,)), Table()])
    with pytest.raises(ValueError, match="a lookup table"):
        deploy.convert(model, quantization="float32")


# -- float tensors in integer models ---------------------------------------------------------------


def normalized():
    """Layers whose names mislead: TensorFlow calls `norm`'s scope "norm_1"."""
    inputs = keras.Input((4, 6))
    x = keras.layers.Dense(5, name="dense_1")(inputs)
    x = keras.layers.LayerNormalization(name="norm_1")(x)
    x = keras.layers.Dense(3, name="dense")(x)
    return keras.Model(inputs, keras.layers.LayerNormalization(name="norm")(x))


@pytest.fixture
def sequences(rng):
    return rng.normal(size=(60, 4, 6)).astype("float32")


def test_every_float_tensor_is_named_with_its_layer(sequences):
    with pytest.raises(deploy.ConversionError, match="Received: 4 float tensors") as caught:
        deploy.convert(normalized(), calibration=sequences)
    message = str(caught.value)
    assert message.count("from LayerNormalization 'norm_1'") == 2
    assert message.count("from LayerNormalization 'norm'") == 2
    assert "Dense" not in message
    assert "allow_float=['norm', 'norm_1']" in message
    # And what they cost: of each layer a mean and its inverse root are float, 8 numbers.
    assert re.search(r"\d+ of \d+ ops read or write them, and 16 of the \d+ numbers", message)
    off = re.search(r"off by up to ([\d.]+)% of an output's range", message)
    assert 0 < float(off[1]) < 20


def test_the_price_of_float_tensors(by_hand):
    tensors = [
        by_hand.tensor("a", shape=(1, 4)),
        by_hand.tensor("b", shape=(1, 6), dtype="FLOAT32", scale=None),
        by_hand.tensor("c", shape=(1, 10), dtype="FLOAT32", scale=None),
        by_hand.tensor("d", shape=(1, 4)),
        by_hand.tensor("e", shape=(1, 12)),
    ]
    content = by_hand.chain(["DEQUANTIZE", "NEG", "QUANTIZE", "PACK"], tensors)
    found = price(deploy.model_info(content))
    assert (found.ops, found.all_ops) == (3, 4)
    assert (found.elements, found.all_elements) == (6 + 10, 6 + 10 + 4 + 12)
    assert "3 of 4 ops read or write them, and 16 of the 32 numbers" in found.described()
    assert "(50%)" in found.described()


def test_float_tensors_that_are_allowed(sequences):
    model = normalized()
    artifact = deploy.convert(model, calibration=sequences, allow_float=("LayerNormalization",))
    info = deploy.model_info(artifact.content)
    assert len(info.float_tensors) == 4
    assert (artifact.inputs[0].dtype, artifact.outputs[0].dtype) == ("int8", "int8")
    # By layer, one of the two is not enough; a name of nothing is a typing error.
    from keras_kd.deploy.float_tensors import left_over, unknown_names

    left = left_over(info, model)
    assert [found.layer for found in left if "norm" not in found.names] == ["norm_1", "norm_1"]
    known = ("norm", "LayerNormalization", "NEG", left[0].tensor, "dense", "FULLY_CONNECTED")
    assert unknown_names((*known, "nrom"), info, model, left) == ["nrom"]


def test_int16x8_names_them_too(sequences):
    """And not only the first op that has no int16, at which the converter would stop."""
    inputs = keras.Input((4, 6))
    x = keras.layers.PReLU(name="first")(keras.layers.Dense(5)(inputs))
    model = keras.Model(inputs, keras.layers.LayerNormalization(name="second")(x))
    with pytest.raises(deploy.ConversionError, match="float tensors") as caught:
        deploy.convert(model, quantization="int16x8", calibration=sequences)
    assert "PReLU 'first'" in str(caught.value)
    assert "LayerNormalization 'second'" in str(caught.value)


def test_a_float_output_is_not_passed_for_an_integer_one(rng):
    """int16x8 has no PRELU: at the end of the student, there is nothing to make int16."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.PReLU(name="last")(keras.layers.Dense(5)(inputs)))
    x = rng.normal(size=(60, 4))
    with pytest.raises(
        deploy.ConversionError, match=r"Expected int16 for .*output_dtype='float32'"
    ):
        deploy.convert(
            model, quantization="int16x8", calibration=x, allow_float=("last", "PRELU", "dense")
        )


def test_nothing_is_left_behind(dense, worker, tmp_path, monkeypatch):
    """Neither the temporary folder nor a file at the path, when the conversion fails."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    worker("raise RuntimeError('no')")
    with pytest.raises(deploy.ConversionError):
        deploy.convert(dense, tmp_path / "student.tflite", quantization="float32")
    assert [p.name for p in tmp_path.iterdir()] == ["worker.py"]
    assert np.isfinite(dense.get_weights()[0]).all()
