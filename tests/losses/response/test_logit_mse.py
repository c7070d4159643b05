import keras
import numpy as np
import pytest

from keras_kd.losses.response import LogitMatching, logit_mse
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
)
from tests.models import mlp


def expected(teacher, student):
    return np.square(np.float64(student) - np.float64(teacher)).mean(-1)


@pytest.mark.parametrize("positions", [(), (3,), (2, 4)])
def test_value(rng, positions):
    teacher, student, _ = logits_and_labels(rng, *positions)
    result = logit_mse(teacher=teacher, student=student)
    np.testing.assert_allclose(result, expected(teacher, student), rtol=RTOL, atol=ATOL)


def test_zero_at_equality_and_only_there(rng):
    teacher, student, _ = logits_and_labels(rng)
    np.testing.assert_array_equal(logit_mse(teacher=teacher, student=teacher), np.zeros(7))
    assert (np.asarray(logit_mse(teacher=teacher, student=student)) > 0).all()


def test_extremes_and_compilers(rng):
    teacher, student, _ = logits_and_labels(rng)
    assert_finite(lambda s: logit_mse(teacher=teacher, student=s), student)
    assert_xla_agrees(lambda s: logit_mse(teacher=teacher, student=s), student)


def test_the_teacher_gets_no_gradient(rng):
    teacher, student, _ = logits_and_labels(rng)
    _, (slope,) = gradient(lambda t: logit_mse(teacher=t, student=student), teacher)
    assert slope is None


def test_it_learns():
    assert_learns(LogitMatching())


def test_configuration():
    assert_round_trip(LogitMatching(output="a", student_outputs="logits", name="match"))
    assert "temperature" not in LogitMatching().get_config()


def test_an_unknown_option_is_refused():
    with pytest.raises(ValueError, match="teacher_outputs to be one of"):
        LogitMatching(teacher_outputs="softmax")


def test_another_class_count_is_refused():
    with pytest.raises(ValueError, match="same number of classes"):
        fitted(LogitMatching(), teacher=mlp("teacher", units=3))


def test_the_named_output_is_compared(rng):
    teacher, student, _ = logits_and_labels(rng)
    loss = LogitMatching(output="b", teacher_outputs="logits", student_outputs="logits")
    values = loss.compute_loss(
        *({"a": keras.ops.ones((7, 2)), "b": keras.ops.array(side)} for side in (teacher, student))
    )
    assert float(values) == pytest.approx(expected(teacher, student).mean(), rel=RTOL)
