import numpy as np
import pytest

from keras_kd.losses.response import dafl_activation, dafl_info_entropy, dafl_onehot
from tests.losses.response.checks import (
    ATOL,
    RTOL,
    assert_finite,
    assert_xla_agrees,
    gradient,
    logits_and_labels,
    softmax,
)


def test_onehot(rng):
    logits, *_ = logits_and_labels(rng, 3)
    result = dafl_onehot(logits=logits)
    np.testing.assert_allclose(result, -np.log(softmax(logits).max(-1)), rtol=RTOL, atol=ATOL)


def test_info_entropy(rng):
    logits, *_ = logits_and_labels(rng)
    p = softmax(logits).mean(0)
    result = dafl_info_entropy(logits=logits)
    np.testing.assert_allclose(result, np.full(7, (p * np.log10(p)).sum()), rtol=RTOL)


def test_info_entropy_is_least_where_all_classes_are_alike():
    even = dafl_info_entropy(logits=50.0 * np.eye(4, dtype="float32"))
    np.testing.assert_allclose(even, -np.log10(4.0), rtol=RTOL)


def test_activation(rng):
    feature = rng.normal(size=(3, 4, 5, 2)).astype("float32")
    result = dafl_activation(feature=feature)
    np.testing.assert_allclose(result, -np.abs(feature).mean((1, 2, 3)), rtol=RTOL)


@pytest.mark.parametrize(
    "function",
    [
        lambda z: dafl_onehot(logits=z),
        lambda z: dafl_info_entropy(logits=z),
        lambda z: dafl_activation(feature=z),
    ],
)
def test_extremes_and_compilers(rng, function):
    logits, *_ = logits_and_labels(rng)
    assert_finite(function, logits)
    assert_xla_agrees(function, logits)
    # It is the generator in front that is trained.
    assert np.abs(gradient(function, logits)[1][0]).max() > 0.0
