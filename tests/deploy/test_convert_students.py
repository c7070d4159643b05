"""Kinds of students: structures of inputs and outputs, subclassed, mixed precision, integers."""

import keras
import numpy as np
import pytest

from keras_kd import deploy

# Sums of at most some hundred float32 terms of size 1 or so: 300 * 2**-24 = 2e-5.
ATOL = 2e-5


def dense(units, name=None):
    return keras.layers.Dense(units, kernel_initializer="random_normal", name=name)


@pytest.fixture
def vectors(rng):
    """Two inputs of 60 examples each, whose names are in the other order than they are."""
    return {
        "zebra": rng.normal(size=(60, 4)).astype("float32"),
        "ant": rng.normal(size=(60, 3)).astype("float32"),
    }


def test_dicts_in_and_out_in_int8(vectors):
    inputs = {name: keras.Input(x.shape[1:], name=name) for name, x in vectors.items()}
    joined = keras.layers.Concatenate()([inputs["zebra"], inputs["ant"]])
    outputs = {"scores": dense(5)(joined), "box/x": dense(2)(inputs["ant"])}
    model = keras.Model(inputs, outputs)
    artifact = deploy.convert(model, calibration=vectors)
    assert {t.name: t.shape for t in artifact.inputs} == {"zebra": (1, 4), "ant": (1, 3)}
    assert [t.name for t in artifact.outputs] == ["scores", "box/x"]
    expected = model.predict(vectors, verbose=0)
    for runtime in ("litert", "litert_reference", "tflm"):
        found = deploy.predict(artifact, vectors, runtime)
        assert found.keys() == expected.keys()
        for tensor in artifact.outputs:
            error = np.abs(found[tensor.name] - expected[tensor.name]).max()
            # One layer: half a step of its own and of each of at most 7 inputs, which the weights
            # (up to some three deviations of .05) shrink, and as much again for the weights.
            assert error <= 3 * tensor.scale


def test_lists_keep_the_models_order(vectors):
    """Also an output that is given twice, and one that is an input."""
    first, second = (keras.Input(x.shape[1:], name=name) for name, x in vectors.items())
    wide = dense(5)(keras.layers.Concatenate()([first, second]))
    twice = dense(2)(wide)
    model = keras.Model([first, second], [wide, twice, second, twice])
    artifact = deploy.convert(model, quantization="float32")
    assert [t.name for t in artifact.inputs] == ["zebra", "ant"]
    assert [t.shape for t in artifact.inputs] == [(1, 4), (1, 3)]
    assert [t.name for t in artifact.outputs] == [f"output_{i}" for i in range(4)]
    x = list(vectors.values())
    expected = model.predict(x, verbose=0)
    found = deploy.predict(artifact, x)
    assert isinstance(found, list)
    assert all(np.allclose(f, e, atol=ATOL) for f, e in zip(found, expected, strict=True))
    by_name = deploy.predict(artifact, vectors)
    assert all(np.array_equal(f, n) for f, n in zip(found, by_name, strict=True))


class Subclassed(keras.Model):
    """A dict in, a tuple out, no `training` argument, a loss, and a layer inside a plain layer."""

    def __init__(self):
        super().__init__(name="own")
        self.first = dense(3)
        self.second = dense(2)

    def call(self, inputs):
        hidden = self.first(inputs["a"])
        self.add_loss(keras.ops.sum(hidden))
        return self.second(hidden), inputs["b"] * 2


def test_a_subclassed_student(rng):
    x = {name: rng.normal(size=(5, 4)).astype("float32") for name in "ab"}
    model = Subclassed()
    model(x)
    losses = [float(loss) for loss in model.losses]
    artifact = deploy.convert(model, quantization="float32")
    # Tracing has left no tensor of its graph behind.
    assert [float(loss) for loss in model.losses] == losses
    assert [t.name for t in artifact.inputs] == ["a", "b"]
    expected = model(x)
    found = deploy.predict(artifact, x)
    assert all(np.allclose(f, e, atol=ATOL) for f, e in zip(found, expected, strict=True))


def test_a_mixed_precision_student_is_converted_from_a_float32_copy(rng):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    inner_inputs = keras.Input((6, 4))
    inner = keras.layers.TimeDistributed(dense(3))(inner_inputs)
    backbone = keras.Model(inner_inputs, keras.layers.Flatten()(inner), name="backbone")
    inputs = keras.Input((6, 4))
    model = keras.Model(inputs, keras.layers.Dense(3, dtype="float32")(backbone(inputs)))
    keras.config.set_dtype_policy(policy)
    x = rng.normal(size=(20, 6, 4)).astype("float32")
    artifact = deploy.convert(model, quantization="float32")
    assert {t.dtype for t in deploy.model_info(artifact.content).float_tensors} == {"float32"}
    # What float16 rounds in Keras: two layers' inputs, weights and outputs, 2**-11 of them each, of
    # numbers that sum to no more than 4 or so.
    error = np.abs(deploy.predict(artifact, x) - model.predict(x, verbose=0)).max()
    assert error <= 6 * 4 * 2**-11
    assert model.get_layer("backbone").dtype_policy.name == "mixed_float16"


