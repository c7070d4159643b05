"""Teachers of other classes than the student's, and of only some of the samples."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_kd
from keras_kd import teachers
from keras_kd.losses import Context
from keras_kd.teachers.classes import mapped_log_probabilities
from tests.models import CLASSES, RTOL, log_softmax, mlp, soft_target, task_loss, vectors


def logsumexp(values):
    return np.log(np.exp(values).sum(-1))


def distilled(teacher, student=None, loss=None, **options):
    loss = loss or keras_kd.LogitsDistillation(temperature=2.0)
    distiller = keras_kd.Distiller(teacher, student or mlp("student"), loss, **options)
    distiller.compile(keras.optimizers.SGD(0.1), task_loss())
    return distiller


def evaluated(distiller, x, y, **options):
    return distiller.evaluate(x, y, batch_size=len(x), verbose=0, return_dict=True, **options)


# -- classes ---------------------------------------------------------------------------------------


def test_groups_are_added_and_the_rest_is_renormalised(rng):
    logits = 5 * rng.normal(size=(7, 6))
    found = mapped_log_probabilities(
        logits=ops.convert_to_tensor(logits, "float64"), groups=[[4], [0, 1, 5]]
    )
    log_p = log_softmax(logits)
    expected = np.stack([log_p[:, 4], logsumexp(log_p[:, [0, 1, 5]])], -1)
    np.testing.assert_allclose(found, log_softmax(expected), rtol=1e-12)


def test_what_has_underflowed_stays_finite():
    logits = ops.convert_to_tensor([[0.0, -1e4, -2e4, 1e4]])
    found = ops.convert_to_numpy(mapped_log_probabilities(logits=logits, groups=[[0], [1, 2]]))
    np.testing.assert_allclose(found, [[0.0, -1e4]], rtol=1e-6)


def test_a_fine_teacher_teaches_coarse_classes():
    x, y = vectors()
    fine = mlp("fine", units=7)
    mapping = [0, 1, 2, 3, 0, None, 1]
    distiller = distilled(teachers.MapClasses(fine, mapping, student_classes=CLASSES))
    log_p = log_softmax(np.float64(fine(x)))
    groups = [[i for i, to in enumerate(mapping) if to == c] for c in range(CLASSES)]
    target = np.stack([logsumexp(log_p[:, group]) for group in groups], -1)
    expected = soft_target(target, np.float64(distiller.student(x)), 2.0).mean()
    logs = evaluated(distiller, x, y)
    np.testing.assert_allclose(logs["distillation_loss"], expected, rtol=RTOL)


@pytest.mark.parametrize("end", [None, "softmax"])
def test_of_a_teacher_of_some_classes_the_others_are_masked(end):
    x, y = vectors()
    some, student = mlp("some", units=3), mlp("student", activation=end)
    teacher = teachers.MapClasses(some, [3, 0, None], student_classes=CLASSES)
    distiller = keras_kd.Distiller(
        teacher, student, keras_kd.LogitsDistillation(2.0), teacher_agreement=True
    )
    distiller.compile("sgd", "sparse_categorical_crossentropy")
    target = np.float64(some(x))[:, [1, 0]]
    said = np.float64(student(x))[:, [0, 3]]
    said = np.log(said) if end else said
    logs = evaluated(distiller, x, y)
    # Where the student is a softmax, the test's own logarithm of float32 adds an ulp of 6e-8.
    np.testing.assert_allclose(
        logs["distillation_loss"], soft_target(target, said, 2.0).mean(), rtol=RTOL
    )
    agree = (target.argmax(-1) == said.argmax(-1)).mean()
    np.testing.assert_allclose(logs["teacher_agreement"], agree, rtol=RTOL)


def test_the_classes_that_are_masked_get_no_gradient_from_it():
    x, y = vectors()
    teacher = teachers.MapClasses(mlp("some", units=2), [1, 2], student_classes=CLASSES)
    distiller = distilled(teacher, student_loss_weight=0.0)
    bias = distiller.student.get_layer("outputs").bias
    before = np.array(bias.numpy())
    distiller.fit(x, y, verbose=0)
    changed = np.array(bias.numpy()) != before
    np.testing.assert_array_equal(changed, [False, True, True, False])


def test_a_softmax_student_keeps_its_gradient_where_it_has_underflowed():
    """A bias of -200 makes probabilities of 0 in float32; the logits behind them are used."""
    student = mlp("student", activation="softmax")
    outputs = student.get_layer("outputs")
    outputs.bias.assign([0.0, -200.0, -200.0, 0.0])
    some = mlp("some", units=2)
    teacher = teachers.MapClasses(some, [1, 0], student_classes=CLASSES)
    x, _ = vectors()
    distiller = distilled(teacher, student, student_loss_weight=0.0)
    distiller.compile("sgd")
    distiller.fit(x, verbose=0)
    assert float(outputs.bias[1]) > -200.0


def test_by_name():
    teacher = teachers.MapClasses.by_name(
        mlp("named", units=3), ["cat", "car", "dog"], ["dog", "cat", "cow"]
    )
    assert teacher.mapping == (1, None, 0)
    assert teacher.classes == (0, 1)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ([0, 1, 2, 3], "entry for each of the 3 classes"),
        ([0, 1, 4], r"to None or 0\.\.3"),
        ([0, None, 0], "at least two of the student's classes"),
    ],
)
def test_a_wrong_mapping_is_refused(mapping, message):
    def made():
        teacher = teachers.MapClasses(mlp("t", units=3), mapping, student_classes=CLASSES)
        return distilled(teacher)

    with pytest.raises(ValueError, match=message):
        made()


def test_a_loss_with_labels_is_refused_where_classes_are_missing():
    teacher = teachers.MapClasses(mlp("some", units=2), [0, 1], student_classes=CLASSES)
    with pytest.raises(ValueError, match="all the student's classes for 'dkd'"):
        distilled(teacher, loss=keras_kd.losses.get("dkd", name="dkd"))


# -- samples ---------------------------------------------------------------------------------------


def test_unknown_examples_have_no_distillation_term_but_their_task():
    x, y = vectors()
    model = mlp("teacher")
    distiller = distilled(teachers.KnownOnly(model, lambda batch: batch.labels < 2))
    plain = distilled(model, distiller.student)
    weights = (y < 2).astype("float32")
    logs, same = evaluated(distiller, x, y), evaluated(plain, x, y)
    weighed = evaluated(plain, x, y, sample_weight=weights)
    np.testing.assert_allclose(logs["distillation_loss"], weighed["distillation_loss"], rtol=RTOL)
    np.testing.assert_allclose(logs["student_loss"], same["student_loss"], rtol=RTOL)
    assert not np.isclose(logs["distillation_loss"], same["distillation_loss"])


def test_weights_and_what_is_known_count_together():
    x, y = vectors()
    model = mlp("teacher")
    weights = np.linspace(0.0, 2.0, len(y)).astype("float32")
    distiller = distilled(teachers.KnownOnly(model, lambda batch: batch.labels < 2))
    plain = distilled(model, distiller.student)
    logs = evaluated(distiller, x, y, sample_weight=weights)
    weighed = evaluated(plain, x, y, sample_weight=weights * (y < 2))
    np.testing.assert_allclose(logs["distillation_loss"], weighed["distillation_loss"], rtol=RTOL)


def holes(x):
    """A function that answers NaN for every second example."""
    found = np.tile(np.arange(CLASSES, dtype="float32"), (len(x), 1))
    found[::2] = np.nan
    return found


def test_a_teacher_that_answers_nan_knows_nothing_there():
    x, y = vectors()
    function = teachers.Callable(holes, output_shape=(CLASSES,), gives="logits")
    distiller = distilled(teachers.KnownOnly(function, "finite"), teacher_agreement=True)
    student = np.float64(distiller.student(x))
    per_example = soft_target(np.tile(np.arange(4.0), (len(x), 1)), student, 2.0)
    per_example[::2] = 0.0
    logs = evaluated(distiller, x, y)
    np.testing.assert_allclose(logs["distillation_loss"], per_example.mean(), rtol=RTOL)
    agree = (student.argmax(-1) == CLASSES - 1)[1::2].mean()
    np.testing.assert_allclose(logs["teacher_agreement"], agree, rtol=RTOL)
    distiller.fit(x, y, epochs=2, verbose=0)
    assert all(np.isfinite(w).all() for w in distiller.student.get_weights())


def test_what_is_known_can_be_asked_ahead():
    x, y = vectors()
    function = teachers.Callable(holes, output_shape=(CLASSES,), gives="logits")
    teacher = teachers.KnownOnly(function, "finite")
    distiller = distilled(teacher)
    # The function sees all examples at once in both cases.
    ahead = evaluated(distiller, teachers.attach(x, teacher), y)
    np.testing.assert_allclose(
        ahead["distillation_loss"], evaluated(distiller, x, y)["distillation_loss"], rtol=RTOL
    )


def test_a_loss_over_the_batch_that_leaves_nothing_out_is_refused():
    class Offset(keras.distillation.DistillationLoss):
        def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
            return ops.mean(teacher_outputs - student_outputs)

    teacher = teachers.KnownOnly(mlp("teacher"), lambda batch: batch.labels < 2)
    with pytest.raises(ValueError, match="a teacher that knows every example for 'offset'"):
        distilled(teacher, loss=Offset())


def test_knows_must_give_one_boolean_an_example():
    x, y = vectors()
    teacher = teachers.KnownOnly(mlp("teacher"), lambda batch: batch.labels < 2)
    with pytest.raises(ValueError, match=r"booleans of shape \[batch\]"):
        distilled(teacher).fit(x, y[:, None], verbose=0)
    with pytest.raises(ValueError, match="a callable or 'finite'"):
        teachers.KnownOnly(mlp("teacher"), "some")


# -- invariants of all kinds -----------------------------------------------------------------------


def kinds():
    """A teacher of each kind around the same Keras model, by name."""
    model = mlp("teacher")
    return {
        "model": model,
        "explicit": teachers.ModelTeacher(model),
        "ensemble": teachers.Ensemble([model, mlp("other")]),
        "random": teachers.Ensemble([model, mlp("other")], weighting="random"),
        "classes": teachers.MapClasses(model, range(4), student_classes=4),
        "samples": teachers.KnownOnly(model, lambda batch: batch.labels < 3),
        "callable": teachers.Callable(
            lambda x: np.asarray(model(x)), output_shape=(CLASSES,), gives="logits", name="f"
        ),
    }


@pytest.mark.parametrize("kind", list(kinds()))
def test_what_is_always_true(kind, tmp_path):
    teacher = kinds()[kind]
    held = getattr(teacher, "variables", [])
    before = [np.array(v.numpy()) for v in held]
    distiller = distilled(teacher)
    x, y = vectors()
    distiller.fit(x, y, batch_size=8, epochs=2, verbose=0)
    # The caller's teacher is not changed, nor a part of the distiller.
    for variable, value in zip(held, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert not {id(v) for v in held} & {id(v) for v in distiller.variables}
    # `evaluate` changes nothing.
    state = [np.array(v.numpy()) for v in distiller.weights]
    logs = distiller.evaluate(x, y, verbose=0, return_dict=True)
    for variable, value in zip(distiller.weights, state, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    # Saved without its teacher, it takes it back and says the same.
    distiller.save(tmp_path / "d.keras")
    again = keras.models.load_model(tmp_path / "d.keras")
    assert again.teacher is None
    again.teacher = teacher
    same = again.evaluate(x, y, verbose=0, return_dict=True)
    np.testing.assert_allclose(same["loss"], logs["loss"], rtol=RTOL)
    again.fit(x, y, verbose=0)


@pytest.mark.parametrize("kind", ["ensemble", "classes", "samples"])
def test_another_teacher_is_refused_after_loading(kind, tmp_path):
    distiller = distilled(kinds()[kind])
    distiller.save(tmp_path / "d.keras")
    again = keras.models.load_model(tmp_path / "d.keras")
    with pytest.raises(ValueError, match="the teacher that this distiller was trained with"):
        again.teacher = mlp("quite another")


def test_preprocessing_of_a_bare_model_is_refused_with_a_teacher():
    with pytest.raises(ValueError, match="with a Keras model alone"):
        distilled(kinds()["ensemble"], teacher_preprocessing=lambda x: x)


def test_a_student_inside_its_teacher_is_refused():
    student = mlp("student")
    with pytest.raises(ValueError, match="does not change its teacher"):
        distilled(teachers.Ensemble([mlp("a"), student]), student)


def test_the_summary_names_the_kind():
    lines = []
    distilled(kinds()["ensemble"]).summary(print_fn=lines.append)
    assert "'ensemble', mean of 2: 'teacher', 92 parameters; 'other'" in lines[0]


def test_answers_of_no_teacher_are_as_declared():
    answer = teachers.ModelTeacher(mlp("teacher"))(Context(inputs=vectors()[0]))
    assert answer.known is None
    assert answer.features == {}
