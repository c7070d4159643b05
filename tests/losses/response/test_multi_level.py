import keras
import numpy as np
import pytest

from keras_kd import schedules
from keras_kd.losses import Context
from keras_kd.losses.response import (
    MultiLevelDistillation,
    batch_correlation,
    class_correlation,
    mlkd,
)
from tests.losses.response.checks import (
    ATOL,
    RTOL,
    assert_finite,
    assert_learns,
    assert_round_trip,
    assert_xla_agrees,
    gradient,
    logits_and_labels,
    softmax,
)
from tests.models import soft_target

OPTIONS = {"temperatures": (1.0, 3.0), "class_weight": 2.0, "batch_weight": 0.5}


def probabilities(*sides, temperature):
    return (softmax(np.float64(z).reshape(-1, z.shape[-1]) / temperature) for z in sides)


def classes_expected(teacher, student, temperature):
    p, q = probabilities(teacher, student, temperature=temperature)
    return np.square(q.T @ q - p.T @ p).sum() / p.shape[1]


def batch_expected(teacher, student, temperature):
    p, q = probabilities(teacher, student, temperature=temperature)
    return np.square(q @ q.T - p @ p.T).sum() / len(p)


def expected(teacher, student):
    return sum(
        soft_target(teacher, student, temperature).mean()
        + 2.0 * classes_expected(teacher, student, temperature)
        + 0.5 * batch_expected(teacher, student, temperature)
        for temperature in (1.0, 3.0)
    )


@pytest.mark.parametrize("positions", [(), (3,), (2, 4)])
@pytest.mark.parametrize(
    ("function", "wanted"),
    [(class_correlation, classes_expected), (batch_correlation, batch_expected)],
)
def test_parts(rng, positions, function, wanted):
    teacher, student, _ = logits_and_labels(rng, *positions)
    result = function(teacher=teacher, student=student, temperature=2.0)
    assert result.shape == teacher.shape[:-1]
    assert np.mean(result) == pytest.approx(wanted(teacher, student, 2.0), rel=RTOL)


@pytest.mark.parametrize("positions", [(), (3,)])
def test_value(rng, positions):
    teacher, student, _ = logits_and_labels(rng, *positions)
    result = mlkd(teacher=teacher, student=student, **OPTIONS)
    assert np.mean(result) == pytest.approx(expected(teacher, student), rel=RTOL)


def test_zero_at_equality_and_only_there(rng):
    teacher, student, _ = logits_and_labels(rng)
    np.testing.assert_allclose(mlkd(teacher=teacher, student=teacher, **OPTIONS), 0.0, atol=ATOL)
    assert (np.asarray(mlkd(teacher=teacher, student=student, **OPTIONS)) > 0).all()


@pytest.mark.parametrize("positions", [(), (3,)])
def test_only_valid_rows_count(rng, positions):
    teacher, student, _ = logits_and_labels(rng, *positions)
    valid = rng.random(teacher.shape[:-1]) < 0.6
    wanted = expected(teacher[valid], student[valid])
    teacher[~valid] = student[~valid] = np.nan
    result = np.asarray(mlkd(teacher=teacher, student=student, valid=valid, **OPTIONS))
    assert result.sum() / valid.sum() == pytest.approx(wanted, rel=RTOL)
    assert (result[~valid] == 0.0).all()
    _, (slope,) = gradient(
        lambda s: mlkd(teacher=teacher, student=s, valid=valid, **OPTIONS), student
    )
    assert np.isfinite(slope).all()
    nothing = mlkd(teacher=teacher, student=student, valid=np.zeros_like(valid), **OPTIONS)
    np.testing.assert_array_equal(nothing, np.zeros(valid.shape))


def test_extremes_and_compilers(rng):
    teacher, student, _ = logits_and_labels(rng)
    assert_finite(lambda s: mlkd(teacher=teacher, student=s, **OPTIONS), student)
    assert_xla_agrees(lambda s: mlkd(teacher=teacher, student=s, **OPTIONS), student)


def test_the_teacher_gets_no_gradient(rng):
    teacher, student, _ = logits_and_labels(rng)
    _, (slope,) = gradient(lambda t: mlkd(teacher=t, student=student, **OPTIONS), teacher)
    assert slope is None


def test_padding_and_weight_zero_leave_the_statistics(rng):
    teacher, student, _ = logits_and_labels(rng, 3)
    mask, weight = np.ones((7, 3), bool), np.array([1, 1, 0, 1, 0, 1, 1], "float32")
    mask[1:4, 2] = False
    rows = mask & (weight > 0)[:, None]
    loss = MultiLevelDistillation(
        temperatures=(1.0, 3.0),
        class_weight=2.0,
        batch_weight=0.5,
        teacher_outputs="logits",
        student_outputs="logits",
    )
    values = loss.per_example(
        keras.ops.array(teacher),
        keras.ops.array(student),
        Context(masks=(mask,), example_weight=keras.ops.array(weight)),
    )
    # `mean_over_positions` divides by all positions that are no padding.
    wanted = expected(teacher[rows], student[rows]) * rows.sum() / mask.sum()
    assert np.mean(values) == pytest.approx(wanted, rel=RTOL)


def test_it_learns():
    assert_learns(MultiLevelDistillation())


def test_configuration():
    assert MultiLevelDistillation().temperatures == (2.0, 3.0, 4.0, 5.0, 6.0)
    assert_round_trip(MultiLevelDistillation(temperatures=[1.0, 2.0]))
    assert_round_trip(MultiLevelDistillation(class_weight=schedules.WarmUp(1.0, 5)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperatures": ()}, "temperatures to be a list of numbers"),
        ({"temperatures": 4.0}, "temperatures to be a list of numbers"),
        ({"temperatures": (4.0, 0.0)}, "temperatures to be a positive number"),
        ({"temperatures": (schedules.Constant(4.0),)}, "temperatures without schedules"),
        ({"batch_weight": -1.0}, "batch_weight to be a number of at least 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        MultiLevelDistillation(**options)
