import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_kd
from keras_kd.losses import Context
from keras_kd.losses.feature import CATKD, catkd, class_maps
from tests.contract.recipe import image_batch, image_model
from tests.losses.feature.test_reviewkd import pool
from tests.models import assert_same, snapshot, task_loss

HIGH = ("high", "high")
SIDES = ("teacher_layer_name", "student_layer_name")
CLASSIFIERS = {"teacher_classifier": "outputs", "student_classifier": "outputs"}


def unit(maps):
    return maps / np.sqrt(np.square(maps).sum((1, 2), keepdims=True))


# Sizes that the resolution does not divide, and one that it exceeds; both sides differ.
@pytest.mark.parametrize("resolution", [2, 3, 6])
@pytest.mark.parametrize("normalize", [True, False])
def test_value(rng, resolution, normalize):
    teacher = rng.normal(size=(2, 7, 5, 3)).astype("float32")
    student = rng.normal(size=(2, 4, 9, 3)).astype("float32")
    maps = [pool(side, resolution) for side in (teacher, student)]
    if normalize:
        maps = [unit(side) for side in maps]
    result = catkd(teacher=teacher, student=student, resolution=resolution, normalize=normalize)
    # Means of some hundred terms, each with float32's rounding of 6e-8.
    np.testing.assert_allclose(result, np.square(maps[0] - maps[1]).mean((1, 2, 3)), rtol=1e-5)


def test_constant_zero_and_huge_maps_are_finite(rng):
    teacher = rng.normal(size=(2, 4, 4, 3)).astype("float32") * 1e4
    for student in (np.zeros_like(teacher), np.ones_like(teacher), -teacher):
        variable = tf.Variable(student)
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(catkd(teacher=teacher, student=variable))
        assert np.isfinite(value)
        assert np.isfinite(tape.gradient(value, variable)).all()


def test_class_maps_average_to_the_logits():
    model = image_model("model", 4)
    x, _ = image_batch()
    maps = keras.Model(model.input, model.get_layer("high").output)(x)
    found = class_maps(maps, model.get_layer("outputs").kernel)
    # The bias is 0. Sums of some hundred terms of size 1, each rounded to 6e-8.
    np.testing.assert_allclose(ops.mean(found, (1, 2)), model(x), atol=1e-5)


def test_the_students_classifier_is_trained_by_it_and_the_teacher_stays():
    teacher, student = image_model("teacher", 6), image_model("student", 4)
    made = keras_kd.Distiller(
        teacher, student, CATKD(*HIGH, **CLASSIFIERS), student_loss_weight=0.5
    )
    made.compile(keras.optimizers.Adam(1e-2), task_loss())
    x, y = image_batch()
    before = snapshot(teacher)
    context = Context()
    maps = [
        keras.Model(model.input, model.get_layer("high").output)(x) for model in (teacher, student)
    ]
    kernels = [model.get_layer("outputs").kernel.value for model in (teacher, student)]
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(made._terms[0].loss.per_example(*maps, context))
    gradients = tape.gradient(value, kernels)
    assert gradients[0] is None
    assert np.abs(gradients[1]).max() > 0
    history = made.fit(x, y, epochs=8, verbose=0).history["catkd"]
    assert history[-1] < history[0]
    assert_same(before, snapshot(teacher))
    assert len(made.projectors) == 0


def test_a_loaded_distiller_finds_the_classifiers_again(tmp_path):
    teacher = image_model("teacher", 6)
    made = keras_kd.Distiller(teacher, image_model("student", 4), CATKD(*HIGH, **CLASSIFIERS))
    made.compile("sgd", task_loss())
    x, y = image_batch()
    expected = made.evaluate(x, y, verbose=0, return_dict=True)
    made.save(tmp_path / "distiller.keras")
    again = keras.models.load_model(tmp_path / "distiller.keras")
    again.teacher = teacher
    assert again.evaluate(x, y, verbose=0, return_dict=True) == expected


def nested(name):
    inputs = keras.Input((3,))
    head = keras.Model(inputs, keras.layers.Dense(4, name="logits")(inputs), name="head")
    inputs = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(3, 3, name="high")(inputs)
    return keras.Model(inputs, head(keras.layers.GlobalAveragePooling2D()(x)), name=name)


def test_a_classifier_inside_a_nested_model():
    loss = CATKD(*HIGH, teacher_classifier="head/logits", student_classifier="head/logits")
    teacher = nested("teacher")
    made = keras_kd.Distiller(teacher, nested("student"), loss)
    assert made._terms[0].loss._teacher_layer is teacher.get_layer("head").get_layer("logits")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_classifier": "head"}, "no layer 'head' in 'teacher'. Its dense layers: outputs"),
        ({"student_classifier": "pool"}, "'pool' of student 'student' to be a Dense layer"),
        ({"student_layer_name": "high", "teacher_layer_name": "low"}, "to take the 6 channels"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    loss = CATKD(**{**dict.fromkeys(SIDES, "high"), **CLASSIFIERS, **options})
    with pytest.raises(ValueError, match=message):
        keras_kd.Distiller(image_model("teacher", 6), image_model("student", 4), loss)


def test_config_round_trip_and_bad_arguments():
    loss = CATKD(*HIGH, **CLASSIFIERS, resolution=3, normalize=False, name="cam")
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(config)
    assert keras.saving.serialize_keras_object(again) == config
    with pytest.raises(ValueError, match="resolution to be a positive integer"):
        CATKD(*HIGH, **CLASSIFIERS, resolution=0)
    maps = ops.ones((2, 4, 4, 3))
    with pytest.raises(ValueError, match="connected to its two models"):
        loss.per_example(maps, maps, Context())
