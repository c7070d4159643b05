import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from keras_kd.losses import Context, Ends, get
from keras_kd.losses.feature import Hint, hint
from tests.losses.feature.function_checks import RTOL, check_compiled, check_safe, maps
from tests.models import assert_same, images, snapshot, task_loss

SHAPE = (3, 4, 5, 2)


def function(teacher, student):
    return hint(teacher=teacher, student=student)


def test_value(rng):
    teacher, student = maps(rng, SHAPE, SHAPE)
    expected = np.square(np.float64(teacher) - student).mean((1, 2, 3))
    np.testing.assert_allclose(function(teacher, student), expected, rtol=RTOL)


def test_masked_positions_and_weights_of_positions(rng):
    teacher, student = maps(rng, (2, 3, 4), (2, 3, 4))
    mask = np.array([[1, 1, 0], [1, 0, 0]], bool)
    student[~mask] = np.nan
    values = np.square(np.float64(teacher) - np.nan_to_num(student)).mean(-1)
    result = hint(teacher=teacher, student=student, mask=mask)
    np.testing.assert_allclose(result, (values * mask).sum(-1) * 2 / 3, rtol=RTOL)
    weight = np.array([[1.0, 0.5, 0.0], [2.0, 0.0, 0.0]], "float32")
    result = hint(teacher=teacher, student=np.nan_to_num(student), position_weight=weight)
    np.testing.assert_allclose(result, (values * weight).mean(-1), rtol=RTOL)


def test_it_is_safe(rng):
    check_safe(function, *maps(rng, SHAPE, SHAPE))
    check_compiled(function, *maps(rng, SHAPE, SHAPE))
    assert not np.any(function(*maps(rng, SHAPE) * 2))


def test_nothing_broadcasts(rng):
    with pytest.raises(ValueError, match="features of equal shapes"):
        function(*maps(rng, SHAPE, (3, 4, 5, 1)))


@pytest.mark.parametrize(
    ("student", "teacher", "kernel"),
    [
        ((None, 8, 6, 3), (None, 8, 6, 5), (1, 1, 3, 5)),
        ((None, 8, 6, 3), (None, 4, 3, 5), (3, 3, 3, 5)),
        ((None, 4, 3, 3), (None, 8, 6, 5), (4, 4, 5, 3)),
        ((None, 7, 6, 3), (None, 4, 5, 5), (4, 2, 3, 5)),
        ((None, 4, 4, 3), (None, 5, 5, 5), (3, 5)),
        ((None, 7, 3), (None, 7, 5), (3, 5)),
        ((None, 3), (None, 5), (3, 5)),
        ((None, None, None, 3), (None, None, None, 5), (3, 5)),
    ],
)
def test_the_regressor_is_a_convolution_a_normalization_and_a_relu(student, teacher, kernel):
    ends = Ends(keras.KerasTensor(teacher), keras.KerasTensor(student))
    loss = Hint("a", "b").connect(ends)
    (regressor,) = loss.parts
    assert regressor.compute_output_shape(student) == teacher
    assert [type(layer).__name__ for layer in regressor.layers][-2:] == [
        "BatchNormalization",
        "Activation",
    ]
    assert regressor.get_layer("convolution").kernel.shape == kernel


def test_the_regressor_normalizes_by_the_batch_in_training_alone(rng):
    ends = Ends(keras.KerasTensor((None, 4, 4, 3)), keras.KerasTensor((None, 4, 4, 3)))
    loss = Hint("a", "b").connect(ends)
    (norm,) = [p for p in loss.parts[0].layers if isinstance(p, keras.layers.BatchNormalization)]
    before = norm.moving_mean.numpy()
    features = maps(rng, (2, 4, 4, 3), (2, 4, 4, 3))
    loss.per_example(*features, Context(training=False))
    np.testing.assert_array_equal(norm.moving_mean, before)
    loss.per_example(*features, Context(training=True))
    assert not np.array_equal(norm.moving_mean, before)


def test_configuration():
    loss = get(
        "fitnets",
        teacher_layer_name=["a", "c/d"],
        student_layer_name=["b", "e"],
        activation=None,
        projector=["auto", None],
    )
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is Hint
    assert keras.saving.serialize_keras_object(again) == config
    assert again.activation is None
    with pytest.raises(ValueError, match="nothing_like_it"):
        Hint("a", "b", activation="nothing_like_it")


def model(name, channels):
    inputs = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(channels, 3, padding="same", activation="relu", name="guided")(inputs)
    x = keras.layers.Conv2D(channels, 3, activation="relu", name="above")(x)
    outputs = keras.layers.Dense(4, name="outputs")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, outputs, name=name)


def test_the_paper_trains_in_two_stages():
    teacher, student = model("teacher", 6), model("student", 3)
    x, y = images()
    stage = keras_kd.Distiller(teacher, student, Hint("guided", "guided"), student_loss_weight=0.0)
    stage.compile(keras.optimizers.Adam(1e-2))
    above = student.get_layer("above"), student.get_layer("outputs")
    before_above, before_guided = snapshot(*above), snapshot(student.get_layer("guided"))
    with pytest.warns(UserWarning, match="Gradients do not exist for variables"):
        losses = stage.fit(x, y, epochs=6, verbose=0).history["hint"]
    assert losses[-1] < losses[0]
    assert_same(before_above, snapshot(*above))
    assert snapshot(student.get_layer("guided")).keys() == before_guided.keys()
    assert not np.array_equal(
        student.get_layer("guided").kernel, next(iter(before_guided.values()))
    )
    second = keras_kd.Distiller(teacher, student, keras_kd.LogitsDistillation(4.0))
    second.compile(keras.optimizers.Adam(1e-2), task_loss())
    losses = second.fit(x, y, epochs=6, verbose=0).history["total_loss"]
    assert losses[-1] < losses[0]
    assert not any(
        np.array_equal(a, b)
        for a, b in zip(before_above.values(), snapshot(*above).values(), strict=True)
    )


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_the_regressor_is_trained_and_saved(tmp_path):
    x, y = images()
    distiller = keras_kd.Distiller(
        model("teacher", 6), model("student", 3), Hint("guided", "guided"), student_loss_weight=0.0
    )
    distiller.compile("adam")
    before = snapshot(*distiller.projectors)
    distiller.fit(x, y, verbose=0)
    after = snapshot(*distiller.projectors)
    assert not any(np.array_equal(before[key], after[key]) for key in before)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    for ours, theirs in zip(after.values(), snapshot(*loaded.projectors).values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_projector_without_a_training_argument_is_called_as_it_is(rng):
    loss = Hint("a", "b", projector=keras.layers.Dense(2))
    teacher, student = maps(rng, (2, 2), (2, 3))
    loss = loss.connect(Ends(tf.constant(teacher), tf.constant(student)))
    expected = np.square(teacher - loss.parts[0](student).numpy()).mean(-1)
    result = loss.per_example(teacher, student, Context(training=True))
    np.testing.assert_allclose(result, expected, rtol=RTOL)
