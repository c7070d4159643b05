import keras
import numpy as np
import pytest

from keras_kd import schedules
from keras_kd.losses.response import (
    TeacherFreeRegularization,
    TeacherFreeSelf,
    tfkd_reg,
    tfkd_self,
)
from tests.losses.response.checks import (
    ATOL,
    RTOL,
    assert_finite,
    assert_learns,
    assert_needs_labels,
    assert_round_trip,
    assert_xla_agrees,
    fitted,
    gradient,
    logits_and_labels,
    softmax,
)
from tests.models import log_softmax, mlp, soft_target

REG = {"temperature": 5.0, "multiplier": 30.0}


def virtual(labels, classes, temperature):
    """The virtual teacher's softened probabilities."""
    right = np.eye(classes)[labels]
    return softmax((0.99 * right + 0.01 / (classes - 1) * (1.0 - right)) / temperature)


def reg_expected(student, labels, temperature, multiplier):
    p = virtual(labels, student.shape[-1], temperature)
    return multiplier * (p * (np.log(p) - log_softmax(student))).mean(-1)


@pytest.mark.parametrize("positions", [(), (3,), (2, 4)])
def test_values(rng, positions):
    teacher, student, labels = logits_and_labels(rng, *positions)
    result = tfkd_self(teacher=teacher, student=student, temperature=3.0)
    np.testing.assert_allclose(
        result, soft_target(teacher, student, 3.0) / 5.0, rtol=RTOL, atol=ATOL
    )
    result = tfkd_reg(student=student, labels=labels, **REG)
    np.testing.assert_allclose(result, reg_expected(student, labels, **REG), rtol=RTOL, atol=ATOL)


def test_least_where_the_student_says_the_same(rng):
    teacher, _, labels = logits_and_labels(rng)
    same = tfkd_self(teacher=teacher, student=teacher, temperature=20.0)
    np.testing.assert_array_equal(same, np.zeros(7))
    student = np.log(virtual(labels, 5, 5.0)).astype("float32")
    # 30 times the rounding of logarithms of about 2.
    np.testing.assert_allclose(tfkd_reg(student=student, labels=labels, **REG), 0.0, atol=1e-5)


def test_extremes_and_compilers(rng):
    teacher, student, labels = logits_and_labels(rng)
    for function in (
        lambda s: tfkd_self(teacher=teacher, student=s, temperature=20.0),
        lambda s: tfkd_reg(student=s, labels=labels, **REG),
    ):
        assert_finite(function, student)
        assert_xla_agrees(function, student)


def test_the_teacher_gets_no_gradient(rng):
    teacher, student, _ = logits_and_labels(rng)
    _, (slope,) = gradient(
        lambda t: tfkd_self(teacher=t, student=student, temperature=20.0), teacher
    )
    assert slope is None


def test_they_learn_and_one_needs_labels():
    assert_learns(TeacherFreeSelf())
    assert_learns(TeacherFreeRegularization())
    assert_needs_labels(TeacherFreeRegularization())


def test_the_virtual_teacher_reads_no_other():
    # Another class count, and probabilities: nothing of it matters.
    teacher = mlp("teacher", units=3, activation="softmax")
    assert_learns(TeacherFreeRegularization(), teacher=teacher)


def test_a_student_that_looks_like_probabilities_is_named():
    inputs = keras.Input((6,))
    # Nothing tells that this is a softmax but its values.
    powers = keras.ops.exp(keras.layers.Dense(4)(inputs))
    outputs = powers / keras.ops.sum(powers, axis=-1, keepdims=True)
    student = keras.Model(inputs, outputs, name="student")
    with pytest.raises(ValueError, match="the student's outputs look like probabilities"):
        fitted(TeacherFreeRegularization(), student=student)


def test_configuration():
    assert TeacherFreeSelf().temperature == 20.0
    loss = TeacherFreeRegularization()
    assert (loss.temperature, loss.multiplier) == (20.0, 100.0)
    assert_round_trip(TeacherFreeSelf(temperature=schedules.Linear(20.0, 4.0, 9)))
    assert_round_trip(TeacherFreeRegularization(multiplier=schedules.WarmUp(100.0, 9), name="reg"))
    with pytest.raises(ValueError, match="multiplier to be a number of at least 0"):
        TeacherFreeRegularization(multiplier=-1.0)
