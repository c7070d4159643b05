import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from keras_kd.losses import Context, Ends
from keras_kd.losses.feature import SemanticCalibration, SemCKD, semckd
from tests.contract.recipe import image_batch, image_model
from tests.models import task_loss

STUDENTS = [(None, 9, 6, 3), (None, 5)]
TEACHERS = [(None, 8, 8, 4), (None, 4, 4, 6), (None, 2, 2, 7)]


def test_value(rng):
    """Two layers against three, of sizes of their own."""
    shapes = [[(2, 3 + i, 2 + j, 1 + j) for j in range(3)] for i in range(2)]
    teacher, student = (
        [[rng.normal(size=shape).astype("float32") for shape in row] for row in shapes]
        for _ in range(2)
    )
    attention = rng.dirichlet(np.ones(3), size=(2, 2)).astype("float32")
    expected = sum(
        attention[:, i, j] * np.square(np.float64(teacher[i][j]) - student[i][j]).mean((1, 2, 3))
        for i in range(2)
        for j in range(3)
    )
    result = semckd(teacher=teacher, student=student, attention=attention)
    # Sums of some hundred terms, each with float32's rounding of 6e-8.
    np.testing.assert_allclose(result, expected / 2, rtol=1e-5)
    zero = semckd(teacher=teacher, student=teacher, attention=attention)
    np.testing.assert_array_equal(zero, [0.0, 0.0])


def calibrated(rng):
    calibration = SemanticCalibration(
        [(None, 9, 6, 3), (None, 1, 1, 5)], [(None, 1, 1, 4), *TEACHERS[1:]], 8
    )
    teachers = [rng.normal(size=(3, *shape[1:])) for shape in calibration.teacher_shapes]
    students = [rng.normal(size=(3, *shape[1:])) for shape in calibration.student_shapes]
    return calibration, (teachers, students)


def test_maps_meet_at_the_smaller_size_and_rows_of_the_attention_sum_to_one(rng):
    calibration, features = calibrated(rng)
    teacher, student, attention = calibration(features)
    for targets, sources in zip(teacher, student, strict=True):
        for target, source in zip(targets, sources, strict=True):
            assert target.shape == source.shape
    assert teacher[0][1].shape == (3, 4, 4, 6)
    assert teacher[1][1].shape == (3, 1, 1, 6)
    assert attention.shape == (3, 2, 3)
    # Three exponentials over their sum, each rounded to 2^-24.
    np.testing.assert_allclose(np.sum(attention, -1), 1.0, rtol=1e-6)


def test_an_example_depends_on_no_other(rng):
    calibration, (teachers, students) = calibrated(rng)
    whole = calibration((teachers, students))[2]
    alone = calibration(([t[:1] for t in teachers], [s[:1] for s in students]))[2]
    # The order of sums in a matrix product may depend on its size.
    np.testing.assert_allclose(whole[:1], alone, rtol=1e-5)


def test_a_feature_of_zeros_has_a_finite_gradient(rng):
    calibration, (teachers, _) = calibrated(rng)
    students = [tf.Variable(tf.zeros((3, *s[1:]))) for s in calibration.student_shapes]
    with tf.GradientTape() as tape:
        teacher, student, attention = calibration((teachers, students))
        value = tf.reduce_sum(semckd(teacher=teacher, student=student, attention=attention))
    assert np.isfinite(value)
    weights = [v.value for v in calibration.trainable_weights]
    for gradient in tape.gradient(value, [*students, *weights]):
        assert gradient is None or np.isfinite(gradient).all()


def test_fit_trains_all_parts_and_saves_them(tmp_path):
    loss = SemCKD(["low", "high", "pool"], ["low", "high"], units=8)
    made = keras_kd.Distiller(image_model("teacher", 6), image_model("student", 4), loss)
    made.compile(keras.optimizers.Adam(1e-2), task_loss())
    x, y = image_batch()
    (part,) = made.projectors
    before = [np.array(v) for v in part.trainable_variables]
    history = made.fit(x, y, epochs=8, verbose=0).history["semckd"]
    assert history[-1] < history[0]
    for variable, old in zip(part.trainable_variables, before, strict=True):
        assert not np.array_equal(variable, old), variable.path
    made.save(tmp_path / "distiller.keras")
    again = keras.models.load_model(tmp_path / "distiller.keras")
    for ours, theirs in zip(part.weights, again.projectors.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_config_round_trip():
    ends = Ends(*([keras.KerasTensor(shape) for shape in side] for side in (TEACHERS, STUDENTS)))
    for loss in (
        SemCKD(["a", "b", "c"], ["d", "e"], units=8, name="semantic"),
        SemCKD(["a", "b", "c"], ["d", "e"]).connect(ends),
    ):
        config = keras.saving.serialize_keras_object(loss)
        again = keras.saving.deserialize_keras_object(config)
        assert again.is_connected() == loss.is_connected()
        assert keras.saving.serialize_keras_object(again) == config


def test_bad_arguments():
    with pytest.raises(ValueError, match="at least one layer of each model"):
        SemCKD([], ["a"])
    with pytest.raises(ValueError, match="units to be positive"):
        SemCKD("a", "b", units=0)
    with pytest.raises(ValueError, match="connected to its two models"):
        SemCKD("a", "b").per_example([1], [1], Context())
