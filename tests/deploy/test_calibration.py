"""Calibration: where examples come from, and what is wrong with them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd import deploy
from keras_kd.deploy.calibration import calibration_examples
from keras_kd.deploy.calibration_range import check_range
from keras_kd.deploy.saved_model import InputSpec, student_inputs

SPECS = (InputSpec("a", "a", (1, 3), "float32"),)
TWO = (*SPECS, InputSpec("b", "b", (1, 2, 2), "int32"))
N = 60


@pytest.fixture
def a(rng):
    return rng.normal(size=(N, 3)).astype("float32")


@pytest.fixture
def b(rng):
    return rng.integers(0, 9, (N, 2, 2))


class Batches(keras.utils.PyDataset):
    def __init__(self, items):
        super().__init__()
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Endless(keras.utils.PyDataset):
    @property
    def num_batches(self):
        return None

    def __getitem__(self, index):
        return np.zeros((2, 3))


# -- sources ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        lambda a: a,
        lambda a: a.astype("float64"),
        lambda a: a.tolist(),
        lambda a: tf.constant(a),
        lambda a: [a],
        lambda a: (a,),
        lambda a: {"a": a},
        lambda a: tf.data.Dataset.from_tensor_slices(a),
        lambda a: tf.data.Dataset.from_tensor_slices(a).batch(7),
        lambda a: tf.data.Dataset.from_tensor_slices((a, np.arange(N))).batch(7),
        lambda a: tf.data.Dataset.from_tensor_slices((a, np.arange(N), np.ones(N))),
        lambda a: tf.data.Dataset.from_tensor_slices(({"a": a}, np.arange(N))).batch(7),
        lambda a: Batches([a[:20], a[20:]]),
        lambda a: Batches([(a[:20], np.arange(20)), (a[20:], np.arange(40))]),
    ],
)
def test_sources_of_one_input(a, source):
    (found,) = calibration_examples(source(a), SPECS)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, a)


@pytest.mark.parametrize(
    "source",
    [
        lambda a, b: {"b": b, "a": a},
        lambda a, b: [a, b],
        lambda a, b: (a, b.astype("float64")),
        lambda a, b: tf.data.Dataset.from_tensor_slices({"a": a, "b": b}),
        lambda a, b: tf.data.Dataset.from_tensor_slices(((a, b), np.arange(N))).batch(8),
        lambda a, b: Batches([({"a": a, "b": b}, np.arange(N))]),
    ],
)
def test_sources_of_two_inputs(a, b, source):
    found = calibration_examples(source(a, b), TWO)
    assert [array.dtype.name for array in found] == ["float32", "int32"]
    np.testing.assert_array_equal(found[0], a)
    np.testing.assert_array_equal(found[1], b)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros((0, 3)), ValueError, r"Expected calibration examples\. Received: none"),
        (np.zeros((N, 4)), ValueError, r"shape \(examples, 3\) for input 'a'. Received: \(60, 4\)"),
        (np.zeros(3), ValueError, r"batch axis: x\[None\]"),
        (np.full((N, 3), np.nan), ValueError, "Received: 180 NaN"),
        # Finite in float64, and not in the float32 that the student takes.
        (np.full((N, 3), 1e300), ValueError, "Received: 180 NaN or infinite"),
        (np.full((N, 3), "x"), TypeError, "Expected calibration of numbers"),
        (np.zeros((N, 3), "complex64"), TypeError, "complex64"),
        ((np.zeros((N, 3)), np.zeros(N)), ValueError, "without labels"),
        ({"c": np.zeros((N, 3))}, ValueError, r"for the inputs \['a'\]. Received: \['c'\]"),
        (Endless(), ValueError, "num_batches is None"),
        (Batches([np.zeros((2, 4))]), ValueError, r"Received: \(2, 4\)"),
        (tf.data.Dataset.from_tensors(np.zeros(3)).repeat(), ValueError, r"dataset\.take"),
        (tf.data.Dataset.from_tensors(np.zeros(4)), ValueError, r"Received: \(1, 4\)"),
        (tf.data.Dataset.range(0), ValueError, "Received: none"),
    ],
)
def test_bad_examples(source, error, message):
    with np.errstate(over="ignore"), pytest.raises(error, match=message):
        calibration_examples(source, SPECS)


def test_a_missing_channel_axis_is_named():
    spec = (InputSpec("image", "image", (1, 8, 8, 1), "float32"),)
    with pytest.raises(ValueError, match=r"the channel axis is missing: x\[\.\.\., None\]"):
        calibration_examples(np.zeros((N, 8, 8)), spec)


def test_counts_that_differ(a, b):
    with pytest.raises(ValueError, match=r"as many .*'a': 60, 'b': 59"):
        calibration_examples([a, b[1:]], TWO)
    with pytest.raises(ValueError, match="as a dict or list, for the inputs"):
        calibration_examples(a, TWO)


def test_few_examples_warn(a):
    with pytest.warns(UserWarning, match="Calibration with 49 examples: expected at least 50"):
        calibration_examples(a[:49], SPECS)
    calibration_examples(a[:50], SPECS)


# -- range -----------------------------------------------------------------------------------------


def judge(model, x, input_range=None):
    check_range([x.astype("float32")], model, student_inputs(model), input_range)


def test_batch_normalization_remembers_the_range(student, student_255, images):
    """Both ways, on students that were trained on one and on the other."""
    judge(student, images)
    judge(student_255, images * 255)
    with pytest.raises(ValueError, match=r"'image' in [\d.]+; at 'norm' .* times as large"):
        judge(student, images * 255)
    with pytest.raises(ValueError, match=r"at 'norm' they are 0\.00"):
        judge(student_255, images)
    # Other honest differences are no error: another contrast, few classes, centred at 0.
    judge(student, images * 0.5)
    judge(student, images[:50] * 2 - 1)


def test_convert_refuses_before_it_converts(student, images):
    with pytest.raises(ValueError, match=r"Expected calibration on the scale.*Hint"):
        deploy.convert(student, calibration=images * 255)


def test_the_judgement_changes_nothing(student, images):
    before = student.get_weights()
    judge(student, images)
    assert all(map(np.array_equal, before, student.get_weights()))


def test_a_batch_normalization_in_a_nested_or_subclassed_model(student, images):
    inputs = keras.Input((8, 8, 1))
    nested = keras.Model(inputs, student(inputs))

    class Wrapped(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = student

        def call(self, x, training=False):
            return self.inner(x, training=training)

    subclassed = Wrapped()
    subclassed(images[:2])
    for model in (nested, subclassed):
        judge(model, images)
        with pytest.raises(ValueError, match="at 'norm'"):
            judge(model, images * 255)


def scaled(*first):
    return keras.Sequential(
        [keras.Input((8, 8, 1)), *first, keras.layers.Flatten(), keras.layers.Dense(2)]
    )


@pytest.mark.parametrize(
    ("layer", "right", "wrong"),
    [
        (lambda x: keras.layers.Rescaling(1 / 255), 255, 1),
        (lambda x: keras.layers.Rescaling(1 / 127.5, offset=-1), 255, 1),
        (lambda x: keras.layers.Rescaling(2.0, offset=-1), 1, 255),
        (lambda x: keras.layers.Rescaling(255.0), 1, 255),
        (lambda x: keras.layers.Normalization(mean=x.mean(), variance=x.var()), 1, 255),
        (
            lambda x: keras.layers.Normalization(mean=255 * x.mean(), variance=255**2 * x.var()),
            255,
            1,
        ),
    ],
)
def test_a_leading_scaling_layer_tells_the_range(images, layer, right, wrong):
    model = scaled(keras.layers.RandomFlip(), layer(images))
    judge(model, images * right)
    with pytest.raises(ValueError, match="Expected calibration on the scale"):
        judge(model, images * wrong)
    # A declared range is believed instead.
    judge(model, images * wrong, (0, wrong))


def test_a_model_that_tells_nothing_asks_back(images, student):
    untrained = keras.models.clone_model(student)
    for model in (scaled(), untrained):
        judge(model, images)
        judge(model, images * 4 - 2)
        for x in (np.round(images * 255), np.round(images * 16), images * 255):
            with pytest.raises(ValueError, match=r"Expected to know the scale.*input_range=\(0, "):
                judge(model, x)
            judge(model, x, (0, 255 if x.max() > 16 else 16))


def test_a_frozen_batch_normalization_tells_nothing(student, images):
    frozen = keras.models.clone_model(student)
    frozen.set_weights(student.get_weights())
    frozen.trainable = False
    judge(frozen, images)
    with pytest.raises(ValueError, match="Expected to know the scale"):
        judge(frozen, np.round(images * 255))


@pytest.mark.parametrize(
    ("input_range", "error", "message"),
    [
        ((0, 0.5), ValueError, r"in input_range 0\.\.0\.5 for input 'image'"),
        ((0.5, 1), ValueError, r"in input_range 0\.5\.\.1"),
        ((0, 255), ValueError, "less than a sixteenth"),
        ((1, 0), ValueError, "low < high"),
        ((0, np.inf), ValueError, "low < high"),
        ((0, 1, 2), TypeError, r"Expected input_range=\(low, high\)"),
        ("01", TypeError, r"Expected input_range=\(low, high\)"),
        ({"x": (0, 1)}, ValueError, r"for the float inputs \['image'\]"),
    ],
)
def test_declared_ranges(student, images, input_range, error, message):
    with pytest.raises(error, match=message):
        judge(student, images, input_range)


def test_declared_ranges_by_name(images):
    inputs = [keras.Input((3,), name=name) for name in "ab"]
    ids = keras.Input((1,), dtype="int32", name="ids")
    model = keras.Model([*inputs, ids], keras.layers.Add()([*inputs, ids * 1]))
    given = student_inputs(model)
    x = np.linspace(0, 1, 3 * N, dtype="float32").reshape(N, 3)
    examples = [x, 255 * x, np.zeros((N, 1), "int32")]
    check_range(examples, model, given, {"a": (0, 1), "b": (0, 255)})
    with pytest.raises(ValueError, match="for input 'b'"):
        check_range(examples, model, given, {"a": (0, 1), "b": (0, 1)})
    with pytest.raises(ValueError, match="as a dict"):
        check_range(examples, model, given, (0, 1))
