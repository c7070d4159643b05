"""BatchNormalization in one op: what Keras's layer gives, in outputs, gradients and averages."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.quantization import Quantized, batch_norm

SHAPE = (4, 5, 6, 3)
# Sums of 120 float32 in another order: 120 * 2^-24 of the largest, which is 10 or so.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def layer(**options):
    keras.utils.set_random_seed(0)
    made = keras.layers.BatchNormalization(**options)
    made.build((None, *SHAPE[1:]))
    for variable in made.trainable_variables:
        variable.assign(keras.random.uniform(variable.shape, 0.5, 1.5, seed=1))
    return made


def examples(shape=SHAPE):
    return tf.constant(np.random.default_rng(2).normal(2.0, 3.0, shape).astype(np.float32))


def step(norm, x, normalized):
    """Returns what a training step comes to: outputs, averages, gradients."""
    weigh = tf.cos(tf.reshape(tf.range(tf.size(x), dtype=tf.float32), x.shape))
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = normalized(norm, x)
        loss = tf.reduce_sum(weigh * tf.cast(outputs, tf.float32))
    gradients = tape.gradient(loss, [x, *(v.value for v in norm.trainable_variables)])
    return [outputs, norm.moving_mean.value, norm.moving_variance.value, *gradients]


def in_keras(norm, x):
    return norm(x, training=True)


@pytest.mark.parametrize(
    "options",
    [{}, {"scale": False}, {"center": False}, {"momentum": 0.5, "epsilon": 0.1}, {"axis": 3}],
    ids=["default", "no scale", "no offset", "other numbers", "other axis"],
)
def test_what_the_layer_gives(options):
    assert batch_norm._is_fused(layer(**options), examples())
    found = step(layer(**options), examples(), batch_norm.normalized_by_batch)
    expected = step(layer(**options), examples(), in_keras)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, **TOLERANCE)


def test_variance_is_that_of_the_batch():
    """A batch of two values a channel: an estimate for all there could be is twice as large."""
    x = tf.constant([[[[0.0]], [[2.0]]]])
    norm = keras.layers.BatchNormalization(momentum=0.0)
    norm.build(x.shape)
    batch_norm.normalized_by_batch(norm, x)
    np.testing.assert_allclose(norm.moving_variance, [1.0], rtol=1e-6)


def test_half_precision_is_computed_in_float32():
    norm = layer(dtype="mixed_float16")
    outputs = batch_norm.normalized_by_batch(norm, tf.cast(examples(), "float16"))
    assert outputs.dtype == tf.float16
    expected = in_keras(layer(dtype="mixed_float16"), tf.cast(examples(), "float16"))
    # Either rounds to float16, 2^-11 of values up to 4.
    np.testing.assert_allclose(outputs, expected, atol=4 * 2**-10)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (4, 5, 3)),
        ({"axis": 1}, SHAPE),
        ({"epsilon": 1e-6}, SHAPE),
        ({"synchronized": True}, SHAPE),
        ({"trainable": False}, SHAPE),
    ],
    ids=["three dimensions", "channels first", "tiny epsilon", "synchronized", "frozen"],
)
def test_the_layer_itself_where_the_op_does_something_else(options, shape, monkeypatch):
    def refuse(**kwargs):
        raise AssertionError("fused")

    monkeypatch.setattr(batch_norm.tf.raw_ops, "FusedBatchNormV3", refuse)
    norm = keras.layers.BatchNormalization(**options)
    norm.build(shape)
    assert batch_norm.normalized_by_batch(norm, examples(shape)).shape == shape


@pytest.mark.parametrize("kind", ["Conv2D", "DepthwiseConv2D"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_training_has_the_kernel_of_the_file(kind, per_channel):
    """q(kernel * m) / m, also where m = gamma / deviation is negative: normalized by the batch."""
    rng = np.random.default_rng(0)
    kernel = getattr(keras.layers, kind)(*([4] if kind == "Conv2D" else []), 3, use_bias=False)
    norm = keras.layers.BatchNormalization()
    quantized = Quantized(kernel, norm, bits=4, per_channel=per_channel)
    x = examples()
    quantized.build(x.shape)
    channels = norm.gamma.shape
    gamma = rng.uniform(0.5, 2.0, channels) * rng.choice([-1.0, 1.0], channels)
    beta, mean = rng.normal(size=channels), rng.normal(size=channels)
    variance = rng.uniform(0.2, 3.0, channels)
    norm.set_weights([gamma, beta, mean, variance])
    # In inference the outputs are those of the kernel in the file, and an offset.
    m = gamma / np.sqrt(variance + norm.epsilon)
    unscaled = (np.asarray(quantized(x, training=False)) - (beta - mean * m)) / m
    trained = quantized(x, training=True)
    axes = (0, 1, 2)
    deviation = np.sqrt(unscaled.var(axes) + norm.epsilon)
    expected = gamma * (unscaled - unscaled.mean(axes)) / deviation + beta
    np.testing.assert_allclose(trained, expected, **TOLERANCE)
