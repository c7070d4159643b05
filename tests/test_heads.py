import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_kd import heads


def model_ending_in(*last, units=3):
    x = inputs = keras.Input((4,))
    x = layers.Dense(units)(x)
    for layer in last:
        x = layer(x)
    return keras.Model(inputs, x)


def nested(activation):
    head = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation=activation)])
    inputs = keras.Input((4,))
    return keras.Model(inputs, head(inputs))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda: model_ending_in(), "linear"),
        (lambda: model_ending_in(layers.Softmax()), "softmax"),
        (lambda: model_ending_in(layers.Softmax(axis=1)), "softmax"),
        (lambda: model_ending_in(layers.Activation("softmax")), "softmax"),
        (lambda: model_ending_in(layers.Activation("softmax", dtype="float32")), "softmax"),
        (lambda: model_ending_in(layers.Activation("sigmoid")), "sigmoid"),
        (lambda: model_ending_in(layers.Activation("log_softmax")), "linear"),
        (lambda: model_ending_in(ops.softmax), "softmax"),
        (lambda: model_ending_in(ops.sigmoid), "sigmoid"),
        (lambda: model_ending_in(layers.ReLU()), "relu"),
        (lambda: model_ending_in(layers.Activation("tanh")), "tanh"),
        (lambda: model_ending_in(layers.Softmax(), layers.Reshape((3,))), "softmax"),
        (lambda: model_ending_in(layers.Softmax(), layers.Identity()), "softmax"),
        (lambda: model_ending_in(layers.Dense(2, activation="softmax")), "softmax"),
        (lambda: nested("softmax"), "softmax"),
        (lambda: nested(None), "linear"),
        (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(1, "sigmoid")]), "sigmoid"),
        (
            lambda: keras.Sequential(
                [keras.Input((2, 4)), layers.TimeDistributed(layers.Dense(3, "softmax"))]
            ),
            "softmax",
        ),
    ],
)
def test_activation_is_found(model, expected):
    assert heads.activations(model()) == expected


def test_softmax_over_another_axis_is_not_taken_for_classes():
    inputs = keras.Input((4, 4))
    model = keras.Model(inputs, layers.Softmax(axis=1)(inputs))
    assert heads.activations(model) == "softmax over axis"


def test_structure_of_outputs_is_kept():
    inputs = keras.Input((4,))
    outputs = {
        "a": layers.Dense(3)(inputs),
        "b": [layers.Dense(3, "softmax")(inputs), layers.Dense(1, "sigmoid")(inputs)],
    }
    found = heads.activations(keras.Model(inputs, outputs))
    assert found == {"a": "linear", "b": ["softmax", "sigmoid"]}


def test_nothing_is_known_without_a_graph():
    class Custom(keras.Model):
        def call(self, x):
            return x

    class Overridden(keras.Model):
        def call(self, x):
            return ops.softmax(super().call(x))

    inputs = keras.Input((4,))
    assert heads.activations(Custom()) is None
    assert heads.activations(keras.Sequential([layers.Dense(3)])) is None
    assert heads.activations(Overridden(inputs, layers.Dense(3)(inputs))) is None


def test_a_subclass_that_leaves_call_alone_has_a_graph():
    class Named(keras.Model):
        def train_step(self, data):
            return super().train_step(data)

    inputs = keras.Input((4,))
    assert heads.activations(Named(inputs, layers.Dense(3, "softmax")(inputs))) == "softmax"


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_logits_are_those_before_the_activation(activation, rng):
    """Also the test of Keras's private `_keras_logits`: probabilities alone could not give -200."""
    before = (rng.normal(size=(2, 3)) * 100.0).astype("float32")
    after = getattr(keras.activations, activation)(ops.convert_to_tensor(before))
    assert heads.cached_logits(after) is not None
    np.testing.assert_array_equal(heads.logits(after, activation), before)


@pytest.mark.parametrize(
    "layer",
    [layers.Dense(3, activation="softmax"), layers.Softmax(), layers.Activation("sigmoid")],
)
def test_a_layer_leaves_its_logits_on_its_output(layer, rng):
    output = layer(rng.normal(size=(2, 3)).astype("float32"))
    assert heads.cached_logits(output) is not None


def test_logits_of_bare_probabilities(rng):
    before = rng.normal(size=(2, 3))
    softmax = (np.exp(before) / np.exp(before).sum(-1, keepdims=True)).astype("float32")
    recovered = ops.convert_to_numpy(heads.logits(softmax, "softmax"))
    # Up to a constant a row; the logarithm of a float32 rounded probability is off by 2^-24.
    np.testing.assert_allclose(
        recovered - recovered[:, :1], before - before[:, :1], rtol=1e-5, atol=1e-5
    )
    sigmoid = (1.0 / (1.0 + np.exp(-before))).astype("float32")
    np.testing.assert_allclose(heads.logits(sigmoid, "sigmoid"), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_logits_of_probabilities_at_the_limits_are_finite(activation):
    result = heads.logits(np.array([[0.0, 1.0]], "float32"), activation)
    assert np.isfinite(ops.convert_to_numpy(result)).all()


def test_what_looks_like_probabilities(rng):
    logits = ops.convert_to_tensor(rng.normal(size=(8, 4)).astype("float32"))
    assert heads.looks_like_probabilities(ops.softmax(logits))
    assert heads.looks_like_probabilities(ops.softmax(ops.cast(logits, "float16")))
    assert not heads.looks_like_probabilities(logits)
    assert not heads.looks_like_probabilities(ops.sigmoid(logits[:, :1]))
    assert not heads.looks_like_probabilities(keras.KerasTensor((None, 4)))
