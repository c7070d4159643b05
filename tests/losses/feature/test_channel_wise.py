import keras
import numpy as np
import pytest

import keras_kd
from keras_kd import schedules
from keras_kd.losses import get
from keras_kd.losses.feature import ChannelWise, channel_wise
from tests.contract.recipe import image_model
from tests.losses.feature.function_checks import (
    RTOL,
    check_compiled,
    check_safe,
    maps,
    value_and_gradient,
)
from tests.models import images, soft_target

SHAPE = (3, 4, 5, 2)


def function(teacher, student):
    return channel_wise(teacher=teacher, student=student, temperature=4.0)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_value(temperature, rng):
    teacher, student = (3.0 * array for array in maps(rng, SHAPE, SHAPE))
    rows = [array.reshape(3, 20, 2).transpose(0, 2, 1) for array in (teacher, student)]
    expected = soft_target(*rows, temperature).mean(-1)
    result = channel_wise(teacher=teacher, student=student, temperature=temperature)
    np.testing.assert_allclose(result, expected, rtol=RTOL)


def test_it_is_safe(rng):
    check_safe(function, *maps(rng, SHAPE, SHAPE))
    check_compiled(function, *maps(rng, SHAPE, SHAPE))
    assert not np.any(function(*maps(rng, SHAPE) * 2))
    with pytest.raises(ValueError, match="features of equal shapes"):
        function(*maps(rng, SHAPE, (3, 4, 5, 1)))


def test_an_offset_of_a_channel_says_nothing(rng):
    teacher, student = maps(rng, SHAPE, SHAPE)
    moved = student + np.float32([3.0, -2.0])
    np.testing.assert_allclose(function(teacher, student), function(teacher, moved), rtol=1e-3)


def test_a_confidently_wrong_student_gets_a_gradient(rng):
    (teacher,) = maps(rng, SHAPE)
    _, gradient = value_and_gradient(lambda s: function(1e4 * teacher, s), -1e4 * teacher)
    # T (q - p) / C over 3 examples, with q and p at 1 in two positions.
    np.testing.assert_allclose(np.abs(gradient).max(), 4.0 / 2 / 3, rtol=1e-3)


def test_configuration():
    schedule = schedules.Linear(4.0, 1.0, steps=10)
    loss = get("cwd", teacher_layer_name="a", student_layer_name="b", temperature=schedule)
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is ChannelWise
    assert keras.saving.serialize_keras_object(again) == config
    with pytest.raises(ValueError, match="temperature to be a positive number"):
        ChannelWise("a", "b", temperature=0.0)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("temperature", [4.0, schedules.Constant(4.0)])
def test_fit_lowers_it(temperature):
    distiller = keras_kd.Distiller(
        image_model("teacher", 6),
        image_model("student", 4),
        ChannelWise("high", "low", temperature=temperature),
        student_loss_weight=0.0,
    )
    distiller.compile(keras.optimizers.Adam(1e-2))
    losses = distiller.fit(*images(), epochs=8, verbose=0).history["channel_wise"]
    assert losses[-1] < losses[0]
    assert len(distiller.projectors) == 1
