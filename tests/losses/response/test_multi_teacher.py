import keras
import numpy as np
import pytest

from keras_kd import schedules
from keras_kd.losses.response import MultiTeacherDistillation, multi_teacher, teacher_weights
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
from tests.models import CLASSES, FEATURES, cross_entropy, log_softmax, mlp, soft_target

WEIGHTINGS = ("mean", "entropy", "confidence")
every_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS)


def teachers_and_student(rng, *positions, number=4):
    _, student, labels = logits_and_labels(rng, *positions)
    shape = (number, *student.shape)
    return (rng.normal(size=shape) * 2.0).astype("float32"), student, labels


def weights(teachers, labels, weighting):
    number = len(teachers)
    if weighting == "mean":
        return np.ones(teachers.shape[:-1])
    if weighting == "entropy":
        entropy = -(softmax(teachers) * log_softmax(teachers)).sum(-1)
        return 1.0 - entropy / entropy.sum(0)
    losses = np.stack([cross_entropy(labels, teacher) for teacher in teachers], -1)
    return (1.0 - np.moveaxis(softmax(losses), -1, 0)) / (number - 1)


def expected(teachers, student, labels, weighting, temperature):
    divergences = np.stack([soft_target(teacher, student, temperature) for teacher in teachers])
    return (weights(teachers, labels, weighting) * divergences).mean(0)


@every_weighting
@pytest.mark.parametrize("positions", [(), (3,), (2, 4)])
def test_value(rng, positions, weighting):
    teachers, student, labels = teachers_and_student(rng, *positions)
    for given in (teachers, list(teachers)):
        result = multi_teacher(
            teachers=given, student=student, temperature=2.0, weighting=weighting, labels=labels
        )
        wanted = expected(teachers, student, labels, weighting, 2.0)
        np.testing.assert_allclose(result, wanted, rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize(("weighting", "total"), [("mean", 4), ("entropy", 3), ("confidence", 1)])
def test_what_the_weights_sum_to(rng, weighting, total):
    teachers, _, labels = teachers_and_student(rng)
    for scale in (1.0, 0.0, 1e4):
        found = teacher_weights(teachers=scale * teachers, weighting=weighting, labels=labels)
        np.testing.assert_allclose(np.sum(found, 0), total, rtol=RTOL)


@every_weighting
def test_zero_where_all_agree(rng, weighting):
    teachers, student, labels = teachers_and_student(rng)
    options = {"temperature": 2.0, "weighting": weighting, "labels": labels}
    same = multi_teacher(teachers=[student] * 3, student=student, **options)
    np.testing.assert_allclose(same, 0.0, atol=ATOL)
    assert (np.asarray(multi_teacher(teachers=teachers, student=student, **options)) > 0).all()


@every_weighting
def test_extremes_and_compilers(rng, weighting):
    teachers, student, labels = teachers_and_student(rng)
    options = {"temperature": 2.0, "weighting": weighting, "labels": labels}
    for scale in (1.0, 1e4, 0.0):
        assert_finite(
            lambda s, t=scale * teachers: multi_teacher(teachers=t, student=s, **options), student
        )
    assert_xla_agrees(lambda s: multi_teacher(teachers=teachers, student=s, **options), student)


@every_weighting
def test_the_teachers_get_no_gradient(rng, weighting):
    teachers, student, labels = teachers_and_student(rng)
    _, (slope,) = gradient(
        lambda t: multi_teacher(
            teachers=t, student=student, temperature=2.0, weighting=weighting, labels=labels
        ),
        teachers,
    )
    assert slope is None


def ensemble(*members, pack=list):
    inputs = keras.Input((FEATURES,))
    return keras.Model(inputs, pack(member(inputs) for member in members), name="ensemble")


@every_weighting
def test_it_learns(weighting):
    members = [mlp(f"member_{number}") for number in range(3)]
    assert_learns(MultiTeacherDistillation(weighting=weighting), teacher=ensemble(*members))


def test_a_dict_of_teachers_of_both_forms():
    members = mlp("a"), mlp("b", activation="softmax")
    loss = MultiTeacherDistillation(temperature=2.0)
    distiller, _ = fitted(
        loss,
        teacher=ensemble(*members, pack=lambda outputs: dict(zip("ab", outputs, strict=True))),
        epochs=1,
    )
    (term,) = distiller._terms
    assert term.loss.teacher_outputs == ["logits", "probabilities"]
    assert term.loss.student_outputs == "logits"
    x = np.random.default_rng(1).normal(size=(9, FEATURES)).astype("float32")
    logs = distiller.evaluate(x, np.zeros(9), verbose=0, return_dict=True)
    a, b, student = (np.asarray(model(x)) for model in (*members, distiller.student))
    wanted = np.mean([soft_target(t, student, 2.0) for t in (a, np.log(b))])
    assert logs["distillation_loss"] == pytest.approx(wanted, rel=RTOL)


def test_a_single_teacher_is_the_soft_target():
    teacher = mlp("teacher")
    _, losses = fitted(MultiTeacherDistillation(temperature=2.0), teacher=teacher, epochs=1)
    assert losses[0] > 0.0


def test_only_confidence_needs_labels():
    assert MultiTeacherDistillation(weighting="confidence").needs == {"labels"}
    assert MultiTeacherDistillation(weighting="entropy").needs == frozenset()


@pytest.mark.parametrize("weighting", ["entropy", "confidence"])
def test_one_teacher_cannot_be_weighed(weighting):
    with pytest.raises(ValueError, match="at least two teachers"):
        fitted(MultiTeacherDistillation(weighting=weighting))


def test_what_does_not_fit_is_refused():
    pair = ensemble(mlp("a"), mlp("b"))
    with pytest.raises(ValueError, match="same number of classes"):
        fitted(MultiTeacherDistillation(), teacher=ensemble(mlp("a"), mlp("b", units=3)))
    with pytest.raises(ValueError, match="a student with one output"):
        fitted(MultiTeacherDistillation(), teacher=pair, student=ensemble(mlp("c"), mlp("d")))
    with pytest.raises(ValueError, match="one entry of teacher_outputs for each of 2"):
        fitted(MultiTeacherDistillation(teacher_outputs=["logits"]), teacher=pair)


def test_probabilities_that_nothing_tells_of_are_refused():
    inputs = keras.Input((FEATURES,))
    powers = keras.ops.exp(keras.layers.Dense(CLASSES)(inputs))
    bare = powers / keras.ops.sum(powers, axis=-1, keepdims=True)
    teacher = keras.Model(inputs, [mlp("a")(inputs), bare])
    with pytest.raises(ValueError, match="the teacher's outputs look like probabilities"):
        fitted(MultiTeacherDistillation(), teacher=teacher)
    declared = MultiTeacherDistillation(teacher_outputs=["auto", "probabilities"])
    assert_learns(declared, teacher=teacher)


def test_configuration():
    loss = MultiTeacherDistillation()
    assert (loss.temperature, loss.weighting) == (4.0, "mean")
    assert_round_trip(
        MultiTeacherDistillation(
            temperature=schedules.Linear(4.0, 1.0, 9),
            weighting="entropy",
            teacher_outputs=["logits", "probabilities"],
        )
    )
    with pytest.raises(ValueError, match="weighting to be one of"):
        MultiTeacherDistillation(weighting="best")
