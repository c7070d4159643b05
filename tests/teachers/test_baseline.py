"""How good a teacher is: chance, scales, and what is said of it."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_kd
from keras_kd import teachers
from tests.models import mlp, task_loss

WARNING = "a teacher that is better than chance"


def labelled(n=120, seed=0):
    """Pictures in 0..255 whose brightest quarter is their class."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 4, size=n)
    x = rng.integers(0, 100, size=(n, 4)).astype("float32")
    x[np.arange(n), y] += 150
    return x, y


def knowing(scale=1.0, offset=0.0):
    """A teacher that knows the class of inputs in 0..255 after `x * scale + offset`.

    Beyond 255 of its own input it is saturated, and below 0.7 of it it sees nothing, so that only
    the right scale will do: a smooth function of the input would name the same class at any.
    """
    inputs = keras.Input((4,))
    own = layers.Rescaling(scale, offset)(inputs)
    steps = keras.ops.floor(keras.ops.clip(own, 0.0, 1.0) * 8.0)
    return keras.Model(inputs, steps - 4.0, name="knowing")


def fitted(teacher, x, y, callbacks=(), batch_size=None, **options):
    student = mlp("student", features=4)
    distiller = keras_kd.Distiller(teacher, student, keras_kd.LogitsDistillation(), **options)
    distiller.compile("sgd", task_loss())
    distiller.fit(x, y, batch_size=batch_size or len(x), verbose=0, callbacks=list(callbacks))
    return distiller


def test_a_good_teacher_is_not_spoken_of(recwarn):
    x, y = labelled()
    fitted(knowing(1 / 255), x, y)
    assert not [w for w in recwarn if WARNING in str(w.message)]


def test_an_untrained_teacher_is_said_to_be_one():
    x, y = labelled()
    inputs = keras.Input((4,))
    untrained = keras.Model(inputs, layers.Dense(4, kernel_initializer="zeros")(inputs))
    with pytest.warns(UserWarning, match=rf"{WARNING}.* of 120 .*chance 25.0 %.*is it trained"):
        fitted(untrained, x, y)


@pytest.mark.parametrize(
    ("scale", "offset", "shown", "words"),
    [
        (1.0, 0.0, lambda x: x, "x / 255"),
        (1 / 255, 0.0, lambda x: x / 255, r"x \* 255"),
        (0.5, 0.5, lambda x: x - 300.0, None),
    ],
)
def test_a_wrong_scale_is_named(scale, offset, shown, words):
    x, y = labelled()
    match = rf"{WARNING}.*given {words} as its input it names" if words else WARNING
    with pytest.warns(UserWarning, match=match):
        fitted(knowing(scale, offset), shown(x), y)


def test_few_examples_say_nothing(recwarn):
    x, y = labelled(8)
    fitted(mlp("teacher", features=4), x, y)
    assert not [w for w in recwarn if WARNING in str(w.message)]


@pytest.mark.parametrize("form", ["sparse", "column", "one hot"])
def test_labels_of_every_form_are_counted(form):
    x, y = labelled()
    labels = {"sparse": y, "column": y[:, None], "one hot": np.eye(4)[y]}[form]
    teacher = teachers.ModelTeacher(knowing(1 / 255))
    batch = keras_kd.losses.Context(inputs=x, labels=labels)
    found = teachers.baseline.baseline_of(teacher, teacher(batch), labels)
    named = np.asarray(teacher.model(x)).argmax(-1)
    assert (found.right, found.examples, found.classes) == ((named == y).sum(), 120, 4)


def test_a_single_unit_is_held_against_0_and_1():
    x, y = labelled()
    inputs = keras.Input((4,))
    teacher = teachers.ModelTeacher(keras.Model(inputs, inputs[:, :1] - 120.0, name="unit"))
    batch = keras_kd.losses.Context(inputs=x)
    found = teachers.baseline.baseline_of(teacher, teacher(batch), (y == 0).astype("float32"))
    assert (found.right, found.classes) == (120, 2)
    assert teachers.baseline.baseline_of(teacher, teacher(batch), y) is None


def test_only_what_the_teacher_knows_is_counted():
    x, y = labelled()
    part = teachers.MapClasses(knowing(1 / 255), [None, 1, 2, 3], student_classes=4)
    known = teachers.KnownOnly(part, lambda batch: batch.labels < 3)
    batch = keras_kd.losses.Context(inputs=x, labels=y)
    found = teachers.baseline.baseline_of(known, known(batch), y)
    assert (found.examples, found.classes) == (((y == 1) | (y == 2)).sum(), 3)


def test_the_numbers_behind_a_judgement():
    """Against the binomial distribution, summed over all outcomes in exact arithmetic."""
    from fractions import Fraction
    from math import comb

    for count, trials, chance in ((3, 10, Fraction(1, 4)), (0, 5, Fraction(1, 2))):
        exact = sum(
            comb(trials, k) * chance**k * (1 - chance) ** (trials - k)
            for k in range(count, trials + 1)
        )
        found = teachers.baseline._binomial_tail(count, trials, float(chance))
        # lgamma and exp in float64, of numbers around 10.
        np.testing.assert_allclose(found, float(exact), rtol=1e-12)


def test_the_baseline_is_evaluated_once_on_request():
    x, y = labelled()
    lines = []
    callback = teachers.TeacherBaseline(x, y, batch_size=50, print_fn=lines.append)
    distiller = fitted(knowing(1 / 255), x, y, [callback])
    named = np.asarray(distiller.teacher(x)).argmax(-1)
    assert (callback.result.right, callback.result.examples) == ((named == y).sum(), 120)
    assert "Teacher 'knowing' names the label of" in lines[0]
    distiller.fit(x, y, verbose=0, callbacks=[callback])
    assert len(lines) == 1


def test_the_baseline_tells_of_a_scale_at_which_a_fair_teacher_is_good():
    x, y = labelled()
    inputs = keras.Input((4,))
    # Sees nothing of classes 0 and 1 unless its input is in 0..1.
    clipped = keras.ops.clip(inputs, 0.0, 1.0) * keras.ops.array([1.0, 1.0, 0.0, 0.0])
    rest = inputs * keras.ops.array([0.0, 0.0, 1.0, 1.0])
    fair = keras.Model(inputs, keras.ops.maximum(clipped, keras.ops.minimum(rest, 240.0)))
    callback = teachers.TeacherBaseline(x, y, print_fn=lambda line: None)
    with pytest.warns(UserWarning, match="inputs that are scaled as in the training"):
        fitted(fair, x, y, [callback])


def test_labels_that_tell_nothing_are_refused():
    x, y = labelled()
    callback = teachers.TeacherBaseline(x, y.astype("float32") / 3, print_fn=print)
    with pytest.raises(ValueError, match="labels that tell how good"):
        fitted(knowing(1 / 255), x, y, [callback])
    with pytest.raises(ValueError, match="labels with arrays"):
        teachers.TeacherBaseline(x)
