"""Teachers beside the graph: callables and estimators, asked in the step or ahead of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.svm import LinearSVC

import keras_kd
from keras_kd import teachers
from keras_kd.losses import Context
from tests.models import CLASSES, RTOL, assert_same, mlp, snapshot, soft_target, task_loss, vectors

# float32 of float64: half an ulp, 6e-8.
FLOAT32 = 1e-7


def answers(teacher, x, **batch):
    return teacher.connect(paths=(), student=None)(Context(inputs=x, **batch)).outputs


def probabilities(x):
    """A function of arrays: a softmax of sums, float64."""
    logits = np.stack([x.sum(-1) * k for k in range(CLASSES)], axis=-1)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def function_teacher(**options):
    return teachers.Callable(probabilities, output_shape=(CLASSES,), **options)


def distilled(teacher, student=None, **options):
    loss = options.pop("loss", keras_kd.LogitsDistillation(temperature=2.0))
    distiller = keras_kd.Distiller(teacher, student or mlp("student"), loss, **options)
    distiller.compile(keras.optimizers.SGD(0.1), task_loss())
    return distiller


def forest(y, n=10, **options):
    x, _ = vectors(len(y))
    return RandomForestClassifier(n, random_state=0, **options).fit(x, y)


# -- callables -------------------------------------------------------------------------------------


def test_the_loss_is_that_to_what_the_function_says():
    (x, y), distiller = vectors(), distilled(function_teacher())
    logs = distiller.evaluate(x, y, batch_size=5, verbose=0, return_dict=True)
    student = np.float64(distiller.student(x))
    expected = soft_target(np.log(probabilities(x)), student, 2.0).mean()
    np.testing.assert_allclose(logs["distillation_loss"], expected, rtol=RTOL)


def test_each_step_calls_it_once():
    sizes = []

    def counted(x):
        sizes.append(len(x))
        return probabilities(x)

    x, y = vectors(20)
    distiller = distilled(teachers.Callable(counted, output_shape=(CLASSES,)))
    distiller.fit(x, y, batch_size=8, epochs=1, verbose=0)
    assert sizes[-3:] == [8, 8, 4]
    sizes.clear()
    distiller.fit(x, y, batch_size=8, epochs=2, verbose=0)
    # One more is the look at the first batch.
    assert len(sizes) == 1 + 6


def test_asking_ahead_gives_the_same_student_and_asks_arrays_once():
    x, y = vectors(20)
    calls = []

    def counted(x):
        calls.append(len(x))
        return probabilities(x)

    found = []
    for how in ("step", "arrays", "dataset"):
        keras.utils.set_random_seed(0)
        teacher = teachers.Callable(counted, output_shape=(CLASSES,))
        distiller = distilled(teacher)
        calls.clear()
        if how == "step":
            data = keras_kd.data.replayable(x, y, batch_size=8, seed=0)
        elif how == "arrays":
            data = keras_kd.data.replayable(teachers.attach(x, teacher), y, batch_size=8, seed=0)
        else:
            data = teachers.attach(keras_kd.data.replayable(x, y, batch_size=8, seed=0), teacher)
            assert keras_kd.data.is_replayable(data)
        distiller.fit(data, epochs=3, verbose=0)
        if how == "arrays":
            assert calls == [20]
        found.append(snapshot(distiller.student))
    for other in found[1:]:
        for ours, theirs in zip(found[0].values(), other.values(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_answers_that_were_attached_reach_neither_model_and_predict_goes_on():
    x, _ = vectors()
    teacher = function_teacher()
    distiller = distilled(teacher)
    attached = teachers.attach(keras_kd.data.with_index(x), teacher)
    np.testing.assert_array_equal(
        distiller.predict(attached, verbose=0), distiller.predict(x, verbose=0)
    )


def test_answers_of_another_teacher_are_refused():
    x, y = vectors()
    attached = teachers.attach(x, function_teacher(name="one"))
    with pytest.raises(ValueError, match="with the answers of teacher 'other'"):
        distilled(function_teacher(name="other")).fit(attached, y, verbose=0)
    with pytest.raises(ValueError, match="with the answers of teacher 'teacher'"):
        distilled(mlp("teacher")).fit(attached, y, verbose=0)


def test_members_of_an_ensemble_read_their_own():
    (x, y), sizes = vectors(20), []

    def counted(x):
        sizes.append(len(x))
        return probabilities(x)

    one = teachers.Callable(counted, output_shape=(CLASSES,), name="one")
    two = teachers.Callable(counted, output_shape=(CLASSES,), name="two")
    data = teachers.attach(teachers.attach(x, one), two)
    sizes.clear()
    distilled(teachers.Ensemble([one, two])).fit(data, y, verbose=0)
    assert not sizes


def test_only_what_does_not_depend_on_the_step_can_be_attached():
    x, _ = vectors()
    random = teachers.Ensemble([mlp("a"), mlp("b")], weighting="random")
    for teacher in (random, teachers.MovingAverage()):
        with pytest.raises(ValueError, match="depend on the data alone"):
            teachers.attach(x, teacher)


def test_an_attached_teacher_needs_no_function():
    x, y = vectors()
    teacher = teachers.Attached(output_shape=(CLASSES,))
    given = {"outputs": probabilities(x).astype("float32")}
    logs = distilled(teacher).evaluate(
        teachers.with_answers(x, given, teacher=teacher), y, verbose=0, return_dict=True
    )
    same = distilled(function_teacher()).evaluate(x, y, verbose=0, return_dict=True)
    assert logs.keys() == same.keys()
    with pytest.raises(ValueError, match="Received data without"):
        distilled(teacher).fit(x, y, verbose=0)


def test_logits_and_features_of_a_function():
    def both(x):
        return np.log(probabilities(x)), {"sums": x.sum(-1, keepdims=True)}

    teacher = teachers.Callable(
        both, output_shape=(CLASSES,), gives="logits", features={"sums": (1,)}
    )
    hint = keras_kd.FeatureDistillation("mse", "sums", "hidden")
    distiller = distilled(teacher, loss=[keras_kd.LogitsDistillation(2.0), hint])
    x, y = vectors()
    logs = distiller.fit(x, y, verbose=0).history
    assert np.isfinite(logs["feature_distillation"]).all()
    same = distilled(function_teacher(), distiller.student)
    np.testing.assert_allclose(
        distiller.evaluate(x, y, verbose=0, return_dict=True)["logits_distillation"],
        same.evaluate(x, y, verbose=0, return_dict=True)["logits_distillation"],
        rtol=RTOL,
    )
    other = keras_kd.FeatureDistillation("mse", "products", "hidden")
    with pytest.raises(ValueError, match="features that teacher 'both' gives"):
        keras_kd.Distiller(teacher, mlp("student"), other)


def test_inputs_of_several_arrays_keep_their_structure():
    def function(x):
        return probabilities(x["a"] + x["b"])

    x, _ = vectors()
    teacher = teachers.Callable(function, output_shape=(CLASSES,))
    found = answers(teacher, {"b": tf.constant(x), "a": tf.constant(x)})
    np.testing.assert_allclose(found, probabilities(2 * x), rtol=FLOAT32)


@pytest.mark.parametrize(
    "wrong", [lambda x: probabilities(x)[:, :2], lambda x: probabilities(x)[:3]]
)
def test_another_shape_than_declared_is_refused_on_the_first_batch(wrong):
    teacher = teachers.Callable(wrong, output_shape=(CLASSES,), name="wrong")
    with pytest.raises(ValueError, match="Expected outputs of teacher 'wrong' of shape"):
        distilled(teacher).fit(*vectors(), verbose=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_shape": 10}, "output_shape to be the shape"),
        ({"output_shape": (None,)}, "output_shape to be the shape"),
        ({"gives": "classes"}, "gives to be one of"),
        ({"head": "tanh"}, "head to be"),
    ],
)
def test_a_wrong_declaration_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        teachers.Callable(probabilities, **{"output_shape": (CLASSES,), **options})


def test_xla_is_refused():
    teacher = mlp("teacher", activation="softmax")
    distiller = keras_kd.Distiller(teacher, mlp("student"), keras_kd.LogitsDistillation())
    distiller.compile("sgd", task_loss(), jit_compile=True)
    distiller.teacher = function_teacher()
    assert not distiller.supports_jit  # Keras chooses by it, and warns of jit_compile=True.
    with pytest.raises(ValueError, match="a step without XLA: teacher 'probabilities'"):
        distiller.fit(*vectors(), verbose=0)


def test_the_hash_that_the_caller_gives_tells_functions_apart(tmp_path):
    distiller = distilled(function_teacher(fingerprint="a"))
    distiller.fit(*vectors(), verbose=0)
    distiller.save(tmp_path / "d.keras")
    again = keras.models.load_model(tmp_path / "d.keras")
    assert again.teacher is None
    with pytest.raises(ValueError, match="the teacher that this distiller was trained with"):
        again.teacher = function_teacher(fingerprint="b")
    again.teacher = function_teacher(fingerprint="a")
    again.fit(*vectors(), verbose=0)


def test_works_on_two_devices_with_an_empty_share(two_devices):
    x, y = vectors(9)
    with two_devices.scope():
        distiller = distilled(function_teacher())
    # The last batch is one example: the second device has none.
    distiller.fit(x, y, batch_size=8, verbose=0)


# -- estimators ------------------------------------------------------------------------------------


def test_a_forest_answers_with_smoothed_probabilities():
    x, y = vectors(40)
    estimator = forest(y)
    found = answers(teachers.Estimator(estimator, smoothing=0.1), x)
    expected = 0.9 * estimator.predict_proba(x) + 0.1 / CLASSES
    np.testing.assert_allclose(found, expected, rtol=FLOAT32)


def test_a_forest_that_says_0_gives_a_finite_loss_and_is_not_changed():
    x, y = vectors(40)
    estimator = forest(y)
    before = estimator.predict_proba(x)
    distiller = distilled(teachers.Estimator(estimator))
    history = distiller.fit(x, y, epochs=3, verbose=0).history
    assert np.isfinite(history["distillation_loss"]).all()
    np.testing.assert_array_equal(estimator.predict_proba(x), before)


def test_an_estimator_without_probabilities_names_a_class():
    x, y = vectors(40)
    estimator = LinearSVC().fit(x, y)
    found = answers(teachers.Estimator(estimator, smoothing=0.2), x)
    expected = 0.8 * np.eye(CLASSES)[estimator.predict(x)] + 0.2 / CLASSES
    np.testing.assert_allclose(found, expected, rtol=FLOAT32)


def test_classes_are_those_of_the_student_in_its_order():
    x, y = vectors(40)
    names = np.asarray(["dog", "ant", "cat", "bee"])
    estimator = forest(names[y])
    found = answers(teachers.Estimator(estimator, classes=list(names), smoothing=1e-9), x)
    columns = [list(estimator.classes_).index(name) for name in names]
    np.testing.assert_allclose(
        found, estimator.predict_proba(x)[:, columns], rtol=FLOAT32, atol=1e-9
    )
    with pytest.raises(ValueError, match="classes= to say the student's classes"):
        teachers.Estimator(estimator)


def test_classes_that_it_has_not_seen_are_left_out_of_the_comparison():
    x, y = vectors(40)
    estimator = forest(np.where(y == 1, 3, y))
    teacher = teachers.Estimator(estimator, smoothing=0.1)
    assert teacher.classes == (0, 2, 3)
    distiller = distilled(teacher)
    logs = distiller.evaluate(x, y, batch_size=40, verbose=0, return_dict=True)
    student = np.float64(distiller.student(x))[:, [0, 2, 3]]
    target = np.log(0.9 * estimator.predict_proba(x) + 0.1 / 3)
    np.testing.assert_allclose(
        logs["distillation_loss"], soft_target(target, student, 2.0).mean(), rtol=RTOL
    )


def test_classes_that_the_student_has_not_are_renormalised():
    x, y = vectors(40)
    estimator = forest(y)
    teacher = teachers.Estimator(estimator, classes=[0, 1, 2], smoothing=1e-9)
    p = estimator.predict_proba(x)[:, :3]
    found = np.asarray(answers(teacher, x))
    known = p.sum(-1) > 0
    np.testing.assert_allclose(
        found[known], (p / np.maximum(p.sum(-1, keepdims=True), 1e-9))[known], rtol=1e-6, atol=1e-8
    )
    sure = teachers.Estimator(
        DummyClassifier(strategy="constant", constant=3).fit(x, y), classes=[0, 1, 2]
    )
    np.testing.assert_allclose(answers(sure, x), 1 / 3, rtol=FLOAT32)


def test_a_regressor_teaches_values():
    x, y = vectors(40)
    estimator = LinearRegression().fit(x, y)
    student = mlp("student", units=1)
    loss = keras_kd.FeatureDistillation("mse")
    distiller = keras_kd.Distiller(
        teachers.Estimator(estimator), student, loss, student_loss_weight=0.0
    )
    distiller.compile("sgd")
    logs = distiller.evaluate(x, verbose=0, return_dict=True, batch_size=40)
    expected = np.square(estimator.predict(x) - np.float64(student(x))[:, 0]).mean()
    np.testing.assert_allclose(logs["distillation_loss"], expected, rtol=RTOL)


def test_estimators_are_told_apart_by_what_they_say():
    _, y = vectors(40)
    first, again, other = (teachers.Estimator(forest(y, n)).fingerprint() for n in (10, 10, 11))
    assert first == again != other
    assert teachers.Estimator(forest(y), preprocessing=np.asarray).fingerprint() is None


def test_images_are_flattened_for_it():
    x, y = vectors(40)
    estimator = forest(y)
    teacher = teachers.Estimator(estimator)
    np.testing.assert_array_equal(answers(teacher, x.reshape(40, 3, 2)), answers(teacher, x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: teachers.Estimator(RandomForestClassifier()), "a fitted estimator"),
        (lambda: teachers.Estimator(forest(vectors(9)[1]), smoothing=0.0), "smoothing in"),
        (
            lambda: teachers.Estimator(forest(np.stack([vectors(9)[1]] * 2, -1))),
            "an estimator of one output",
        ),
        (
            lambda: teachers.Estimator(forest(vectors(9)[1]), classes=[7, 8, 9]),
            "at least two of the student's classes",
        ),
        (lambda: teachers.Estimator(len, classes=[0, 1]), "a fitted classifier"),
    ],
)
def test_what_is_no_estimator_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_bare_function_or_estimator_or_list_is_refused_with_what_to_use():
    for given, hint in (
        (probabilities, "Callable"),
        (forest(vectors(9)[1]), "Estimator"),
        ([mlp("a"), mlp("b")], "Ensemble"),
    ):
        with pytest.raises(ValueError, match=f"keras_kd.teachers.{hint}"):
            keras_kd.Distiller(given, mlp("student"), keras_kd.LogitsDistillation())


def test_the_state_of_a_distiller_holds_nothing_of_it():
    x, y = vectors(40)
    distiller = distilled(teachers.Estimator(forest(y)))
    alone = distilled(mlp("teacher"))
    assert len(distiller.variables) == len(alone.variables)
    before = snapshot(distiller)
    distiller.evaluate(x, y, verbose=0)
    assert_same(before, snapshot(distiller))
