"""A Keras 3 student in tf_keras, and back: the same numbers, or an error that names the layer."""

import os
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from keras import layers

from keras_kd.quantization import tfmot
from keras_kd.quantization.tfmot import layers as twin_layers
from keras_kd.quantization.tfmot import packages
from tests.quantization.tfmot_students import ARCHITECTURES, plain, randomize

# Both Keras run TensorFlow's kernels on the same float32 weights; where they differ it is by the
# order of a sum, some roundings of 2^-24 of numbers of about 1. The contract says 1e-5.
TOLERANCE = 1e-5

MAP, SEQUENCE, VECTOR = (6, 6, 4), (6, 4), (5,)
L2 = keras.regularizers.L2(0.01)

# A layer, with what is not its default, and the shape that it takes. Merging layers get two inputs.
LAYERS = [
    *((layers.Activation(name), VECTOR) for name in ("relu", "softmax", "silu", "gelu", "mish")),
    *((layers.Activation(name), VECTOR) for name in ("sigmoid", "tanh", "elu", "selu", "linear")),
    *((layers.Activation(name), VECTOR) for name in ("softplus", "softsign", "exponential")),
    *(
        (layer(), MAP)
        for layer in (
            layers.Add,
            layers.Average,
            layers.Maximum,
            layers.Minimum,
            layers.Multiply,
            layers.Subtract,
        )
    ),
    (layers.AveragePooling1D(3, 2, "same"), SEQUENCE),
    (layers.AveragePooling2D((3, 2), (2, 1), "same"), MAP),
    (layers.BatchNormalization(axis=1, epsilon=0.1, center=False, scale=True), MAP),
    (layers.Concatenate(axis=1), MAP),
    (layers.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="tanh"), SEQUENCE),
    (layers.Conv2D(4, (3, 2), (2, 1), "same", groups=2, use_bias=False), MAP),
    (layers.Conv2DTranspose(3, 3, 2, "same", output_padding=1, activation="relu"), MAP),
    (layers.Cropping1D((1, 2)), SEQUENCE),
    (layers.Cropping2D(((1, 0), (2, 1))), MAP),
    (layers.Dense(3, activation="sigmoid"), SEQUENCE),
    (layers.DepthwiseConv2D(3, 2, "same", depth_multiplier=2), MAP),
    (layers.Dropout(0.5, seed=1), MAP),
    (layers.ELU(0.7), VECTOR),
    (layers.Embedding(7, 3), None),
    (layers.Flatten(), MAP),
    (layers.GlobalAveragePooling1D(keepdims=True), SEQUENCE),
    (layers.GlobalAveragePooling2D(keepdims=True), MAP),
    (layers.GlobalMaxPooling1D(), SEQUENCE),
    (layers.GlobalMaxPooling2D(), MAP),
    (layers.LayerNormalization(axis=[1, 2], epsilon=0.1), MAP),
    (layers.LeakyReLU(0.4), VECTOR),
    (layers.MaxPooling1D(2), SEQUENCE),
    (layers.MaxPooling2D(3, 1, "same"), MAP),
    (layers.PReLU(shared_axes=[1, 2]), MAP),
    (layers.Permute((3, 1, 2)), MAP),
    (layers.ReLU(0.8, 0.2, 0.1), VECTOR),
    (layers.RepeatVector(3), VECTOR),
    (layers.Rescaling(0.5, 0.25), MAP),
    (layers.Reshape((-1, 2)), MAP),
    (layers.SeparableConv1D(3, 3, 2, depth_multiplier=2), SEQUENCE),
    (layers.SeparableConv2D(3, 3, padding="same", activation="elu"), MAP),
    (layers.Softmax(axis=1), MAP),
    (layers.SpatialDropout1D(0.3), SEQUENCE),
    (layers.SpatialDropout2D(0.3), MAP),
    (layers.UpSampling1D(3), SEQUENCE),
    (layers.UpSampling2D((2, 3), interpolation="bilinear"), MAP),
    (layers.ZeroPadding1D((0, 2)), SEQUENCE),
    (layers.ZeroPadding2D(((0, 1), (2, 0))), MAP),
]


def student_of(layer, shape):
    """A student of one layer; of two inputs for what merges."""
    if shape is None:
        inputs = keras.Input((4,), dtype="int32")
        return keras.Model(inputs, layers.GlobalAveragePooling1D()(layer(inputs)))
    merges = type(layer).__name__ in (
        "Add",
        "Average",
        "Concatenate",
        "Maximum",
        "Minimum",
        "Multiply",
        "Subtract",
    )
    inputs = [keras.Input(shape), keras.Input(shape)] if merges else keras.Input(shape)
    return keras.Model(inputs, layer(inputs))


