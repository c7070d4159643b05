import numpy as np
import pytest

import keras_kd
from keras_kd.losses.relation import pkt


def test_from_the_definition(rng):
    pair = [rng.normal(size=(5, size)).astype("float32") for size in (7, 3)]

    def neighbours(rows):
        rows = rows / np.sqrt((rows**2).sum(1, keepdims=True))
        kernel = (rows @ rows.T + 1) / 2
        return kernel / kernel.sum(1, keepdims=True)

    t, s = (neighbours(np.float64(side)) for side in pair)
    result = pkt(teacher=pair[0], student=pair[1])
    # A sum of logarithms of about 1 that cancels to about 0.01: a hundred roundings of 6e-8, and
    # the epsilon of 1e-7 beside probabilities of about 0.2.
    np.testing.assert_allclose(result, (t * np.log(t / s)).mean(1), rtol=1e-3, atol=1e-7)


def test_opposite_examples_are_no_neighbours():
    rows = np.array([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]], "float32") / 3.0
    result = pkt(teacher=rows[::-1], student=rows, epsilon=1e-12)
    np.testing.assert_allclose(result, np.zeros(2), atol=1e-5)


def test_bad_arguments():
    with pytest.raises(ValueError, match="epsilon to be a positive number"):
        keras_kd.losses.get("pkt", epsilon=0.0)
