import numpy as np
import pytest

from keras_kd import schedules
from keras_kd.losses.response import InterIntraDistillation, dist
from tests.losses.response.checks import (
    ATOL,
    RTOL,
    assert_finite,
    assert_learns,
    assert_round_trip,
    assert_xla_agrees,
    fitted,
    gradient,
    logits_and_labels,
    softmax,
)

OPTIONS = {"temperature": 2.0, "beta": 1.0, "gamma": 3.0}


def expected(teacher, student, temperature, beta, gamma):
    """The mean over all rows, and the value of each."""
    classes = teacher.shape[-1]
    p, q = (
        softmax(np.float64(side).reshape(-1, classes) / temperature) for side in (teacher, student)
    )
    rows = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    columns = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    values = temperature**2 * (beta * (1.0 - rows) + gamma * (1.0 - columns))
    return values.reshape(teacher.shape[:-1])


@pytest.mark.parametrize("positions", [(), (3,), (2, 4)])
def test_value(rng, positions):
    teacher, student, _ = logits_and_labels(rng, *positions)
    result = dist(teacher=teacher, student=student, **OPTIONS)
    np.testing.assert_allclose(result, expected(teacher, student, **OPTIONS), rtol=RTOL, atol=ATOL)


def test_zero_at_equality_and_only_there(rng):
    teacher, student, _ = logits_and_labels(rng)
    # 1e-8 beside the square of a norm of some hundredths.
    same = dist(teacher=teacher, student=teacher, **OPTIONS)
    np.testing.assert_allclose(same, 0.0, atol=1e-4)
    assert (np.asarray(dist(teacher=teacher, student=student, **OPTIONS)) > 0.1).all()


@pytest.mark.parametrize("positions", [(), (3,)])
def test_only_valid_rows_count(rng, positions):
    teacher, student, _ = logits_and_labels(rng, *positions)
    valid = rng.random(teacher.shape[:-1]) < 0.6
    wanted = np.zeros(valid.shape)
    wanted[valid] = expected(teacher[valid], student[valid], **OPTIONS)
    teacher[~valid] = student[~valid] = np.nan
    result = dist(teacher=teacher, student=student, valid=valid, **OPTIONS)
    np.testing.assert_allclose(result, wanted, rtol=RTOL, atol=ATOL)
    _, (slope,) = gradient(
        lambda s: dist(teacher=teacher, student=s, valid=valid, **OPTIONS), student
    )
    assert np.isfinite(slope).all()
    assert (slope[~valid] == 0.0).all()


def test_without_a_valid_row_there_is_nothing(rng):
    teacher, student, _ = logits_and_labels(rng)
    valid = np.zeros(7, bool)
    value, (slope,) = gradient(
        lambda s: dist(teacher=teacher, student=s, valid=valid, **OPTIONS), student
    )
    assert value == 0.0
    np.testing.assert_array_equal(slope, np.zeros_like(student))


def test_a_student_that_says_the_same_of_all_has_a_bounded_gradient(rng):
    teacher, student, _ = logits_and_labels(rng)
    value, (slope,) = gradient(
        lambda s: dist(teacher=teacher, student=s, **OPTIONS), np.zeros_like(student)
    )
    # No correlation: T^2 (beta + gamma).
    assert value == pytest.approx(16.0, rel=RTOL)
    # T (beta + gamma) / 1e-3 times probabilities that sum to 1, over N: as a norm below that.
    assert 0.1 < np.abs(slope).max() < 2.0 * 4.0 / 1e-3


def test_extremes_and_compilers(rng):
    teacher, student, _ = logits_and_labels(rng)
    for scale in (1.0, 1e4, 0.0):
        assert_finite(lambda s, t=scale * teacher: dist(teacher=t, student=s, **OPTIONS), student)
    assert_xla_agrees(lambda s: dist(teacher=teacher, student=s, **OPTIONS), student)


def test_the_teacher_gets_no_gradient(rng):
    teacher, student, _ = logits_and_labels(rng)
    _, (slope,) = gradient(lambda t: dist(teacher=t, student=student, **OPTIONS), teacher)
    assert slope is None


def test_it_learns():
    assert_learns(InterIntraDistillation())


def test_examples_of_weight_zero_are_left_out():
    weight = np.r_[np.ones(12), np.zeros(8)].astype("float32")
    distiller, _ = fitted(InterIntraDistillation(), epochs=1, sample_weight=weight)
    assert np.isfinite(distiller.student.get_weights()[0]).all()
    with pytest.raises(ValueError, match=r"0 (and|or) 1"):
        fitted(InterIntraDistillation(), epochs=1, sample_weight=weight * 0.5)


def test_configuration():
    loss = InterIntraDistillation()
    assert (loss.temperature, loss.beta, loss.gamma) == (1.0, 2.0, 2.0)
    assert_round_trip(InterIntraDistillation(beta=schedules.WarmUp(2.0, 5), gamma=0.5))
    with pytest.raises(ValueError, match="gamma to be a number of at least 0"):
        InterIntraDistillation(gamma=-1.0)
