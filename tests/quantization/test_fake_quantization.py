"""The arithmetic of the grids, against NumPy in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_kd.quantization import fake_quantization as fq

# The op works in float32 with a handful of operations on values below 10: 10 * 5 * 2**-24 = 3e-6.
ATOL = 3e-6


def on_grid(x, low, high, bits):
    """Return x on the grid of Jacob et al., section 3.1, and its step and zero point."""
    step = (high - low) / (2**bits - 1)
    zero = np.round(-low / step)
    return (np.clip(np.floor(x / step + zero + 0.5), 0, 2**bits - 1) - zero) * step, step


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.01), (0.0, 6.0), (-0.3, 5.1), (-2.0, 0.0)])
@pytest.mark.parametrize("bits", [4, 8])
def test_values_are_on_the_grid(low, high, bits, rng):
    x = rng.normal(size=1000) * 3
    expected, step = on_grid(x, low, high, bits)
    found = np.asarray(fq.fake_quantize(x.astype("float32"), low, high, bits=bits))
    # A value halfway between two steps may go either way.
    differs = np.abs(found - expected) > ATOL
    assert np.mean(differs) < 0.01
    assert np.abs(found - expected).max() <= step + ATOL
    assert len(np.unique(found)) <= 2**bits
    assert 0.0 in np.asarray(fq.fake_quantize(np.zeros(3, "float32"), low, high, bits=bits))


def test_the_gradient_passes_inside_of_the_range_only():
    x = tf.constant([-2.0, -0.5, 0.0, 0.5, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = fq.fake_quantize(x, -1.0, 1.0)
    np.testing.assert_array_equal(tape.gradient(y, x), [0, 1, 1, 1, 0])


@pytest.mark.parametrize("bits", [4, 8])
def test_each_channel_of_a_kernel_has_its_own_steps(bits, rng):
    kernel = rng.normal(size=(3, 3, 2, 5)) * [1, 0.1, 10, 3, 0.5]
    largest = fq.largest_values(tf.constant(kernel, "float32"), per_channel=True)
    found = np.asarray(fq.fake_quantize_kernel(tf.constant(kernel, "float32"), largest, bits=bits))
    step = np.abs(kernel).max(axis=(0, 1, 2)) / (2 ** (bits - 1) - 1)
    whole = found / step
    # In steps, of which there are at most 127: 127 * 5 * 2**-24 = 4e-5.
    np.testing.assert_allclose(whole, np.round(whole), atol=4e-5)
    assert np.abs(found - kernel).max(axis=(0, 1, 2)) == pytest.approx(step / 2, rel=0.5)
    assert np.all(np.abs(found - kernel) <= step / 2 * 1.001)
    assert np.abs(whole).max() == pytest.approx(2 ** (bits - 1) - 1, abs=4e-5)


def test_one_scale_for_a_kernel(rng):
    kernel = tf.constant(rng.normal(size=(4, 6)), "float32")
    largest = fq.largest_values(kernel, per_channel=False)
    assert largest.shape == ()
    assert float(largest) == pytest.approx(float(np.abs(kernel).max()))


def test_a_dead_channel_keeps_a_scale_that_its_bias_fits_in():
    kernel = tf.constant(np.stack([np.ones(8), np.zeros(8)], axis=1), "float32")
    np.testing.assert_allclose(fq.largest_values(kernel, per_channel=True), [1.0, 2.0**-10])
    zeros = tf.zeros((8, 2))
    np.testing.assert_allclose(fq.largest_values(zeros, per_channel=True), [1e-6, 1e-6])


def test_straight_through_gives_every_weight_its_gradient(rng):
    kernel = tf.constant(rng.normal(size=(4, 6)), "float32")
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        largest = fq.largest_values(kernel, per_channel=True)
        rounded = fq.straight_through(kernel, fq.fake_quantize_kernel(kernel, largest))
    np.testing.assert_array_equal(tape.gradient(rounded, kernel), np.ones((4, 6)))


def test_a_learned_step_has_the_gradient_of_its_paper(rng):
    """Esser et al., equation 3, on a step for each of two channels."""
    x = rng.normal(size=(50, 2)).astype("float32") * 4
    step = np.array([0.02, 0.05], "float32")
    with tf.GradientTape() as tape:
        inputs, logarithms = tf.constant(x), tf.math.log(step)
        tape.watch([inputs, logarithms])
        steps = fq.learned_step(logarithms, values=50, bits=8)
        total = tf.reduce_sum(fq.learned_quantize(inputs, steps, -128, 127))
    np.testing.assert_allclose(steps, step, rtol=1e-6)
    by_input, by_logarithm = tape.gradient(total, [inputs, logarithms])
    whole = x.astype("float64") / step
    inside = (whole >= -128) & (whole <= 127)
    assert 0.1 < inside.mean() < 0.9
    np.testing.assert_array_equal(np.asarray(by_input) != 0, inside)
    each = np.where(inside, np.round(whole) - whole, np.clip(whole, -128, 127))
    expected = each.sum(axis=0) / np.sqrt(50 * 128)
    # Sums of 50 values up to 128 in float32: 50 * 128 * 2**-24 * 10. Descent by the logarithm moves
    # the step by `step` times as much.
    np.testing.assert_allclose(by_logarithm * step, expected, atol=4e-3)


def test_range_arithmetic_is_float32_whatever_comes_in():
    x = keras.ops.cast(np.linspace(-1, 1, 100), "float16")
    found = fq.fake_quantize(x, -1.0, 1.0)
    assert found.dtype == x.dtype
    expected, _ = on_grid(np.asarray(x).astype("float64"), -1.0, 1.0, 8)
    # Rounded to float16 once, at the end; a step's difference where a value lies between two.
    np.testing.assert_allclose(np.asarray(found).astype("float64"), expected, atol=2 / 255 + 5e-4)
