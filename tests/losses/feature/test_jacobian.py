import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keras_kd
from keras_kd.gradients import input_gradient
from keras_kd.losses import Context, Ends
from keras_kd.losses.feature import JacobianMatching, jacobian
from tests.contract.recipe import image_batch, image_model
from tests.models import assert_same, mlp, snapshot, task_loss, vectors


def unit(rows):
    rows = np.float64(rows).reshape(len(rows), -1)
    return rows / np.sqrt(np.square(rows).sum(-1, keepdims=True))


def test_value(rng):
    pair = [rng.normal(size=(3, 4, 2, 5)).astype("float32") for _ in range(2)]
    expected = np.square(unit(pair[0]) - unit(pair[1])).mean(-1)
    result = jacobian(teacher=pair[0], student=pair[1])
    # Sums of 40 terms, each with float32's rounding of 6e-8.
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    # The length of a gradient does not count, its direction does.
    np.testing.assert_allclose(jacobian(teacher=pair[0], student=3.0 * pair[0]), 0.0, atol=1e-12)


def test_a_gradient_of_zero_is_finite(rng):
    teacher = rng.normal(size=(2, 5)).astype("float32") * 1e4
    student = tf.Variable(np.zeros_like(teacher))
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(jacobian(teacher=teacher, student=student))
    assert np.isfinite(value)
    assert np.isfinite(tape.gradient(value, student)).all()


def distiller(loss, teacher=None, student=None, **options):
    made = keras_kd.Distiller(
        mlp("teacher") if teacher is None else teacher,
        mlp("student", 5) if student is None else student,
        loss,
        **options,
    )
    made.compile(keras.optimizers.Adam(1e-2), task_loss())
    return made


def by_hand(model, x, classes):
    """The gradient of one logit of tests.models.mlp by its input, in float64."""
    w, b, out, _ = (np.float64(v) for v in model.weights)
    hidden = np.tanh(x @ w + b)
    return ((1.0 - hidden**2) * out[:, classes].T) @ w.T


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("logit", ["label", "top"])
def test_gradients_of_the_logit_of_the_label_or_of_the_teachers_top_class(logit, activation):
    made = distiller(
        JacobianMatching(logit=logit),
        mlp("teacher", activation=activation),
        mlp("student", 5, activation=activation),
    )
    x, y = vectors()
    teacher, student = made.teacher, made.student
    classes = y if logit == "label" else np.argmax(teacher(x), -1)
    sides = [unit(by_hand(model, x, classes)) for model in (teacher, student)]
    context = Context(labels=y, inputs=x)
    result = made._terms[0].loss.per_example(teacher(x), student(x), context)
    # Behind float32 gradients through two layers, normalized: some 1e-6 each.
    np.testing.assert_allclose(
        result, np.square(sides[0] - sides[1]).mean(-1), rtol=1e-4, atol=1e-6
    )


def test_fit_lowers_it_and_leaves_the_teacher():
    made = distiller(JacobianMatching())
    x, y = vectors()
    before = snapshot(made.teacher)
    history = made.fit(x, y, epochs=20, verbose=0).history["jacobian"]
    assert history[-1] < 0.9 * history[0]
    assert_same(before, snapshot(made.teacher))


def test_without_labels():
    made = distiller(JacobianMatching(logit="top"), student_loss_weight=0.0)
    made.compile("sgd")
    x, _ = vectors()
    with pytest.warns(UserWarning, match="Gradients do not exist"):  # Of the last bias.
        assert np.isfinite(made.fit(x, verbose=0).history["jacobian"]).all()


def test_the_second_pass_changes_no_state():
    """Averages of batch normalization, and what `add_loss` says, are those of one pass."""

    def run(weight):
        keras.utils.set_random_seed(0)
        student = keras.Sequential(
            [
                keras.Input((8, 8, 2)),
                layers.Conv2D(4, 3, activity_regularizer="l2"),
                layers.BatchNormalization(momentum=0.5, name="norm"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(4, name="outputs"),
            ]
        )
        made = distiller(
            JacobianMatching(),
            image_model("teacher", 6),
            student,
            distillation_loss_weights=weight,
        )
        x, y = image_batch()
        history = made.fit(x, y, batch_size=8, shuffle=False, verbose=0).history
        rest = history["loss"][0] - 0.5 * history["student_loss"][0]
        rest -= 0.5 * weight * history["jacobian"][0]
        return rest, np.array(student.get_layer("norm").moving_mean)

    regularization, moving_mean = run(0.0)
    assert regularization > 1e-3
    again, moved = run(1.0)
    # Differences of numbers near 1, each with float32's rounding of 6e-8.
    assert again == pytest.approx(regularization, abs=1e-5)
    # The first step's averages do not depend on the weight of a loss.
    np.testing.assert_allclose(moved, moving_mean, rtol=1e-6)


def test_zeros_where_nothing_depends_on_the_input():
    gradient = input_gradient(lambda x: ops.ones(3), ops.ones((3, 2)))
    np.testing.assert_array_equal(gradient, np.zeros((3, 2)))


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_preprocessing_outside_of_a_model_is_refused(side):
    made = distiller(JacobianMatching(), **{f"{side}_preprocessing": lambda x: 3.0 * x})
    with pytest.raises(ValueError, match=f"Expected '{side}' to take the batch's inputs as they"):
        made.fit(*vectors(), verbose=0)


def test_what_it_cannot_do_is_refused(rng):
    x, y = vectors()
    made = distiller(JacobianMatching())
    with pytest.raises(ValueError, match=r"floating-point inputs.*int64"):
        made.fit(x.astype("int64"), y, verbose=0)
    loss = made._terms[0].loss
    outputs = made.student(x)
    with pytest.raises(ValueError, match="one input tensor for 'jacobian'"):
        loss.per_example(outputs, outputs, Context(labels=y, inputs={"a": x}))
    context = Context(labels=y, inputs=x, position_weight=np.ones((20, 2)))
    with pytest.raises(ValueError, match="weight for each position"):
        loss.per_example(outputs, outputs, context)
    with pytest.raises(ValueError, match="outputs of rank 3"):
        loss.per_example(outputs, outputs[:, None], Context(labels=y, inputs=x))
    with pytest.raises(ValueError, match="connected to its two models"):
        JacobianMatching().per_example(outputs, outputs, Context(labels=y, inputs=x))
    with pytest.raises(ValueError, match="logit to be one of"):
        JacobianMatching(logit="all")


def test_config_round_trip():
    ends = Ends(keras.KerasTensor((None, 4)), keras.KerasTensor((None, 4)))
    for loss in (JacobianMatching(logit="top", name="slope"), JacobianMatching().connect(ends)):
        config = keras.saving.serialize_keras_object(loss)
        again = keras.saving.deserialize_keras_object(config)
        assert again.needs == loss.needs
        assert keras.saving.serialize_keras_object(again) == config
