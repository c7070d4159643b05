import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from keras_kd.losses import Context, Ends, get
from keras_kd.losses.feature import (
    VariationalInformation,
    VariationalRegressor,
    channel_variance,
    variational_information,
)
from tests.contract.recipe import image_model
from tests.losses.feature.function_checks import (
    RTOL,
    adaptive_pool,
    check_compiled,
    check_safe,
    maps,
)
from tests.models import images, snapshot

SHAPE = (3, 4, 5, 2)
VARIANCE = np.array([0.5, 3.0], "float32")


def function(teacher, student):
    return variational_information(teacher=teacher, mean=student, variance=VARIANCE)


def test_value(rng):
    teacher, mean = maps(rng, SHAPE, SHAPE)
    squares = np.square(np.float64(mean) - teacher)
    expected = 0.5 * (squares / VARIANCE + np.log(np.float64(VARIANCE)))
    np.testing.assert_allclose(function(teacher, mean), expected.mean((1, 2, 3)), rtol=RTOL)


def test_masked_positions_do_not_count(rng):
    teacher, mean = maps(rng, (2, 3, 2), (2, 3, 2))
    mask = np.array([[1, 1, 0], [1, 0, 0]], bool)
    values = 0.5 * (np.square(np.float64(mean) - teacher) / VARIANCE + np.log(VARIANCE)).mean(-1)
    result = variational_information(teacher=teacher, mean=mean, variance=VARIANCE, mask=mask)
    np.testing.assert_allclose(result, (values * mask).sum(-1) * 2 / 3, rtol=RTOL)


def test_it_is_safe(rng):
    check_safe(function, *maps(rng, SHAPE, SHAPE))
    check_compiled(function, *maps(rng, SHAPE, SHAPE))
    with pytest.raises(ValueError, match=r"equal shapes.*the regressor makes channels equal"):
        function(*maps(rng, SHAPE, (3, 4, 5, 1)))


def test_the_variance_is_finite_for_any_scale():
    scales = np.array([-1e4, 0.0, 1e4], "float32")
    expected = [1e-5, np.log(2.0) + 1e-5, 1e4]
    np.testing.assert_allclose(channel_variance(scales), expected, rtol=RTOL)


def test_the_regressor(rng):
    regressor = VariationalRegressor(3, 4, initial_variance=2.0)
    (student,) = maps(rng, (2, 4, 5, 6))
    mean = regressor(student)
    kernels = [w.numpy() for w in regressor.weights if w.name == "kernel"]
    assert [k.shape for k in kernels] == [(6, 4), (4, 4), (4, 3)]
    hidden = np.maximum(np.maximum(student @ kernels[0], 0) @ kernels[1], 0)
    # Single entries, which may come near 0.
    np.testing.assert_allclose(mean, hidden @ kernels[2], rtol=RTOL, atol=1e-6)
    np.testing.assert_allclose(regressor.variance(), [2.0] * 3, rtol=1e-5)
    again = VariationalRegressor.from_config(regressor.get_config())
    assert again.get_config() == regressor.get_config()


@pytest.mark.parametrize("sizes", [((3, 2), (6, 4)), ((6, 4), (3, 2)), ((4, 4), (4, 4))])
def test_the_larger_map_is_pooled(sizes, rng):
    teacher, student = maps(rng, (3, *sizes[0], 5), (3, *sizes[1], 2))
    loss = VariationalInformation("a", "b", initial_variance=1.0)
    loss = loss.connect(Ends(tf.constant(teacher), tf.constant(student)))
    (regressor,) = loss.parts
    size = tuple(map(min, *sizes))
    teacher_pooled, student_pooled = (adaptive_pool(a, size) for a in (teacher, student))
    mean = regressor(student_pooled.astype("float32")).numpy()
    expected = 0.5 * np.square(mean - teacher_pooled).mean((1, 2, 3))
    result = loss.per_example(tf.constant(teacher), tf.constant(student), Context())
    # log(1) is 0 up to the rounding of the variance's softplus.
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-5)


def test_configuration():
    loss = get(
        "vid",
        teacher_layer_name=["a", "b"],
        student_layer_name=["c", "d"],
        hidden_channels=7,
        initial_variance=2.0,
        projector=["auto", VariationalRegressor(3, name="mine")],
    )
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is VariationalInformation
    assert keras.saving.serialize_keras_object(again) == config
    assert (again.hidden_channels, again.initial_variance) == (7, 2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"projector": None}, "'auto' or a VariationalRegressor. Received: None"),
        ({"projector": keras.layers.Dense(3)}, "'auto' or a VariationalRegressor"),
        ({"hidden_channels": 0}, "hidden_channels to be None or an integer of at least 1"),
        ({"hidden_channels": 2.5}, "hidden_channels to be None or an integer of at least 1"),
        ({"initial_variance": 0.0}, "initial_variance to be a number above 1e-05"),
        ({"initial_variance": "wide"}, "initial_variance to be a number"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        VariationalInformation("a", "b", **options)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_fit_trains_the_regressor_and_its_variance(tmp_path):
    distiller = keras_kd.Distiller(
        image_model("teacher", 6),
        image_model("student", 4),
        VariationalInformation("low", "high"),
        student_loss_weight=0.0,
    )
    distiller.compile(keras.optimizers.Adam(1e-2))
    before = snapshot(*distiller.projectors)
    losses = distiller.fit(*images(), epochs=8, verbose=0).history["variational_information"]
    assert losses[-1] < losses[0]
    after = snapshot(*distiller.projectors)
    assert len(after) == 4
    assert not any(np.array_equal(before[key], after[key]) for key in before)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    for ours, theirs in zip(after.values(), snapshot(*loaded.projectors).values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
