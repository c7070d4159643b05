import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_kd
from keras_kd.losses import Context
from keras_kd.losses.feature import SRRL, srrl
from tests.contract.recipe import image_batch, image_model
from tests.models import assert_same, snapshot, task_loss

HIGH = ("high", "high")


def test_value(rng):
    """Maps of other sizes, other weights."""
    teacher = rng.normal(size=(2, 5, 3, 4)).astype("float32")
    student = rng.normal(size=(2, 2, 6, 4)).astype("float32")
    logits = [rng.normal(size=(2, 7)).astype("float32") for _ in range(2)]
    feature = np.float64(student).mean((1, 2)) - np.float64(teacher).mean((1, 2))
    expected = 2.0 * np.square(feature).mean(-1)
    expected += 3.0 * np.square(np.float64(logits[0]) - logits[1]).mean(-1)
    result = srrl(
        teacher=teacher,
        student=student,
        teacher_logits=logits[0],
        student_logits=logits[1],
        alpha=2.0,
        beta=3.0,
    )
    # Means of some dozen terms, each with float32's rounding of 6e-8.
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def distiller(**options):
    teacher = image_model("teacher", 6)
    teacher.get_layer("outputs").bias.assign([1.0, -1.0, 0.5, 0.0])
    loss = SRRL(*HIGH, teacher_classifier="outputs", **options)
    made = keras_kd.Distiller(teacher, image_model("student", 4), loss)
    made.compile(keras.optimizers.Adam(1e-2), task_loss())
    return made


def test_the_teachers_classifier_reads_both_features():
    made = distiller(alpha=0.0, beta=1.0)
    x, _ = image_batch()
    teacher, student = made.teacher, made.student
    maps = [
        keras.Model(model.input, model.get_layer("high").output)(x) for model in (teacher, student)
    ]
    (connector,) = made.projectors
    pooled = ops.mean(connector(maps[1]), (1, 2))
    logits = teacher.get_layer("outputs")(pooled)
    expected = np.square(np.float64(logits) - np.float64(teacher(x))).mean(-1)
    variables = [v.value for v in teacher.variables]
    with tf.GradientTape() as tape:
        result = made._terms[0].loss.per_example(*maps, Context())
    # Small differences of logits of size 1, each with float32's rounding of some 1e-7.
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)
    assert tape.gradient(result, variables) == [None] * len(variables)


def test_fit_trains_the_connector_and_holds_nothing_of_the_teacher(tmp_path):
    made = distiller()
    before = snapshot(made.teacher)
    x, y = image_batch()
    history = made.fit(x, y, epochs=8, verbose=0).history["srrl"]
    assert history[-1] < history[0]
    assert_same(before, snapshot(made.teacher))
    (connector,) = made.projectors
    assert [type(layer).__name__ for layer in connector.layers] == [
        "Conv2D",
        "BatchNormalization",
        "Activation",
    ]
    own = {id(v) for v in (*made.student.weights, *connector.weights)}
    assert {id(v) for v in made.weights} == own
    expected = made.evaluate(x, y, verbose=0, return_dict=True)
    made.save(tmp_path / "distiller.keras")
    again = keras.models.load_model(tmp_path / "distiller.keras")
    again.teacher = made.teacher
    assert again.evaluate(x, y, verbose=0, return_dict=True) == expected


def test_config_round_trip():
    for loss in (
        SRRL(*HIGH, teacher_classifier="outputs", alpha=2.0, beta=0.5, name="softmax_regression"),
        distiller()._terms[0].loss,
    ):
        config = keras.saving.serialize_keras_object(loss)
        again = keras.saving.deserialize_keras_object(config)
        assert again.is_connected() == loss.is_connected()
        assert keras.saving.serialize_keras_object(again) == config


def test_bad_arguments():
    with pytest.raises(ValueError, match="alpha and beta of at least 0"):
        SRRL(*HIGH, teacher_classifier="outputs", beta=-1.0)
    with pytest.raises(ValueError, match="one layer of each model"):
        SRRL(["low", "high"], ["low", "high"], teacher_classifier="outputs")
    loss = SRRL("low", "low", teacher_classifier="outputs")
    with pytest.raises(ValueError, match=r"to take the 6 channels.*takes 12"):
        keras_kd.Distiller(image_model("teacher", 6), image_model("student", 4), loss)
    maps = ops.ones((2, 4, 4, 3))
    with pytest.raises(ValueError, match="connected to its two models"):
        SRRL(*HIGH, teacher_classifier="outputs", projector=None).per_example(maps, maps, Context())
