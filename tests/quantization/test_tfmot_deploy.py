"""From a Keras 3 teacher over tfmot's methods to an int8 file, on scikit-learn's digits."""

import functools

import keras
import numpy as np
import pytest
import tf_keras
from keras import layers

import keras_kd
from keras_kd import deploy
from keras_kd.quantization import tfmot
from tests.quantization.tfmot_students import ARCHITECTURES, plain, randomize

# Three students are trained for most of them.
pytestmark = pytest.mark.slow

TRAINED_ON, BATCH, EPOCHS = 1200, 64, 8
SPARSITY, CLUSTERS = 0.7, 8


@pytest.fixture(scope="module")
def digits():
    """Images in [0, 1], shape [1797, 8, 8, 1], and labels."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return (loaded.images[..., None] / 16).astype("float32"), loaded.target


@pytest.fixture(scope="module")
def teacher(digits):
    x, y = digits
    keras.utils.set_random_seed(0)
    model = plain(16, name="teacher")
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x[:TRAINED_ON], y[:TRAINED_ON], batch_size=BATCH, epochs=6, verbose=0)
    return model


METHODS = {
    "quantize": tfmot.quantize,
    "prune": lambda student: tfmot.prune(student, SPARSITY, steps=100),
    "cluster": lambda student: tfmot.cluster(student, CLUSTERS),
}


@pytest.fixture(scope="module")
def distilled(digits, teacher):
    """{method: (the student, its distiller, the history)} of trained twins."""
    x, y = digits
    found = {}
    for method, make in METHODS.items():
        keras.utils.set_random_seed(1)
        student = plain(8, name="student")
        distiller = tfmot.Distiller(teacher, make(student), keras_kd.LogitsDistillation(4.0))
        distiller.compile(
            tf_keras.optimizers.Adam(0.01),
            tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        history = distiller.fit(
            x[:TRAINED_ON], y[:TRAINED_ON], batch_size=BATCH, epochs=EPOCHS, verbose=0
        )
        found[method] = student, distiller, history.history
    return found


def accuracy(outputs, y):
    return float((np.argmax(outputs, -1) == y).mean())


@pytest.fixture(scope="module")
def converted(distilled, digits):
    """A function from a method to (int8 artifact, what it was converted from)."""

    @functools.cache
    def convert(method):
        student, distiller, _ = distilled[method]
        if method == "quantize":
            trained = tfmot.frozen(distiller.student)
            return deploy.convert(trained), trained
        trained = tfmot.to_keras(distiller.student, student)
        return deploy.convert(trained, calibration=digits[0][:200]), trained

    return convert


@pytest.mark.parametrize("method", METHODS)
def test_a_keras_3_teacher_distils_each_of_them(method, distilled, digits):
    x, y = digits
    _, distiller, history = distilled[method]
    assert history["logits_distillation"][-1] < 0.5 * history["logits_distillation"][0]
    # Ten classes: chance is a tenth.
    assert accuracy(distiller.predict(x[TRAINED_ON:], verbose=0), y[TRAINED_ON:]) > 0.6


@pytest.mark.parametrize("method", ["prune", "cluster"])
def test_what_was_taken_away_stays_away_in_the_int8_file(method, converted, digits):
    x, y = digits
    artifact, trained = converted(method)
    of_model, of_file = deploy.sparsity(trained), deploy.sparsity(artifact)
    assert of_file.weights == of_model.weights == 72 + 1152 + 160
    for before, after in zip(of_model.kernels, of_file.kernels, strict=True):
        if method == "prune":
            assert abs(before.zeros - SPARSITY * before.weights) <= 0.5
            # int8 is symmetric: zeros are stored as 0, and small weights become 0 besides.
            assert after.zeros >= before.zeros
        else:
            assert before.unique <= CLUSTERS
            # Each of the channels, or units, has a scale of its own.
            assert after.unique <= CLUSTERS * {72: 8, 1152: 16, 160: 10}[after.weights]
    # Of trained int8 weights each takes some 7 bits. Eight values take 3, and where seven in ten
    # are zeros it is .88 + .3 * 7: at least 4 bits less, half of which is left for what a
    # compressed file needs besides.
    usual = deploy.sparsity(converted("quantize")[0])
    assert of_file.compressed_bytes < usual.compressed_bytes - 2 / 8 * of_file.weights
    outputs = deploy.predict(artifact, x[TRAINED_ON:])
    assert accuracy(outputs, y[TRAINED_ON:]) > 0.6


def test_a_quantized_student_becomes_int8_with_the_ranges_it_learned(distilled, converted, digits):
    x, y = digits
    artifact, student = converted("quantize")
    assert (artifact.quantization, artifact.calibration_examples) == ("int8", 0)
    assert not deploy.model_info(artifact.content).float_tensors
    (quantize_input,) = [
        layer
        for layer in distilled["quantize"][1].student.layers
        if type(layer).__name__ == "QuantizeLayer"
    ]
    low, high = sorted(float(w) for w in quantize_input.get_weights()[:2])
    # 256 numbers from the lowest to the highest; 0 is one of them already.
    assert artifact.inputs[0].scale == pytest.approx((high - low) / 255, rel=1e-6)
    outputs = deploy.predict(artifact, x[TRAINED_ON:])
    expected = student.predict(x[TRAINED_ON:], verbose=0)
    assert (outputs.argmax(-1) == expected.argmax(-1)).mean() >= 0.99
    assert accuracy(outputs, y[TRAINED_ON:]) > 0.6


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_become_int8_without_a_float_tensor(name, rng):
    student = randomize(ARCHITECTURES[name](), rng)
    model = tfmot.quantize(student)
    x = rng.normal(size=(16, *student.input_shape[1:])).astype("float32")
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((16, *student.output_shape[1:])), verbose=0)
    assert not deploy.model_info(deploy.convert(tfmot.frozen(model)).content).float_tensors


# -- frozen ----------------------------------------------------------------------------------------


def test_a_frozen_model_computes_the_same_eagerly_and_in_a_graph(distilled, digits):
    x = digits[0][:8]
    model = distilled["quantize"][1].student
    student = tfmot.frozen(model)
    expected = model(x, training=False)
    np.testing.assert_array_equal(student(x), expected)
    np.testing.assert_array_equal(student.predict(x, verbose=0), expected)
    assert student.count_params() == 0


def test_a_frozen_model_keeps_what_it_was():
    model = tfmot.quantize(plain())
    x = np.random.default_rng(0).uniform(size=(2, 8, 8, 1)).astype("float32")
    model(x, training=True)
    student = tfmot.frozen(model)
    before = np.array(student(x))
    model.set_weights([w + 1 for w in model.get_weights()])
    np.testing.assert_array_equal(student(x), before)


def test_a_frozen_model_has_the_inputs_and_outputs_of_the_model(rng):
    inputs = {name: keras.Input((6,), name=name) for name in ("b", "a")}
    x = layers.Concatenate()([inputs["a"], layers.Dense(3)(inputs["b"])])
    model = tfmot.twin(keras.Model(inputs, {"one": layers.Dense(2)(x), "two": layers.Softmax()(x)}))
    x = {name: rng.normal(size=(3, 6)).astype("float32") for name in inputs}
    ours, expected = tfmot.frozen(model)(x), model(x)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(ours[name], value)


def test_refuses_to_freeze_what_it_cannot():
    with pytest.raises(TypeError, match=r"Expected a tf_keras model. Received: keras"):
        tfmot.frozen(plain())
    inputs = keras.Input((4,), dtype="int32")
    model = tfmot.twin(keras.Model(inputs, layers.Flatten()(layers.Embedding(5, 2)(inputs))))
    with pytest.raises(ValueError, match=r"read their weights as they are. Received: ResourceGath"):
        tfmot.frozen(model)
