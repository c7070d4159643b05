import keras
import numpy as np
import pytest

import keras_kd
from keras_kd.losses import get
from keras_kd.losses.feature import NeuronSelectivity, neuron_selectivity
from tests.contract.recipe import image_model
from tests.losses.feature.function_checks import (
    RTOL,
    adaptive_pool,
    check_compiled,
    check_safe,
    maps,
    normalized,
)
from tests.models import images


def function(teacher, student):
    return neuron_selectivity(teacher=teacher, student=student)


def mean_embedding(array):
    """Mean over the channels of the polynomial kernel's own features, x x'."""
    rows = normalized(array.reshape(len(array), -1, array.shape[-1]), axis=1)
    return np.einsum("npc,nqc->npq", rows, rows) / array.shape[-1]


@pytest.mark.parametrize(
    "sizes", [((6, 4), (6, 4)), ((3, 2), (6, 4)), ((6, 4), (3, 2)), ((7, 5), (4, 3))]
)
def test_value(sizes, rng):
    """The squared distance of the means in the kernel's feature space."""
    teacher, student = maps(rng, (3, *sizes[0], 5), (3, *sizes[1], 2))
    size = tuple(map(min, *sizes))
    means = [mean_embedding(adaptive_pool(array, size)) for array in (teacher, student)]
    expected = np.square(means[0] - means[1]).sum((1, 2))
    np.testing.assert_allclose(function(teacher, student), expected, rtol=RTOL)


def test_it_is_safe(rng):
    check_safe(function, *maps(rng, (3, 6, 4, 5), (3, 3, 2, 2)))
    check_compiled(function, *maps(rng, (3, 6, 4, 5), (3, 3, 2, 2)))
    # Four means of numbers up to 1, each with float32's rounding.
    assert np.abs(function(*maps(rng, (3, 6, 4, 5)) * 2)).max() < 1e-6


def test_the_order_of_channels_says_nothing(rng):
    teacher, student = maps(rng, (3, 6, 4, 5), (3, 6, 4, 5))
    shuffled = student[..., [3, 1, 4, 0, 2]]
    np.testing.assert_allclose(function(teacher, student), function(teacher, shuffled), rtol=RTOL)


def test_a_dead_channel_gets_no_gradient(rng):
    teacher, student = maps(rng, (3, 6, 4, 5), (3, 6, 4, 3))
    student[..., 1] = 0.0
    check_safe(function, teacher, student)


def test_configuration():
    loss = get("nst", teacher_layer_name=["a", "b"], student_layer_name=["c", "d"])
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is NeuronSelectivity
    assert keras.saving.serialize_keras_object(again) == config
    with pytest.raises(ValueError, match="projector to be 'auto', None or a Keras layer"):
        NeuronSelectivity("a", "b", projector="dense")


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_fit_lowers_it():
    distiller = keras_kd.Distiller(
        image_model("teacher", 6),
        image_model("student", 4),
        NeuronSelectivity("high", "high"),
        student_loss_weight=0.0,
    )
    distiller.compile(keras.optimizers.Adam(1e-2))
    losses = distiller.fit(*images(), epochs=8, verbose=0).history["neuron_selectivity"]
    assert losses[-1] < losses[0]
