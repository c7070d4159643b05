"""Layers in the form that the converter makes integers of: what they compute, and their configs."""

import keras
import numpy as np
import pytest

from keras_kd.quantization import FakeQuantize, Fixed, calibrate, quantize_aware
from keras_kd.quantization.device_layers import (
    NearestUpsampling,
    Requantize,
    SaturatingReLU,
)
from tests.quantization.on_device import examples_for, trained

layers = keras.layers


@pytest.mark.parametrize(
    "layer",
    [
        Requantize(3),
        SaturatingReLU(4.0),
        NearestUpsampling((2, 3)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_config_makes_the_layer_again(layer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()


def test_nearest_upsampling_is_keras_upsampling():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    layer = NearestUpsampling((2, 3))
    expected = layers.UpSampling2D((2, 3))(x)
    np.testing.assert_array_equal(layer(x), expected)
    np.testing.assert_array_equal(layer(x, training=True), expected)
    assert layer.compute_output_shape(x.shape) == (2, 6, 12, 5)


def test_requantizing_changes_next_to_nothing_and_never_twice_the_same():
    x = np.linspace(-1, 1, 101).astype("float32")
    first, other = Requantize(1)(x), Requantize(2)(x)
    # Two steps of float32 and a rounding: far below the 1/255 that a range resolves.
    np.testing.assert_allclose(first, x, rtol=3 * 2.0**-24)
    np.testing.assert_allclose(other, x, rtol=3 * 2.0**-24)
    assert not np.array_equal(first, x)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("state", ["rounding", "calibrating", "training before it rounds"])
def test_a_saturating_relu_is_limited_whether_it_is_rounded_or_not(state):
    inputs = keras.Input((4,))
    model = quantize_aware(keras.Model(inputs, layers.ReLU(4.0, name="relu")(inputs)))
    calibrate(model, np.array([[-9.0, 9.0, 1.0, 2.0]], "float32"))
    after = model.get_layer("relu_range")
    assert isinstance(after.observer, Fixed)
    assert after.observer.fixed == (0.0, 4.0)
    for layer in model.layers:
        if isinstance(layer, FakeQuantize):
            layer.calibrating = state == "calibrating"
            layer.quantizing = state == "rounding"
    said = model(np.array([[-9.0, 9.0, 4.0, 0.0]], "float32"), training=state != "rounding")
    # A step of the input's range of 18 is .07.
    np.testing.assert_allclose(said, [[0.0, 4.0, 4.0, 0.0]], atol=0.08)


def image_model():
    inputs = keras.Input((8, 8, 3))
    x = layers.Rescaling(2.0, -1.0)(inputs)
    x = layers.SeparableConv2D(4, 3, activation="hard_silu", padding="same")(x)
    y = layers.BatchNormalization()(x)
    x = layers.Concatenate()([x, layers.PReLU(shared_axes=[1, 2])(y)])
    x = layers.Maximum()([layers.UpSampling2D(2)(layers.AveragePooling2D(2)(x)), x])
    x = layers.Conv2DTranspose(4, 3, strides=2)(x)
    x = layers.ReLU(3.0)(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(0.5 * x)
    return keras.Model(inputs, layers.Dense(2, activation="hard_sigmoid")(x))


@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "jit"])
def test_a_model_of_them_trains_saves_and_loads(compiled, tmp_path):
    rng = np.random.default_rng(0)
    model = trained(image_model(), rng)
    x = examples_for(model, rng, 16)
    quantized = quantize_aware(model, calibration=x)
    before = [np.array(v) for v in quantized.trainable_variables]
    quantized.compile("adam", "mse", jit_compile=compiled)
    history = quantized.fit(x, rng.uniform(size=(16, 2)), batch_size=8, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    moved = [
        not np.array_equal(old, new)
        for old, new in zip(before, quantized.trainable_variables, strict=True)
    ]
    assert np.mean(moved) > 0.9
    quantized.save(tmp_path / "quantized.keras")
    loaded = keras.models.load_model(tmp_path / "quantized.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), quantized.predict(x, verbose=0))


def test_quantizing_changes_outputs_by_little():
    rng = np.random.default_rng(0)
    model = trained(image_model(), rng)
    x = examples_for(model, rng, 16)
    quantized = quantize_aware(model, calibration=x)
    said, expected = quantized.predict(x, verbose=0), model.predict(x, verbose=0)
    # Of the outputs' range of 1: a dozen roundings to 1/255 of ranges that add up like noise.
    assert np.sqrt(np.mean((said - expected) ** 2)) < 0.03