def assert_same(student, model, rng):
    def batch(tensor):
        shape = [3, *(size or 9 for size in tensor.shape[1:])]
        if tensor.dtype.startswith("int"):
            return rng.integers(0, 5, shape).astype("int32")
        return rng.normal(size=shape).astype("float32")

    sequential = isinstance(student, keras.Sequential)
    x = keras.tree.map_structure(batch, student.inputs[0] if sequential else student.input)
    ours, theirs = student(x, training=False), model(x, training=False)
    keras.tree.assert_same_structure(ours, theirs)
    for a, b in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE * max(1.0, np.abs(a).max()), rtol=0)


@pytest.mark.parametrize(
    ("layer", "shape"),
    LAYERS,
    ids=[f"{type(case[0]).__name__}-{i}" for i, case in enumerate(LAYERS)],
)
def test_every_layer_computes_the_same(layer, shape, rng):
    student = randomize(student_of(layer, shape), rng)
    model = tfmot.twin(student)
    assert_same(student, model, rng)
    assert_same(tfmot.to_keras(model, student), model, rng)


def test_every_supported_layer_has_a_case():
    assert {type(layer).__name__ for layer, _ in LAYERS} == set(tfmot.supported())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_compute_the_same(name, rng):
    student = randomize(ARCHITECTURES[name](), rng)
    model = tfmot.twin(student)
    assert isinstance(model, tf_keras.Model)
    names = [[layer.name for layer in m.layers if layer.weights] for m in (student, model)]
    assert names[0] == names[1]
    assert_same(student, model, rng)


def test_nested_models_shared_layers_and_several_ends(rng):
    """A layer called twice, a nested model called twice, another frozen at training=False."""
    part = keras.Input((4, 4, 3))
    inner = keras.Model(part, [layers.ReLU()(part), layers.Dense(3)(part)], name="inner")
    deep = keras.Sequential(
        [keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(2)], name="deep"
    )
    inputs = {name: keras.Input((4, 4, 3), name=name) for name in ("image", "other")}
    shared = layers.Conv2D(3, 3, padding="same", name="shared")
    a, b = inner(layers.Add()([shared(shared(inputs["image"])), shared(inputs["other"])]))
    c, d = inner(layers.BatchNormalization()(a, training=False))
    student = keras.Model(inputs, {"first": deep(layers.Add()([b, c])), "second": deep(d)})
    randomize(student, rng)
    model = tfmot.twin(student)
    assert_same(student, model, rng)
    assert model.count_params() == student.count_params()
    model.set_weights([w + 0.25 for w in model.get_weights()])
    assert_same(tfmot.to_keras(model, student), model, rng)


def test_a_sequential_student_stays_one(rng):
    student = keras.Sequential([keras.Input((6,)), layers.Dense(4, "relu"), layers.Dense(2)])
    model = tfmot.twin(student)
    assert isinstance(model, tf_keras.Sequential)
    assert_same(student, model, rng)


def test_sizes_that_are_not_fixed(rng):
    inputs = keras.Input((None, None, 2))
    student = keras.Model(inputs, layers.GlobalMaxPooling2D()(layers.Conv2D(3, 3)(inputs)))
    assert_same(student, tfmot.twin(student), rng)


