import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd
from keras_kd.losses import get
from keras_kd.losses.feature import FactorTransfer, factor_transfer, make_paraphraser
from tests.contract.recipe import image_model
from tests.losses.feature.function_checks import (
    RTOL,
    adaptive_pool,
    check_compiled,
    check_safe,
    maps,
    normalized,
)
from tests.models import assert_same, images, snapshot


def function(teacher, student):
    return factor_transfer(teacher=teacher, student=student)


@pytest.mark.parametrize("sizes", [((6, 4), (6, 4)), ((3, 2), (6, 4)), ((7, 5), (4, 3))])
def test_value(sizes, rng):
    teacher, student = maps(rng, (3, *sizes[0], 5), (3, *sizes[1], 5))
    size = tuple(map(min, *sizes))
    t, s = (normalized(adaptive_pool(array, size), axis=(1, 2, 3)) for array in (teacher, student))
    np.testing.assert_allclose(function(teacher, student), np.abs(t - s).mean((1, 2, 3)), rtol=RTOL)


def test_it_is_safe(rng):
    check_safe(function, *maps(rng, (3, 6, 4, 5), (3, 3, 2, 5)))
    check_compiled(function, *maps(rng, (3, 6, 4, 5), (3, 3, 2, 5)))
    assert not np.any(function(*maps(rng, (3, 6, 4, 5)) * 2))
    with pytest.raises(ValueError, match=r"equal shapes.*the translator makes channels equal"):
        function(*maps(rng, (3, 4, 4, 5), (3, 4, 4, 1)))


@pytest.mark.parametrize("shape", [(None, 6, 4, 5), (None, 7, 5), (None, None, None, 5)])
def test_the_paraphraser_is_the_encoder_of_its_autoencoder(shape):
    autoencoder, encoder = make_paraphraser(shape, rate=0.5)
    assert autoencoder.output_shape == shape
    assert encoder.output_shape == (*shape[:-1], 2)
    assert len(autoencoder.weights) == 2 * len(encoder.weights) == 12
    assert {id(w) for w in encoder.weights} <= {id(w) for w in autoencoder.weights}


@pytest.mark.parametrize(
    ("shape", "rate", "message"),
    [
        ((None, 5), 0.5, r"a sequence or maps.*Received shape \(None, 5\)"),
        ((None, 4, 4, 5), 0.1, "at least one of 5 channels. Received: 0.1"),
    ],
)
def test_bad_paraphrasers(shape, rate, message):
    with pytest.raises(ValueError, match=message):
        make_paraphraser(shape, rate=rate)


@pytest.mark.parametrize("given", ["encoder", keras.layers.Dense(3), keras.Sequential()])
def test_bad_arguments(given):
    with pytest.raises(ValueError, match="a built functional or sequential Keras model"):
        FactorTransfer("a", "b", paraphraser=given)


def test_one_paraphraser_a_pair():
    _, encoder = make_paraphraser((None, 4, 4, 5))
    with pytest.raises(ValueError, match=r"one paraphraser for each of 2 pairs.*Received: 1"):
        FactorTransfer(["a", "b"], ["c", "d"], paraphraser=encoder)


def test_configuration():
    encoders = [make_paraphraser((None, 4, 4, 5))[1], make_paraphraser((None, 2, 2, 6))[1]]
    loss = get(
        "ft", teacher_layer_name=["a", "b"], student_layer_name=["c", "d"], paraphraser=encoders
    )
    config = keras.saving.serialize_keras_object(loss)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is FactorTransfer
    assert keras.saving.serialize_keras_object(again) == config


def test_the_paraphraser_is_trained_first_and_frozen_then(tmp_path):
    teacher, student = image_model("teacher", 6), image_model("student", 4)
    x, y = images()
    feature = teacher.get_layer("high").output
    autoencoder, encoder = make_paraphraser(feature.shape)
    features = keras.Model(teacher.inputs, feature).predict(x, verbose=0)
    autoencoder.compile(keras.optimizers.Adam(1e-2), "mse")
    losses = autoencoder.fit(features, features, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]

    loss = FactorTransfer("high", "high", paraphraser=encoder)
    assert encoder.trainable  # The caller's own is unchanged.
    distiller = keras_kd.Distiller(teacher, student, loss, student_loss_weight=0.0)
    distiller.compile(keras.optimizers.Adam(1e-2))
    translator, frozen = distiller.projectors
    np.testing.assert_allclose(frozen(features), encoder(features), rtol=RTOL)
    before, before_frozen = snapshot(translator), snapshot(frozen)
    with pytest.warns(UserWarning, match="Gradients do not exist"):  # For the classifier.
        losses = distiller.fit(x, y, epochs=8, verbose=0).history["factor_transfer"]
    assert losses[-1] < losses[0]
    after = snapshot(translator)
    assert not any(np.array_equal(before[key], after[key]) for key in before)
    assert_same(before_frozen, snapshot(frozen))

    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    assert not loaded.projectors.members[1].trainable_weights
    for ours, theirs in zip(
        snapshot(translator, frozen).values(), snapshot(*loaded.projectors).values(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    loaded.teacher = teacher
    values = [model.compute_loss(tf.constant(x), training=False) for model in (distiller, loaded)]
    np.testing.assert_allclose(*values, rtol=RTOL)
