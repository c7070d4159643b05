"""Several teachers as one: weights, heads, masks, the draw of one."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd
from keras_kd import teachers
from keras_kd.losses import Context
from tests.models import (
    CLASSES,
    FEATURES,
    RTOL,
    Counting,
    log_softmax,
    mlp,
    task_loss,
    vectors,
    wide,
)


def asked(teacher, x, **batch):
    return teacher.connect(paths=(), student=None)(Context(inputs=x, **batch))


def three():
    """Three Keras models, one of which ends in softmax."""
    ends = (None, "softmax", None)
    return [mlp(f"t{i}", width=5 + i, activation=end) for i, end in enumerate(ends)]


def log_probabilities(models, x):
    return np.stack(
        [
            np.log(np.float64(m(x))) if m.name == "t1" else log_softmax(np.float64(m(x)))
            for m in models
        ]
    )


def mean_of(log_p, weights):
    """log (sum_k w_k p_k), normalised over the classes."""
    p = (np.exp(log_p) * weights).sum(0)
    return np.log(p / p.sum(-1, keepdims=True))


def test_the_mean_is_that_of_probabilities():
    models, (x, _) = three(), vectors()
    found = asked(teachers.Ensemble(models), x).outputs
    expected = mean_of(log_probabilities(models, x), np.ones((3, 1, 1)))
    np.testing.assert_allclose(found, expected, rtol=RTOL, atol=RTOL)


@pytest.mark.parametrize("weights", [[0.5, 0.0, 2.0], np.arange(1.0, 13.0).reshape(3, 4)])
def test_weights_count_teachers_or_their_classes(weights):
    models, (x, _) = three(), vectors()
    found = asked(teachers.Ensemble(models, weights=weights), x).outputs
    shaped = np.reshape(weights, (3, 1, -1))
    expected = mean_of(log_probabilities(models, x), shaped)
    np.testing.assert_allclose(found, expected, rtol=RTOL, atol=RTOL)


@pytest.mark.parametrize("weighting", ["entropy", "confidence"])
def test_weights_of_each_example_are_those_of_the_papers(weighting):
    models, (x, y) = three(), vectors()
    log_p = log_probabilities(models, x)
    if weighting == "entropy":
        entropy = -(np.exp(log_p) * log_p).sum(-1)
        weights = 1 - entropy / entropy.sum(0)
    else:
        ce = -log_p[:, np.arange(len(y)), y]
        weights = (1 - np.exp(ce) / np.exp(ce).sum(0)) / 2
    found = asked(teachers.Ensemble(models, weighting=weighting), x, labels=y).outputs
    np.testing.assert_allclose(found, mean_of(log_p, weights[..., None]), rtol=RTOL, atol=RTOL)


def test_temperatures_come_before_the_mean():
    models, (x, _) = three(), vectors()
    temperatures = [1.0, 2.0, 0.5]
    found = asked(teachers.Ensemble(models, temperatures=temperatures), x).outputs
    logits = log_probabilities(models, x)
    tempered = np.stack([log_softmax(z / t) for z, t in zip(logits, temperatures, strict=True)])
    expected = mean_of(tempered, np.ones((3, 1, 1)))
    np.testing.assert_allclose(found, expected, rtol=RTOL, atol=RTOL)


def test_sigmoid_units_are_averaged_one_by_one():
    models = [mlp(f"t{i}", width=5 + i, activation="sigmoid") for i in range(2)]
    x, _ = vectors()
    found = asked(teachers.Ensemble(models, weights=[1.0, 3.0]), x).outputs
    p = (np.float64(models[0](x)) + 3 * np.float64(models[1](x))) / 4
    # log(p / (1 - p)) loses to 1 - p where p is near 1: 2**-24 / (1 - p), p below 0.999 here.
    np.testing.assert_allclose(found, np.log(p / (1 - p)), rtol=1e-3, atol=1e-3)


def test_confident_teachers_that_disagree_stay_finite():
    inputs = keras.Input((4,))
    sure = keras.Model(inputs, layers.Rescaling(1e4)(inputs), name="sure")
    other = keras.Model(inputs, layers.Rescaling(-1e4)(inputs), name="other")
    x = np.eye(4, dtype="float32")
    for weighting in ("mean", "entropy", "confidence"):
        found = asked(
            teachers.Ensemble([sure, other], weighting=weighting), x, labels=np.arange(4)
        ).outputs
        assert np.isfinite(found).all()


def test_each_teacher_has_its_own_inputs():
    small, large = mlp("small"), mlp("large", features=2 * FEATURES)
    x, _ = vectors()
    doubled = teachers.ModelTeacher(
        large, preprocessing=lambda x: keras.ops.concatenate([x, x], axis=-1)
    )
    found = asked(teachers.Ensemble([small, doubled]), x).outputs
    log_p = np.stack(
        [log_softmax(np.float64(small(x))), log_softmax(np.float64(large(np.c_[x, x])))]
    )
    np.testing.assert_allclose(found, mean_of(log_p, np.ones((2, 1, 1))), rtol=RTOL, atol=RTOL)


def test_features_bear_the_name_of_their_teacher():
    models, (x, _) = three(), vectors()
    teacher = teachers.Ensemble(models).connect(paths=("t2/hidden",), student=None)
    answer = teacher(Context(inputs=x))
    assert list(answer.features) == ["t2/hidden"] == list(teacher.symbolic()[1])
    hidden = keras.Model(models[2].input, models[2].get_layer("hidden").output)
    np.testing.assert_allclose(answer.features["t2/hidden"], hidden(x), rtol=RTOL)
    with pytest.raises(ValueError, match="a layer of one teacher of 'ensemble'"):
        teachers.Ensemble(models).connect(paths=("hidden",), student=None)


def test_a_teacher_counts_nothing_where_it_does_not_know():
    models, (x, y) = three()[::2], vectors()
    knows = teachers.KnownOnly(models[1], lambda batch: batch.labels == 0)
    answer = asked(teachers.Ensemble([models[0], knows]), x, labels=y)
    assert answer.known is None
    log_p = np.stack([log_softmax(np.float64(m(x))) for m in models])
    weights = np.stack([np.ones(len(y)), y == 0])[..., None]
    np.testing.assert_allclose(answer.outputs, mean_of(log_p, weights), rtol=RTOL, atol=RTOL)


def test_an_example_that_nobody_knows_is_not_known():
    models, (x, y) = three()[::2], vectors()
    parts = [
        teachers.KnownOnly(model, lambda batch, c=c: batch.labels == c)
        for c, model in enumerate(models)
    ]
    np.testing.assert_array_equal(asked(teachers.Ensemble(parts), x, labels=y).known, y < 2)
    separate = teachers.Ensemble(parts, weighting="separate")
    assert not np.any(asked(separate, x, labels=y).known)


def counted():
    """Two teachers, and the layers that count how often each was run."""
    counters = [Counting(), Counting()]
    models = [mlp(f"t{i}", first=counter) for i, counter in enumerate(counters)]
    return models, counters


def test_a_random_teacher_is_drawn_by_seed_and_step_and_alone_is_asked():
    models, counters = counted()
    x, _ = vectors()
    teacher = teachers.Ensemble(models, weighting="random", seed=3)
    [counter.taken() for counter in counters]

    def drawn(step):
        answer = asked(teacher, x, step=step, training=True)
        which = [counter.taken() for counter in counters].index(1)
        np.testing.assert_allclose(answer.outputs, models[which](x), rtol=RTOL)
        [counter.taken() for counter in counters]
        return which

    first = [drawn(step) for step in range(12)]
    assert set(first) == {0, 1}
    assert first == [drawn(step) for step in range(12)]


def test_in_evaluation_all_random_teachers_are_asked():
    models, counters = counted()
    x, _ = vectors()
    [counter.taken() for counter in counters]
    found = asked(teachers.Ensemble(models, weighting="random"), x, step=0).outputs
    assert [counter.taken() for counter in counters] == [1, 1]
    log_p = np.stack([log_softmax(np.float64(m(x))) for m in models])
    np.testing.assert_allclose(found, mean_of(log_p, np.ones((2, 1, 1))), rtol=RTOL, atol=RTOL)


def test_separate_teachers_serve_the_loss_for_several():
    models, (x, y) = three(), vectors()
    teacher = teachers.Ensemble(models, weighting="separate")
    loss = keras_kd.losses.get("multi_teacher", weighting="confidence")
    distiller = keras_kd.Distiller(teacher, mlp("student"), loss)
    distiller.compile("sgd", task_loss())
    logs = distiller.evaluate(x, y, batch_size=len(x), verbose=0, return_dict=True)
    inputs = keras.Input((FEATURES,))
    one_model = keras.Model(inputs, [model(inputs) for model in models])
    plain = keras_kd.Distiller(one_model, distiller.student, loss)
    plain.compile("sgd", task_loss())
    theirs = plain.evaluate(x, y, batch_size=len(x), verbose=0, return_dict=True)
    np.testing.assert_allclose(logs["distillation_loss"], theirs["distillation_loss"], rtol=RTOL)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: teachers.Ensemble([mlp("a")]), "at least two teachers"),
        (lambda: teachers.Ensemble([mlp("a"), mlp("a")]), "different names"),
        (lambda: teachers.Ensemble(three(), weighting="best"), "weighting to be one of"),
        (lambda: teachers.Ensemble(three(), weights=[1.0]), r"weights of shape \[3\]"),
        (lambda: teachers.Ensemble(three(), weights=[0, 0, 0]), "at least 0, of which one"),
        (lambda: teachers.Ensemble(three(), weights=[1, 1, -1]), "at least 0, of which one"),
        (
            lambda: teachers.Ensemble(three(), weighting="entropy", weights=[1, 1, 1]),
            "weighting='mean' alone",
        ),
        (lambda: teachers.Ensemble(three(), temperatures=[1, 0, 1]), "temperature above 0"),
        (lambda: teachers.Ensemble([mlp("a"), teachers.MovingAverage()]), "teacher itself"),
        (
            lambda: teachers.Ensemble(
                [mlp("a"), teachers.MapClasses(mlp("b"), [0, 1, None, None], student_classes=4)]
            ),
            "tell the same of the student's classes",
        ),
    ],
)
def test_what_is_no_ensemble_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: mlp("b", units=5), "one head and the same classes"),
        (lambda: mlp("b", activation="sigmoid"), "one head and the same classes"),
        (lambda: mlp("b", activation="relu"), "logits, softmax or sigmoid"),
        (lambda: mlp("b", features=3), "the same inputs"),
    ],
)
def test_teachers_that_do_not_go_together_are_refused(other, message):
    teacher = teachers.Ensemble([mlp("a", activation="softmax"), other()])
    with pytest.raises(ValueError, match=message):
        keras_kd.Distiller(teacher, mlp("student"), keras_kd.LogitsDistillation())


def test_probabilities_of_a_subclassed_teacher_have_to_be_declared():
    class Hidden(keras.Model):
        def __init__(self, name):
            super().__init__(name=name)
            self.dense = layers.Dense(CLASSES, kernel_initializer=wide())

        def call(self, x):
            return keras.ops.exp(keras.ops.log_softmax(self.dense(x)))

    x, _ = vectors()
    hidden, plain = Hidden("hidden"), mlp("plain")
    hidden(x)
    with pytest.raises(ValueError, match="'hidden' to be declared"):
        asked(teachers.Ensemble([hidden, plain]), x)
    declared = teachers.ModelTeacher(hidden, activation="softmax")
    found = asked(teachers.Ensemble([declared, plain]), x).outputs
    log_p = np.stack([np.log(np.float64(hidden(x))), log_softmax(np.float64(plain(x)))])
    np.testing.assert_allclose(found, mean_of(log_p, np.ones((2, 1, 1))), rtol=RTOL, atol=RTOL)
