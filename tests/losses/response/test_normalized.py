import numpy as np
import pytest

from keras_kd import schedules
from keras_kd.losses.response import NormalizedDistillation, nkd
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
)
from tests.models import log_softmax


def expected(teacher, student, labels, temperature, gamma):
    values = []
    rows = (side.reshape(-1, side.shape[-1]) for side in (teacher, student))
    for t, s, y in zip(*rows, labels.reshape(-1), strict=True):
        target = -np.exp(log_softmax(t)[y]) * log_softmax(s)[y]
        t, s = (log_softmax(np.delete(np.float64(z), y) / temperature) for z in (t, s))
        values.append(target - gamma * temperature**2 * (np.exp(t) * s).sum())
    return np.reshape(values, labels.shape)


@pytest.mark.parametrize("positions", [(), (3,), (2, 4)])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_value(rng, positions, temperature):
    teacher, student, labels = logits_and_labels(rng, *positions)
    result = nkd(
        teacher=teacher, student=student, labels=labels, temperature=temperature, gamma=1.5
    )
    wanted = expected(teacher, student, labels, temperature, 1.5)
    np.testing.assert_allclose(result, wanted, rtol=RTOL, atol=ATOL)


def test_a_student_like_its_teacher_has_no_slope_among_the_others(rng):
    """A cross-entropy is least where both agree."""
    teacher, _, labels = logits_and_labels(rng)
    options = {"labels": labels, "temperature": 2.0, "gamma": 1.0}
    with_others = gradient(lambda s: nkd(teacher=teacher, student=s, **options), teacher)[1][0]
    without = gradient(
        lambda s: nkd(teacher=teacher, student=s, **{**options, "gamma": 0.0}), teacher
    )[1][0]
    np.testing.assert_allclose(with_others, without, atol=ATOL)


def test_extremes_and_compilers(rng):
    teacher, student, labels = logits_and_labels(rng)
    options = {"labels": labels, "temperature": 1.0, "gamma": 1.5}
    for scale in (1.0, 1e4, 0.0):
        assert_finite(lambda s, t=scale * teacher: nkd(teacher=t, student=s, **options), student)
    assert_xla_agrees(lambda s: nkd(teacher=teacher, student=s, **options), student)


def test_the_teacher_gets_no_gradient(rng):
    teacher, student, labels = logits_and_labels(rng)
    options = {"labels": labels, "temperature": 1.0, "gamma": 1.5}
    _, (slope,) = gradient(lambda t: nkd(teacher=t, student=student, **options), teacher)
    assert slope is None


def test_it_learns_and_needs_labels():
    assert_learns(NormalizedDistillation())
    assert_needs_labels(NormalizedDistillation())


def test_configuration():
    loss = NormalizedDistillation()
    assert (loss.temperature, loss.gamma) == (1.0, 1.5)
    assert_round_trip(NormalizedDistillation(gamma=schedules.WarmUp(1.5, 10), temperature=2.0))
    with pytest.raises(ValueError, match="gamma to be a number of at least 0"):
        NormalizedDistillation(gamma=-1.0)
