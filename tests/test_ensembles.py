"""Students that are an ensemble: built, taught member by member, and converted as one."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd
from keras_kd import ensembles, teachers
from tests.models import CLASSES, FEATURES, RTOL, log_softmax, mlp, soft_target, task_loss, vectors


def built(**options):
    return ensembles.members([mlp(f"m{i}", width=3 + i, **options) for i in range(3)])


def softmax(logits):
    return np.exp(log_softmax(np.float64(logits)))


def test_each_member_is_taught_by_the_one_teacher():
    student, teacher = built(), mlp("teacher")
    loss = keras_kd.LogitsDistillation(2.0, loss=["kl_divergence"] * 3)
    distiller = keras_kd.Distiller(teachers.ForEach(teacher, 3), student, loss)
    distiller.compile("sgd", [task_loss()] * 3)
    x, y = vectors()
    logs = distiller.evaluate(x, [y] * 3, batch_size=len(x), verbose=0, return_dict=True)
    said = [np.float64(outputs) for outputs in student(x)]
    expected = sum(soft_target(np.float64(teacher(x)), each, 2.0).mean() for each in said)
    np.testing.assert_allclose(logs["distillation_loss"], expected, rtol=RTOL)
    before = [np.array(w) for w in student.get_weights()]
    distiller.fit(x, [y] * 3, verbose=0)
    assert all((a != b).any() for a, b in zip(before, student.get_weights(), strict=True))


def test_each_member_may_have_a_teacher_of_its_own():
    student = built()
    each = [mlp(f"t{i}", width=9 + i) for i in range(3)]
    loss = keras_kd.LogitsDistillation(2.0, loss=["kl_divergence"] * 3)
    teacher = teachers.Ensemble(each, weighting="separate")
    distiller = keras_kd.Distiller(teacher, student, loss, student_loss_weight=0.0)
    distiller.compile("sgd")
    x, _ = vectors()
    logs = distiller.evaluate(x, batch_size=len(x), verbose=0, return_dict=True)
    pairs = zip(each, student(x), strict=True)
    expected = sum(soft_target(np.float64(t(x)), np.float64(s), 2.0).mean() for t, s in pairs)
    np.testing.assert_allclose(logs["distillation_loss"], expected, rtol=RTOL)


@pytest.mark.parametrize("end", [None, "softmax"])
def test_predicts_by_the_mean_of_probabilities(end):
    student = built(activation=end)
    x, _ = vectors()
    p = [np.float64(outputs) if end else softmax(outputs) for outputs in student(x)]
    found = ensembles.mean(student)(x)
    np.testing.assert_allclose(found, np.mean(p, axis=0), rtol=RTOL, atol=1e-7)


def test_a_single_unit_is_a_sigmoid():
    student = built(units=1)
    x, _ = vectors()
    expected = np.mean([1 / (1 + np.exp(-np.float64(z))) for z in student(x)], axis=0)
    np.testing.assert_allclose(ensembles.mean(student)(x), expected, rtol=RTOL)


def test_heads_share_their_body_and_the_mean_its_weights():
    inputs = keras.Input((FEATURES,))
    body = keras.Model(inputs, layers.Dense(5, activation="relu")(inputs), name="body")
    student = ensembles.heads_on(body, lambda i: layers.Dense(CLASSES, name=f"head_{i}"), 2)
    assert student.count_params() == body.count_params() + 2 * (5 * CLASSES + CLASSES)
    mean = ensembles.mean(student)
    x, _ = vectors()
    before = np.array(mean(x))
    student.get_layer("head_0").bias.assign([9.0, 0.0, 0.0, 0.0])
    assert np.abs(np.array(mean(x)) - before).max() > 0.1


@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_the_mean_is_one_tflite(tmp_path, quantization):
    student = built()
    x, _ = vectors(64)
    artifact = keras_kd.deploy.convert(
        ensembles.mean(student),
        tmp_path / "student.tflite",
        quantization=quantization,
        **({"calibration": x} if quantization == "int8" else {}),
    )
    found = keras_kd.deploy.Interpreter(artifact).predict(x)
    expected = np.mean([softmax(outputs) for outputs in student(x)], axis=0)
    # float32 in another order of sums; int8 has steps of 1 / 256 for the probabilities, and of the
    # logits, some 10 wide here, steps of 0.04, which a softmax turns into at most 0.02 for each.
    atol = 1e-5 if quantization == "float32" else 0.05
    np.testing.assert_allclose(found, expected, atol=atol)
    assert found.shape == (64, CLASSES)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ensembles.members([mlp("a")]), "two models of different names"),
        (lambda: ensembles.members([mlp("a"), mlp("a")]), "two models of different names"),
        (lambda: ensembles.members([mlp("a"), mlp("b", units=3)]), "the same input and the same"),
        (lambda: ensembles.members([built(), mlp("b")]), "the same single output"),
        (lambda: ensembles.heads_on(mlp("a"), layers.Dense, 1), "at least two heads"),
        (lambda: ensembles.mean(mlp("a")), "several outputs"),
        (lambda: ensembles.mean(built(activation="relu")), "ends in relu"),
        (lambda: teachers.ForEach(mlp("a"), 0), "a positive integer"),
    ],
)
def test_what_is_no_ensemble_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
