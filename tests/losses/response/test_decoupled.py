import keras
import numpy as np
import pytest

from keras_kd import schedules
from keras_kd.losses import Context
from keras_kd.losses.response import DecoupledDistillation, dkd
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


def expected(teacher, student, labels, temperature, alpha, beta):
    """The published form, in float64, row by row."""
    values = []
    for t, s, y in zip(
        teacher.reshape(-1, teacher.shape[-1]),
        student.reshape(-1, student.shape[-1]),
        labels.reshape(-1),
        strict=True,
    ):
        p_t, p_s = (softmax(np.float64(z) / temperature) for z in (t, s))
        b_t, b_s = (np.array([p[y], 1.0 - p[y]]) for p in (p_t, p_s))
        q_t, q_s = (np.delete(p, y) / (1.0 - p[y]) for p in (p_t, p_s))
        target, others = ((a * np.log(a / b)).sum() for a, b in ((b_t, b_s), (q_t, q_s)))
        values.append(temperature**2 * (alpha * target + beta * others))
    return np.reshape(values, labels.shape)


@pytest.mark.parametrize("positions", [(), (3,), (2, 4)])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (2.0, 0.0), (0.0, 1.0)])
def test_value(rng, positions, alpha, beta):
    teacher, student, labels = logits_and_labels(rng, *positions)
    result = dkd(
        teacher=teacher, student=student, labels=labels, temperature=2.0, alpha=alpha, beta=beta
    )
    wanted = expected(teacher, student, labels, 2.0, alpha, beta)
    np.testing.assert_allclose(result, wanted, rtol=RTOL, atol=ATOL)


def test_zero_at_equality_and_only_there(rng):
    teacher, student, labels = logits_and_labels(rng)
    options = {"labels": labels, "temperature": 4.0, "alpha": 1.0, "beta": 8.0}
    np.testing.assert_array_equal(dkd(teacher=teacher, student=teacher, **options), np.zeros(7))
    assert (np.asarray(dkd(teacher=teacher, student=student, **options)) > 0).all()


@pytest.mark.parametrize("label", [0, 1])
def test_a_teacher_without_doubt_is_no_infinity(label):
    """1 - p_y underflows in float32 from a margin of 104 on, where the published form is inf."""
    teacher, student = np.array([[200.0, 0.0, 1.0]]), np.array([[0.0, 300.0, 2.0]])
    wanted = {
        # KL((1, 0) || (e^-300, 1)), or KL((e^-200, 1) || (1, (e^0 + e^2) e^-300)).
        0: 300.0,
        1: 300.0 - np.logaddexp(0.0, 2.0),
    }[label]
    value, (slope,) = gradient(
        lambda s: dkd(
            teacher=teacher.astype("float32"),
            student=s,
            labels=[label],
            temperature=1.0,
            alpha=1.0,
            beta=0.0,
        ),
        student.astype("float32"),
    )
    assert value == pytest.approx(wanted, rel=RTOL)
    # The binary divergence has slope b_s - b_t in the log-odds: 1 where both are sure.
    assert np.abs(slope).max() == pytest.approx(1.0, rel=RTOL)


def test_two_classes_have_no_others(rng):
    teacher, student, labels = logits_and_labels(rng, classes=2)
    result = dkd(
        teacher=teacher, student=student, labels=labels, temperature=1.0, alpha=0.0, beta=1.0
    )
    np.testing.assert_array_equal(result, np.zeros(7))


def test_extremes_and_compilers(rng):
    teacher, student, labels = logits_and_labels(rng)
    options = {"labels": labels, "temperature": 4.0, "alpha": 1.0, "beta": 8.0}
    for scale in (1.0, 1e4, 0.0):
        assert_finite(lambda s, t=scale * teacher: dkd(teacher=t, student=s, **options), student)
    assert_xla_agrees(lambda s: dkd(teacher=teacher, student=s, **options), student)


def test_the_teacher_gets_no_gradient(rng):
    teacher, student, labels = logits_and_labels(rng)
    options = {"labels": labels, "temperature": 4.0, "alpha": 1.0, "beta": 8.0}
    _, (slope,) = gradient(lambda t: dkd(teacher=t, student=student, **options), teacher)
    assert slope is None


def test_labels_in_every_form(rng):
    teacher, student, labels = logits_and_labels(rng, 3)
    loss = DecoupledDistillation(teacher_outputs="logits", student_outputs="logits")
    wanted = expected(teacher, student, labels, 4.0, 1.0, 8.0).mean(-1)
    for given in (labels, labels[..., None], np.eye(5)[labels]):
        values = loss.per_example(
            keras.ops.array(teacher), keras.ops.array(student), Context(labels=given)
        )
        np.testing.assert_allclose(values, wanted, rtol=RTOL, atol=ATOL)


def test_padding_never_counts(rng):
    teacher, student, labels = logits_and_labels(rng, 3)
    mask = np.arange(3) < rng.integers(1, 3, size=(7, 1))
    wanted = expected(teacher, student, labels, 4.0, 1.0, 8.0)
    wanted = (wanted * mask).sum() / mask.sum()
    teacher[~mask] = student[~mask] = np.nan
    labels = np.where(mask, labels, -100)
    loss = DecoupledDistillation(teacher_outputs="logits", student_outputs="logits")
    value, (slope,) = gradient(
        lambda s: loss.per_example(
            keras.ops.array(teacher), s, Context(labels=labels, masks=(mask,))
        ),
        student,
    )
    assert value == pytest.approx(wanted, rel=RTOL)
    assert np.isfinite(slope).all()


def test_the_weights_may_be_schedules(rng):
    teacher, student, labels = logits_and_labels(rng)
    loss = DecoupledDistillation(
        alpha=schedules.Linear(0.0, 2.0, 4),
        beta=schedules.WarmUp(8.0, 4),
        teacher_outputs="logits",
        student_outputs="logits",
    )
    values = loss.per_example(
        keras.ops.array(teacher), keras.ops.array(student), Context(step=1, labels=labels)
    )
    wanted = expected(teacher, student, labels, 4.0, 0.5, 2.0)
    np.testing.assert_allclose(values, wanted, rtol=RTOL, atol=ATOL)
    assert_round_trip(loss)


def test_beta_warms_up_in_training():
    # Without the target's part there is nothing at step 0, and more from then on.
    _, losses = fitted(DecoupledDistillation(alpha=0.0, beta=schedules.WarmUp(8.0, 40)), epochs=2)
    assert losses[0] == 0.0
    assert losses[1] > 0.0


def test_it_learns_and_needs_labels():
    assert_learns(DecoupledDistillation())
    assert_needs_labels(DecoupledDistillation())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1.0}, "alpha to be a number of at least 0"),
        ({"beta": "much"}, "beta to be a number or a schedule"),
        ({"temperature": 0}, "temperature to be a positive number"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        DecoupledDistillation(**options)
