import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from keras_kd.losses import get
from keras_kd.losses.feature import PearsonFeature, pearson_feature
from tests.contract.recipe import image_model
from tests.losses.feature.function_checks import (
    RTOL,
    check_compiled,
    check_safe,
    maps,
    value_and_gradient,
)
from tests.models import images

SHAPE = (4, 3, 5, 2)


def function(teacher, student):
    return pearson_feature(teacher=teacher, student=student)


def one_minus_pearson(teacher, student):
    """Mean over the channels of 1 - r; the unbiased deviation leaves (n - 1) / n of it."""
    rows = [array.reshape(-1, array.shape[-1]).T for array in (teacher, student)]
    count = rows[0].shape[1]
    r = [np.corrcoef(t, s)[0, 1] for t, s in zip(*rows, strict=True)]
    return (1.0 - np.mean(r)) * (count - 1) / count


def test_value(rng):
    teacher, student = maps(rng, SHAPE, SHAPE)
    expected = one_minus_pearson(np.float64(teacher), 5.0 + 3.0 * np.float64(student))
    result = function(teacher, 5.0 + 3.0 * student)
    # 1e-6 is added to deviations near 1.
    np.testing.assert_allclose(np.mean(result), expected, rtol=RTOL)


def test_each_example_has_its_share(rng):
    teacher, student = maps(rng, SHAPE, SHAPE)
    standard = [
        (a - a.mean((0, 1, 2))) / a.std((0, 1, 2), ddof=1) for a in (np.float64(teacher), student)
    ]
    expected = 0.5 * np.square(standard[0] - standard[1]).mean((1, 2, 3))
    np.testing.assert_allclose(function(teacher, student), expected, rtol=RTOL)


@pytest.mark.parametrize("size", [(6, 10), (2, 7)])
def test_the_students_map_is_resized_bilinearly(size, rng):
    teacher, student = maps(rng, SHAPE, (4, *size, 2))
    resized = tf.image.resize(student, SHAPE[1:3], "bilinear").numpy()
    expected = one_minus_pearson(np.float64(teacher), np.float64(resized))
    np.testing.assert_allclose(np.mean(function(teacher, student)), expected, rtol=RTOL)


def test_excluded_examples_stay_out(rng):
    teacher, student = maps(rng, SHAPE, SHAPE)
    valid = np.array([True, False, True, True])
    student[1] = teacher[1] = np.nan
    result, gradient = value_and_gradient(
        lambda s: pearson_feature(teacher=tf.constant(teacher), student=s, valid=valid), student
    )
    alone = function(teacher[valid], student[valid])
    np.testing.assert_allclose(result[valid], alone, rtol=RTOL)
    assert result[1] == 0.0
    assert not np.any(gradient[1])
    assert np.isfinite(gradient).all()
    result, gradient = value_and_gradient(
        lambda s: pearson_feature(teacher=tf.constant(teacher), student=s, valid=[False] * 4),
        student,
    )
    assert not np.any(result)
    assert not np.any(gradient)


def test_it_is_safe(rng):
    check_safe(function, *maps(rng, SHAPE, SHAPE))
    check_compiled(function, *maps(rng, SHAPE, (4, 6, 4, 2)))
    assert not np.any(function(*maps(rng, SHAPE) * 2))
    with pytest.raises(ValueError, match=r"equal shapes.*projector='auto' makes channels equal"):
        function(*maps(rng, SHAPE, (4, 3, 5, 1)))


def test_a_constant_channel_says_nothing(rng):
    teacher, student = maps(rng, SHAPE, SHAPE)
    student[..., 1] = 0.3  # Its mean is not exactly 0.3.
    _, gradient = value_and_gradient(lambda s: function(tf.constant(teacher), s), student)
    assert not np.any(gradient[..., 1])
    assert np.any(gradient[..., 0])


def test_configuration():
    loss = get("pkd", teacher_layer_name=["a", "b"], student_layer_name=["c", "d"])
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is PearsonFeature
    assert keras.saving.serialize_keras_object(again) == config


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_fit_lowers_it_and_takes_weights_of_0_and_1():
    distiller = keras_kd.Distiller(
        image_model("teacher", 6),
        image_model("student", 4),
        PearsonFeature("high", "low"),
        student_loss_weight=0.0,
    )
    distiller.compile(keras.optimizers.Adam(1e-2))
    x, y = images()
    weights = (np.arange(len(x)) % 3 > 0).astype("float32")
    history = distiller.fit(x, y, sample_weight=weights, epochs=8, verbose=0).history
    assert history["pearson_feature"][-1] < history["pearson_feature"][0]
    with pytest.raises(ValueError, match="sample weights of 0 and 1"):
        distiller.fit(x, y, sample_weight=weights * 0.5, verbose=0)
