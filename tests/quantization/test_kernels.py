"""Kernels of each kind of layer: unrounded they are the layer's, rounded they are on a grid."""

import keras
import numpy as np
import pytest

from keras_kd.quantization import Quantized, fake_quantization
from keras_kd.quantization.kernels import kernel_of

layers = keras.layers

KINDS = {
    "conv1d": ((9, 4), layers.Conv1D(6, 3, strides=2, padding="same")),
    "conv1d_causal": ((9, 4), layers.Conv1D(6, 3, padding="causal", dilation_rate=2)),
    "conv2d": ((7, 8, 4), layers.Conv2D(6, 3, groups=2)),
    "depthwise1d": ((9, 4), layers.DepthwiseConv1D(3, depth_multiplier=2, strides=2)),
    "depthwise2d": ((7, 8, 4), layers.DepthwiseConv2D(3, depth_multiplier=2)),
    "transposed1d": ((9, 4), layers.Conv1DTranspose(6, 3, strides=2, output_padding=1)),
    "transposed2d": ((7, 8, 4), layers.Conv2DTranspose(6, 3, strides=(2, 1), padding="same")),
    "dense": ((9, 4), layers.Dense(6)),
}


def quantized(kind, norm=None, **options):
    shape, layer = KINDS[kind]
    layer = type(layer).from_config({**layer.get_config(), "name": None})
    made = Quantized(layer, norm, **options)
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    made(x)
    return made, x


@pytest.mark.parametrize("kind", KINDS)
def test_before_it_rounds_a_layer_computes_what_it_did(kind):
    made, x = quantized(kind, quantizing=False)
    # The same sums, by an op of another rank: float32's rounding.
    np.testing.assert_allclose(made(x, training=True), made.layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_norm_is_multiplied_into_the_right_axis(kind):
    made, x = quantized(kind, layers.BatchNormalization())
    rng = np.random.default_rng(1)
    made.batch_norm.set_weights([rng.uniform(0.5, 2, w.shape) for w in made.batch_norm.weights])
    expected = made.batch_norm(made.layer(x))
    # Steps of 1/127 of each kernel, added up like noise over a dozen products of size 1.
    assert np.sqrt(np.mean((made(x) - expected) ** 2)) < 0.02 * np.std(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_has_255_values_for_each_scale(kind):
    made, _ = quantized(kind)
    stored = kernel_of(made.layer).as_on_device(made.layer.kernel)
    largest = fake_quantization.largest_values(stored, per_channel=False)
    rounded = fake_quantization.fake_quantize_kernel(stored, largest)
    steps = np.asarray(rounded) / np.abs(made.layer.kernel).max() * 127
    # Whole numbers, but for float32's rounding of the division.
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    assert np.abs(steps).max() == pytest.approx(127, abs=1e-4)
