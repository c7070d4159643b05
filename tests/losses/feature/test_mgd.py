import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_kd
from keras_kd.losses import Context
from keras_kd.losses.feature import MGD, MaskedGenerator, masked_channels, mgd
from tests.contract.recipe import image_batch, image_model
from tests.models import assert_equal, snapshot, task_loss


def test_value(rng):
    pair = [rng.normal(size=(2, 5, 3, 4)).astype("float32") for _ in range(2)]
    expected = np.square(np.float64(pair[0]) - pair[1]).sum((1, 2, 3))
    # A sum of 60 terms, each with float32's rounding of 6e-8.
    np.testing.assert_allclose(mgd(teacher=pair[0], student=pair[1]), expected, rtol=1e-5)
    np.testing.assert_array_equal(mgd(teacher=pair[0], student=pair[0]), [0.0, 0.0])


def test_the_teacher_gets_no_gradient():
    teacher = tf.Variable(tf.ones((2, 2, 2, 3), "float16"))
    with tf.GradientTape() as tape:
        value = mgd(teacher=teacher, student=tf.zeros((2, 2, 2, 3), "float16"))
    assert value.dtype == "float32"
    assert tape.gradient(value, teacher) is None


def test_a_number_at_the_ratio_is_not_masked():
    uniform = np.reshape([0.0, 0.25, 0.5], (1, 1, 1, 3)).astype("float32")
    result = masked_channels(ops.ones((1, 2, 2, 3)), uniform, 0.25)
    np.testing.assert_array_equal(result[0, 0, 0], [0.0, 1.0, 1.0])


class TestGenerator:
    def test_whole_channels_are_masked_in_training_alone(self):
        generator = MaskedGenerator(50, 0.3, seed=1)
        for convolution in (generator.first, generator.second):
            identity = np.zeros((3, 3, 50, 50), "float32")
            identity[1, 1] = np.eye(50)
            convolution.kernel.assign(identity)
        maps = ops.ones((40, 3, 2, 50))
        np.testing.assert_array_equal(generator(maps), maps)
        masked = ops.convert_to_numpy(generator(maps, training=True))
        assert set(np.unique(masked)) == {0.0, 1.0}
        channels = masked.mean((1, 2))
        assert set(np.unique(channels)) == {0.0, 1.0}
        # 2000 draws of variance 0.21: five standard deviations are 0.051.
        assert abs((channels == 0.0).mean() - 0.3) < 0.051
        assert not np.array_equal(channels[0], channels[1])
        assert not np.array_equal(masked, generator(maps, training=True))


def distiller(loss):
    made = keras_kd.Distiller(
        image_model("teacher", 6), image_model("student", 4), loss, distillation_loss_weights=0.01
    )
    made.compile(keras.optimizers.Adam(1e-2), task_loss())
    return made


def test_fit_lowers_it_and_trains_both_parts():
    made = distiller(MGD("high", "high", ratio=0.2, seed=3))
    x, y = image_batch()
    before = [np.array(v) for v in made.projectors.trainable_variables]
    history = made.fit(x, y, epochs=10, verbose=0).history["mgd"]
    assert history[-1] < history[0]
    assert len(before) == 6
    for variable, old in zip(made.projectors.trainable_variables, before, strict=True):
        assert not np.array_equal(variable, old), variable.path


def test_it_can_be_compiled_by_xla():
    made = distiller(MGD("high", "high", seed=3))
    made.compile(keras.optimizers.Adam(1e-2), task_loss(), jit_compile=True)
    assert np.isfinite(made.fit(*image_batch(), verbose=0).history["mgd"]).all()


def test_a_resumed_run_draws_the_masks_of_the_uninterrupted_one(tmp_path):
    x, y = image_batch()

    def run(made, epochs):
        made.fit(x, y, epochs=epochs, shuffle=False, verbose=0)
        return made

    keras.utils.set_random_seed(0)
    whole = run(distiller(MGD("high", "high", ratio=0.5)), 4)
    keras.utils.set_random_seed(0)
    half = run(distiller(MGD("high", "high", ratio=0.5)), 2)
    half.save(tmp_path / "half.keras")
    again = keras.models.load_model(tmp_path / "half.keras")
    again.teacher = half.teacher
    run(again, 2)
    assert_equal(
        snapshot(whole.student, *whole.projectors), snapshot(again.student, *again.projectors)
    )


@pytest.mark.parametrize(
    "loss", [MGD("a", "b", ratio=0.3, seed=4, name="m"), MGD(["a", "b"], ["c", "d"])]
)
def test_config_round_trip(loss):
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(config)
    assert keras.saving.serialize_keras_object(again) == config
    connected = distiller(MGD("high", "high", seed=3))._terms[0].loss
    config = keras.saving.serialize_keras_object(connected)
    again = keras.saving.deserialize_keras_object(config)
    assert again.is_connected()
    assert keras.saving.serialize_keras_object(again) == config


def test_bad_arguments(rng):
    with pytest.raises(ValueError, match=r"ratio in \[0, 1\)"):
        MGD("a", "b", ratio=1.0)
    maps = rng.normal(size=(2, 4, 4, 3)).astype("float32")
    with pytest.raises(ValueError, match="connected to its two models"):
        MGD("a", "b", projector=None).per_example(maps, maps, Context())