def test_a_step_of_training_is_the_same(rng):
    """Regularizers, what is frozen and the normalization by the batch go along."""
    inputs = keras.Input((6, 6, 2))
    frozen = layers.Conv2D(3, 3, name="frozen", trainable=False)
    x = layers.Conv2D(4, 3, name="conv", kernel_regularizer=keras.regularizers.L1L2(0.1, 0.2))(
        layers.Conv2D(2, 1, name="l2", bias_regularizer=L2, activity_regularizer=L2)(inputs)
    )
    x = layers.Conv2D(3, 2)(frozen(layers.ReLU()(layers.BatchNormalization(momentum=0.5)(x))))
    student = randomize(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)), rng)
    model = tfmot.twin(student)
    x, y = rng.normal(size=(8, 6, 6, 2)).astype("float32"), rng.normal(size=(8, 3))
    student.compile("sgd", "mse")
    model.compile("sgd", "mse")
    losses = [m.fit(x, y, batch_size=8, verbose=0).history["loss"][0] for m in (student, model)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for variable, theirs in zip(student.weights, model.get_weights(), strict=True):
        ours = variable.numpy()
        if variable.path.endswith("moving_variance"):
            # tf_keras's is the unbiased one, larger by 1 / (n - 1) of itself, with n = 8 * 4 * 4
            # values of a channel.
            np.testing.assert_allclose(ours, theirs, rtol=1 / 127 + 1e-5)
        else:
            np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def test_the_two_share_nothing(rng):
    student = plain()
    before = student.get_weights()
    model = tfmot.twin(student)
    model.set_weights([w + 1 for w in model.get_weights()])
    back = tfmot.to_keras(model, student)
    for old, new, changed in zip(before, student.get_weights(), back.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
        np.testing.assert_array_equal(old + 1, changed)


class Custom(layers.Layer):
    def call(self, x):
        return x


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (layers.GRU(2, name="gru"), SEQUENCE, "Received: GRU 'gru', whose counterpart"),
        (Custom(name="mine"), VECTOR, "Received: Custom 'mine'"),
        (layers.Activation("hard_sigmoid", name="h"), VECTOR, "activation='hard_sigmoid' of Activ"),
        (layers.Dense(2, activation=layers.ReLU(), name="d"), VECTOR, "activation=.* of Dense 'd'"),
        (
            layers.Dense(2, kernel_constraint="non_neg", name="d"),
            VECTOR,
            "kernel_constraint=.* of Dense 'd'",
        ),
        (
            layers.Dense(2, kernel_regularizer="orthogonal_regularizer", name="d"),
            VECTOR,
            "kernel_regularizer='OrthogonalRegularizer' of Dense 'd'",
        ),
        (layers.Embedding(7, 3, mask_zero=True, name="e"), None, "mask_zero=True of Embedding 'e'"),
        (layers.BatchNormalization(synchronized=True, name="b"), VECTOR, "synchronized=True of Ba"),
        (layers.Dense(2, dtype="mixed_float16", name="d"), VECTOR, "Dense 'd' in mixed_float16"),
    ],
)
def test_refuses_by_name_what_tf_keras_lacks(layer, shape, message):
    with pytest.raises(ValueError, match=message):
        tfmot.twin(student_of(layer, shape))


def test_refuses_operations_that_are_no_layers():
    inputs = keras.Input((3,))
    student = keras.Model(inputs, layers.Dense(3)(inputs) + inputs)
    with pytest.raises(ValueError, match=r"the operation Add .* Hint: keras.layers.Add"):
        tfmot.twin(student)


@pytest.mark.parametrize(
    ("student", "error", "message"),
    [
        (lambda: tf_keras.Sequential(), TypeError, "Expected a Keras 3 model as student"),
        (lambda: Subclassed(name="own"), ValueError, "functional or Sequential .* 'own'"),
        (lambda: keras.Sequential([layers.Dense(2)], name="s"), ValueError, "built student.*'s'"),
    ],
)
def test_refuses_what_has_no_graph(student, error, message):
    with pytest.raises(error, match=message):
        tfmot.twin(student())


def test_refuses_a_twin_that_computes_something_else(monkeypatch):
    """As if tf_keras had another function of that name."""
    monkeypatch.setitem(twin_layers._ACTIVATIONS, "softsign", "tanh")
    with pytest.raises(
        ValueError, match=r"within 1e-05 of the student's. Received: .* in output 0"
    ):
        tfmot.twin(student_of(layers.Activation("softsign"), VECTOR))


def test_refuses_to_go_back_to_another_student():
    model = tfmot.twin(plain())
    inputs = keras.Input((8, 8, 1))
    other = keras.Model(inputs, layers.Conv2D(8, 3, name="another")(inputs))
    with pytest.raises(ValueError, match=r"layers of its student. .*another"):
        tfmot.to_keras(model, other)


def test_keras_3_stays_the_keras_of_the_process():
    """tfmot sets TF_USE_LEGACY_KERAS, which makes tf_keras of `tf.keras`, in children too."""
    assert tf.keras.version().startswith("3.")
    assert "TF_USE_LEGACY_KERAS" not in os.environ


def test_a_variable_that_was_set_stays_set(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
    packages._imported()
    assert os.environ["TF_USE_LEGACY_KERAS"] == "0"


def test_says_how_to_get_tfmot(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(ImportError, match=r'Hint: pip install "keras-kd\[tfmot\]"'):
        packages._imported()
