import math

import numpy as np
import pytest

import keras_kd
from keras_kd.losses import Context
from keras_kd.losses.relation import cc


@pytest.mark.parametrize(("gamma", "order"), [(0.4, 2), (0.7, 3)])
def test_from_the_definition(rng, gamma, order):
    pair = [rng.normal(size=(5, size)).astype("float32") for size in (7, 3)]

    def correlations(rows):
        rows = rows / np.sqrt((rows**2).sum(1, keepdims=True))
        return sum(
            math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * (rows @ rows.T) ** p
            for p in range(order + 1)
        )

    difference = correlations(np.float64(pair[1])) - correlations(np.float64(pair[0]))
    sides = {"teacher": pair[0], "student": pair[1], "gamma": gamma, "order": order}
    # float32 on inputs of a few units, against float64.
    tolerance = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(cc(**sides), (difference**2).sum(1) / 5, **tolerance)
    norm = np.full(5, np.sqrt((difference**2).sum()) / 25)
    np.testing.assert_allclose(cc(**sides, form="norm"), norm, **tolerance)
    loss = keras_kd.losses.get("cc", gamma=gamma, order=order, form="norm")
    np.testing.assert_allclose(loss.per_example(*pair, Context()), norm, **tolerance)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0.0}, "gamma to be a positive number"),
        ({"order": 0}, "order to be a positive integer"),
        ({"order": 1.5}, "order to be a positive integer"),
        ({"form": "cubed"}, r"form to be one of \('squared', 'norm'\)"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        keras_kd.losses.get("cc", **options)
