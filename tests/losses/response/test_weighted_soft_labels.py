import numpy as np
import pytest

from keras_kd import schedules
from keras_kd.losses.response import WeightedSoftLabels, wsld
from tests.losses.response.checks import (
    ATOL,
    RTOL,
    assert_finite,
    assert_learns,
    assert_needs_labels,
    assert_round_trip,
    assert_xla_agrees,
    gradient,
    logits_and_labels,
    softmax,
)
from tests.models import cross_entropy, log_softmax


def weights(teacher, student, labels):
    ratio = cross_entropy(labels, student) / (cross_entropy(labels, teacher) + 1e-7)
    return 1.0 - np.exp(-ratio)


def expected(teacher, student, labels, temperature):
    target = softmax(np.float64(teacher) / temperature)
    entropy = -(target * log_softmax(np.float64(student) / temperature)).sum(-1)
    return temperature**2 * weights(teacher, student, labels) * entropy


@pytest.mark.parametrize("positions", [(), (3,), (2, 4)])
def test_value(rng, positions):
    teacher, student, labels = logits_and_labels(rng, *positions)
    result = wsld(teacher=teacher, student=student, labels=labels, temperature=3.0)
    wanted = expected(teacher, student, labels, 3.0)
    np.testing.assert_allclose(result, wanted, rtol=RTOL, atol=ATOL)


def test_the_weights_get_no_gradient(rng):
    teacher, student, labels = logits_and_labels(rng)
    _, (slope,) = gradient(
        lambda s: wsld(teacher=teacher, student=s, labels=labels, temperature=1.0), student
    )
    wanted = weights(teacher, student, labels)[:, None] * (softmax(student) - softmax(teacher)) / 7
    np.testing.assert_allclose(slope, wanted, rtol=RTOL, atol=ATOL)


def test_extremes_and_compilers(rng):
    teacher, student, labels = logits_and_labels(rng)
    options = {"labels": labels, "temperature": 2.0}
    for scale in (1.0, 1e4, 0.0):
        assert_finite(lambda s, t=scale * teacher: wsld(teacher=t, student=s, **options), student)
    assert_xla_agrees(lambda s: wsld(teacher=teacher, student=s, **options), student)


def test_the_teacher_gets_no_gradient(rng):
    teacher, student, labels = logits_and_labels(rng)
    _, (slope,) = gradient(
        lambda t: wsld(teacher=t, student=student, labels=labels, temperature=2.0), teacher
    )
    assert slope is None


def test_it_learns_and_needs_labels():
    assert_learns(WeightedSoftLabels())
    assert_needs_labels(WeightedSoftLabels())


def test_configuration():
    assert WeightedSoftLabels().temperature == 2.0
    assert_round_trip(WeightedSoftLabels(temperature=schedules.Linear(4.0, 1.0, 9), name="soft"))
    with pytest.raises(ValueError, match="temperature to be a positive number"):
        WeightedSoftLabels(temperature=-2.0)
