import numpy as np
import pytest

from keras_kd import schedules
from keras_kd.losses.response import StandardizedLogits, lskd, standardized
from tests.losses.response.checks import (
    ATOL,
    RTOL,
    assert_finite,
    assert_learns,
    assert_round_trip,
    assert_xla_agrees,
    gradient,
    logits_and_labels,
)
from tests.models import soft_target


def z_score(logits):
    logits = np.float64(logits)
    return (logits - logits.mean(-1, keepdims=True)) / (
        1e-7 + logits.std(-1, ddof=1, keepdims=True)
    )


@pytest.mark.parametrize("positions", [(), (3,), (2, 4)])
def test_value(rng, positions):
    teacher, student, _ = logits_and_labels(rng, *positions)
    result = lskd(teacher=teacher, student=student, temperature=3.0)
    expected = soft_target(z_score(teacher), z_score(student), 3.0)
    np.testing.assert_allclose(result, expected, rtol=RTOL, atol=ATOL)


def test_mean_and_deviation(rng):
    result = np.asarray(standardized(rng.normal(size=(4, 6)) * 50.0 + 9.0), "float64")
    # A few roundings of 6e-8 on numbers of about 1.
    np.testing.assert_allclose(result.mean(-1), 0.0, atol=1e-6)
    np.testing.assert_allclose(result.std(-1, ddof=1), 1.0, rtol=1e-5)


def test_scale_and_shift_of_the_student_do_not_count(rng):
    teacher, student, _ = logits_and_labels(rng)
    plain = lskd(teacher=teacher, student=student, temperature=2.0)
    moved = lskd(teacher=teacher, student=5.0 * student + 3.0, temperature=2.0)
    np.testing.assert_allclose(moved, plain, rtol=RTOL, atol=ATOL)
    same = lskd(teacher=teacher, student=4.0 * teacher, temperature=2.0)
    np.testing.assert_allclose(same, 0.0, atol=ATOL)


def test_a_constant_student_has_a_bounded_gradient(rng):
    teacher, student, _ = logits_and_labels(rng)
    value, (slope,) = gradient(
        lambda s: lskd(teacher=teacher, student=s, temperature=2.0), np.ones_like(student)
    )
    uniform = soft_target(z_score(teacher), np.zeros_like(teacher), 2.0).mean()
    assert value == pytest.approx(uniform, rel=RTOL)
    # T (p - q) / floor / N: at most 2 / 0.01 / 7 an element.
    assert 1.0 < np.abs(slope).max() < 2.0 / 0.01 / 7


def test_extremes_and_compilers(rng):
    teacher, student, _ = logits_and_labels(rng)
    assert_finite(lambda s: lskd(teacher=teacher, student=s, temperature=2.0), student)
    assert_xla_agrees(lambda s: lskd(teacher=teacher, student=s, temperature=2.0), student)


def test_the_teacher_gets_no_gradient(rng):
    teacher, student, _ = logits_and_labels(rng)
    _, (slope,) = gradient(lambda t: lskd(teacher=t, student=student, temperature=2.0), teacher)
    assert slope is None


def test_it_learns():
    assert_learns(StandardizedLogits(temperature=schedules.Linear(4.0, 2.0, 5)))


def test_configuration():
    assert StandardizedLogits().temperature == 2.0
    assert_round_trip(StandardizedLogits(temperature=schedules.Linear(4.0, 2.0, 5), name="z"))
    with pytest.raises(ValueError, match="temperature to be a positive number"):
        StandardizedLogits(temperature=0.0)
