import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from keras_kd.losses import get
from keras_kd.losses.feature import InterChannel, inter_channel
from tests.contract.recipe import image_model
from tests.losses.feature.function_checks import (
    RTOL,
    check_compiled,
    check_safe,
    maps,
    normalized,
    value_and_gradient,
)
from tests.models import images

SHAPE = (4, 3, 5, 3)


def function(teacher, student):
    return inter_channel(teacher=teacher, student=student)


def correlation(array):
    return normalized(np.einsum("nhwc,nhwd->ncd", *[np.float64(array)] * 2), axis=-1)


def test_value(rng):
    teacher, student = maps(rng, SHAPE, (4, 6, 2, 3))
    squares = np.square(correlation(teacher) - correlation(student)).sum((1, 2))
    np.testing.assert_allclose(function(teacher, student), squares / (3 * 4), rtol=RTOL)


def test_excluded_examples_stay_out(rng):
    teacher, student = maps(rng, SHAPE, SHAPE)
    valid = np.array([True, False, True, True])
    student[1] = teacher[1] = np.nan
    result, gradient = value_and_gradient(
        lambda s: inter_channel(teacher=tf.constant(teacher), student=s, valid=valid), student
    )
    np.testing.assert_allclose(result[valid], function(teacher[valid], student[valid]), rtol=RTOL)
    assert result[1] == 0.0
    assert not np.any(gradient[1])
    assert np.isfinite(gradient).all()
    result, gradient = value_and_gradient(
        lambda s: inter_channel(teacher=tf.constant(teacher), student=s, valid=[False] * 4), student
    )
    assert not np.any(result)
    assert not np.any(gradient)


def test_it_is_safe(rng):
    check_safe(function, *maps(rng, SHAPE, (4, 6, 2, 3)))
    check_compiled(function, *maps(rng, SHAPE, (4, 6, 2, 3)))
    assert not np.any(function(*maps(rng, SHAPE) * 2))
    with pytest.raises(ValueError, match=r"equal shapes.*projector='auto' makes channels equal"):
        function(*maps(rng, SHAPE, (4, 3, 5, 1)))


def test_the_scale_says_nothing(rng):
    teacher, student = maps(rng, SHAPE, SHAPE)
    scaled = function(teacher, 1e12 * student)
    np.testing.assert_allclose(function(teacher, student), scaled, rtol=RTOL)


def test_configuration():
    loss = get("ickd", teacher_layer_name=["a", "b"], student_layer_name=["c", "d"])
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is InterChannel
    assert keras.saving.serialize_keras_object(again) == config


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_fit_lowers_it_and_takes_weights_of_0_and_1():
    distiller = keras_kd.Distiller(
        image_model("teacher", 6),
        image_model("student", 4),
        InterChannel("high", "low"),
        student_loss_weight=0.0,
    )
    distiller.compile(keras.optimizers.Adam(1e-2))
    x, y = images()
    weights = (np.arange(len(x)) % 3 > 0).astype("float32")
    history = distiller.fit(x, y, sample_weight=weights, epochs=8, verbose=0).history
    assert history["inter_channel"][-1] < history["inter_channel"][0]
    with pytest.raises(ValueError, match="sample weights of 0 and 1"):
        distiller.fit(x, y, sample_weight=weights * 0.5, verbose=0)
