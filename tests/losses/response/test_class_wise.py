import keras
import numpy as np
import pytest

from keras_kd import schedules
from keras_kd.losses.response import ClassWiseSelfDistillation, cskd, same_class_partner
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
from tests.models import mlp, soft_target

LABELS = np.array([2, 0, 2, 1, 0, 2, 3])
PARTNER = {0: 2, 2: 5, 5: 0, 1: 4, 4: 1}


def expected(student, partner, temperature):
    values = np.zeros(len(student))
    for me, other in partner.items():
        values[me] = soft_target(student[other], student[me], temperature)
    return values


def test_the_partner_is_the_next_of_the_class():
    place, exists = same_class_partner(LABELS)
    assert [index for index in range(7) if exists[index]] == sorted(PARTNER)
    assert {index: int(place[index]) for index in sorted(PARTNER)} == dict(sorted(PARTNER.items()))


def test_value(rng):
    _, student, _ = logits_and_labels(rng)
    result = cskd(student=student, labels=LABELS, temperature=4.0)
    np.testing.assert_allclose(result, expected(student, PARTNER, 4.0), rtol=RTOL, atol=ATOL)


def test_the_partner_gets_no_gradient(rng):
    _, student, _ = logits_and_labels(rng)
    _, (slope,) = gradient(lambda s: cskd(student=s, labels=LABELS, temperature=1.0), student)
    wanted = np.zeros_like(student)
    for me, other in PARTNER.items():
        wanted[me] = (softmax(student[me]) - softmax(student[other])) / 7
    np.testing.assert_allclose(slope, wanted, rtol=RTOL, atol=ATOL)


def test_only_valid_examples_are_partners(rng):
    _, student, _ = logits_and_labels(rng)
    valid = np.array([1, 1, 0, 1, 0, 1, 1], bool)
    wanted = expected(student, {0: 5, 5: 0}, 4.0)
    student[~valid] = np.nan
    result = cskd(student=student, labels=LABELS, temperature=4.0, valid=valid)
    np.testing.assert_allclose(result, wanted, rtol=RTOL, atol=ATOL)
    nothing = cskd(student=student, labels=LABELS, temperature=4.0, valid=np.zeros(7, bool))
    np.testing.assert_array_equal(nothing, np.zeros(7))


def test_one_example_alone(rng):
    _, student, _ = logits_and_labels(rng, examples=1)
    np.testing.assert_array_equal(cskd(student=student, labels=[0], temperature=4.0), [0.0])


def test_extremes_and_compilers(rng):
    _, student, _ = logits_and_labels(rng)
    assert_finite(lambda s: cskd(student=s, labels=LABELS, temperature=4.0), student)
    assert_xla_agrees(lambda s: cskd(student=s, labels=LABELS, temperature=4.0), student)


def test_it_learns_and_needs_labels():
    assert_learns(ClassWiseSelfDistillation(), teacher=mlp("teacher", units=3))
    assert_needs_labels(ClassWiseSelfDistillation())


def test_positions_are_refused():
    inputs = keras.Input((5, 6))
    student = keras.Model(inputs, keras.layers.Dense(4)(inputs))
    teacher = keras.models.clone_model(student)
    with pytest.raises(ValueError, match="one prediction for each example"):
        fitted(ClassWiseSelfDistillation(), student=student, teacher=teacher)


def test_configuration():
    assert ClassWiseSelfDistillation().temperature == 4.0
    assert_round_trip(ClassWiseSelfDistillation(temperature=schedules.Linear(4.0, 1.0, 9)))
    with pytest.raises(ValueError, match="temperature to be a positive number"):
        ClassWiseSelfDistillation(temperature=0.0)