def test_a_subclassed_mixed_precision_student_is_refused():
    class Mixed(keras.Model):
        def __init__(self):
            super().__init__(dtype="mixed_float16", name="halves")
            self.only = keras.layers.Dense(2, dtype="mixed_float16", name="only")

        def call(self, x):
            return self.only(x)

    model = Mixed()
    model(np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"computes in float32.*'halves'.*only.*Hint"):
        deploy.convert(model, quantization="float32")


def test_integer_inputs_stay_integers(rng):
    inputs = keras.Input((5,), dtype="int32", name="ids")
    x = keras.layers.Embedding(20, 8)(inputs)
    model = keras.Model(inputs, dense(3)(keras.layers.GlobalAveragePooling1D()(x)))
    ids = rng.integers(0, 20, (60, 5))
    artifact = deploy.convert(model, calibration=ids)
    assert (artifact.inputs[0].dtype, artifact.inputs[0].scale) == ("int32", None)
    error = np.abs(deploy.predict(artifact, ids) - model.predict(ids, verbose=0)).max()
    assert error <= 3 * artifact.outputs[0].scale
    with pytest.raises(ValueError, match="Expected no input_dtype for a student of integer"):
        deploy.convert(model, calibration=ids, input_dtype="uint8")
    with pytest.raises(ValueError, match="whole numbers for input 'ids'"):
        deploy.convert(model, calibration=ids + 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_a_zoo_of_layers(rng, quantization):
    """Layers of small vision and sequence students, in one model each."""
    layers = keras.layers
    inputs = keras.Input((12, 12, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.RandomFlip()(x)
    x = layers.SeparableConv2D(8, 3, activation="swish")(x)
    x = layers.DepthwiseConv2D(3, dilation_rate=2)(layers.LeakyReLU()(x))
    x = layers.UpSampling2D()(layers.Conv2D(8, 1, groups=2, activation="gelu")(x))
    x = layers.Conv2DTranspose(4, 2, strides=2)(x)
    # Else the signal of random layers dies out, and a range of nothing cannot be quantized.
    x = layers.BatchNormalization(momentum=0, epsilon=1e-9)(x)
    x = layers.Multiply()([layers.ReLU(6)(x), layers.Activation("sigmoid")(layers.Dropout(0.5)(x))])
    x = layers.Reshape((24, 96))(x)
    x = layers.LSTM(4, unroll=True)(layers.Conv1D(6, 3)(x)[:, :4])
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    images = rng.integers(0, 256, (60, 12, 12, 3)).astype("float32")
    model(images, training=True)  # The statistics of BatchNormalization.
    calibration = images if quantization == "int8" else None
    artifact = deploy.convert(model, quantization=quantization, calibration=calibration)
    # Not on the reference kernels, which have no int8 TILE (UpSampling2D).
    found = deploy.predict(artifact, images, "litert")
    expected = model.predict(images, verbose=0)
    assert expected.std(axis=0).min() > 0.01  # The outputs depend on the images.
    error = np.abs(found - expected).max()
    # Probabilities. In int8 the LSTM is the coarse part: two steps of its gates, 1/128 each.
    assert error <= (ATOL if quantization == "float32" else 2 / 128)


def build_later():
    return keras.Sequential([keras.layers.Dense(2)])


def loose():
    return keras.Sequential([keras.Input((None, 3)), keras.layers.Dense(2)])


def nested():
    inputs = keras.Input((3,))
    return keras.Model(inputs, {"a": [dense(2)(inputs), dense(2)(inputs)]})


def quantized_by_keras():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")])
    model.get_layer("head").quantize("int8")
    return model


class TwoArguments(keras.Model):
    def call(self, a, b):
        return a + b


def two_arguments():
    model = TwoArguments()
    model(np.zeros((1, 3)), np.zeros((1, 3)))
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (build_later, r"Expected a built student.*Sequential.*Hint: call it once"),
        (loose, r"Expected inputs of fixed size.*\(None, None, 3\).*Hint: fix the sizes"),
        (nested, r"flat dict, list or tuple.*nested outputs in a"),
        (quantized_by_keras, r"Expected a float student.*head.*Hint"),
        (two_arguments, r"Expected a student of one argument.*'a', 'b'.*Hint"),
    ],
)
def test_students_that_cannot_be_converted(make, message):
    with pytest.raises(ValueError, match=message):
        deploy.convert(make(), quantization="float32")
