import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_kd import numerics


def test_half_precision_becomes_float32():
    assert numerics.at_least_float32(ops.ones((2,), "float16")).dtype == "float32"
    assert numerics.at_least_float32(ops.ones((2,), "bfloat16")).dtype == "float32"


def test_float64_stays():
    assert numerics.at_least_float32(np.ones(2, "float64")).dtype == "float64"


def test_log_softmax_at_extreme_logits_is_finite(rng):
    logits = (rng.normal(size=(4, 7)) * 1e4).astype("float32")
    result = ops.convert_to_numpy(numerics.tempered_log_softmax(logits, 0.5))
    assert np.isfinite(result).all()
    # Rows are log-probabilities; float32 rounds each of 7 exponentials by at most 2^-24.
    np.testing.assert_allclose(np.exp(result).sum(-1), 1.0, atol=7 * 2.0**-24 * 4)


def test_log_softmax_at_a_temperature(rng):
    logits = rng.normal(size=(3, 5))
    shifted = logits / 3.0 - (logits / 3.0).max(-1, keepdims=True)
    expected = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    result = numerics.tempered_log_softmax(logits.astype("float32"), 3.0)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)  # float32 against float64


class TestMeanOverPositions:
    def test_without_mask_is_the_mean_of_each_example(self, rng):
        values = rng.normal(size=(3, 4, 5)).astype("float32")
        result = numerics.mean_over_positions(values)
        np.testing.assert_allclose(result, values.mean((1, 2)), rtol=1e-6, atol=1e-7)

    def test_vectors_stay(self):
        values = np.array([1.0, 2.0], "float32")
        np.testing.assert_array_equal(numerics.mean_over_positions(values), values)

    def test_the_mean_over_examples_is_the_mean_over_valid_positions(self, rng):
        values = rng.normal(size=(3, 4)).astype("float32")
        mask = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]], bool)
        result = ops.convert_to_numpy(numerics.mean_over_positions(values, mask))
        np.testing.assert_allclose(result.mean(), values[mask].mean(), rtol=1e-5)
        np.testing.assert_allclose(result[1], values[1, 0] * 3 / 7, rtol=1e-6)

    def test_what_stands_in_the_padding_does_not_matter(self):
        values = np.array([[1.0, np.nan], [2.0, np.inf]], "float32")
        mask = np.array([[True, False], [True, False]])
        np.testing.assert_array_equal(numerics.mean_over_positions(values, mask), [1.0, 2.0])

    def test_all_masked_is_zero(self):
        values, mask = np.ones((2, 3), "float32"), np.zeros((2, 3), bool)
        np.testing.assert_array_equal(numerics.mean_over_positions(values, mask), [0.0, 0.0])

    def test_position_weights_multiply(self):
        values = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
        weights = np.array([[1.0, 0.0], [2.0, 1.0]], "float32")
        result = numerics.mean_over_positions(values, position_weight=weights)
        np.testing.assert_array_equal(result, [0.5, 5.0])

    @pytest.mark.parametrize("what", ["mask", "position_weight"])
    def test_another_number_of_positions_is_refused(self, what):
        with pytest.raises(ValueError, match=f"Expected a {what} with one entry"):
            numerics.mean_over_positions(np.ones((2, 3), "float32"), **{what: np.ones((2, 4))})


def test_padding_becomes_zero_and_takes_no_gradient():
    tensor = tf.Variable([[[1.0, 2.0], [np.nan, np.inf]]])
    mask = np.array([[True, False]])
    with tf.GradientTape() as tape:
        total = ops.sum(ops.square(numerics.without_padding(tensor, mask)))
    assert float(total) == 5.0
    np.testing.assert_array_equal(tape.gradient(total, tensor), [[[2.0, 4.0], [0.0, 0.0]]])
    assert numerics.without_padding(tensor, None) is tensor
