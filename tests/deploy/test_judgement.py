"""How outputs are judged, against numbers worked out by hand."""

import math

import keras
import numpy as np
import pytest

from keras_kd.deploy.judgement import (
    agreement,
    judged,
    mean_and_standard_error,
    top_1_correct,
)


def test_top_1_takes_numbers_columns_and_one_hot():
    outputs = np.array([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]])
    labels = np.array([1, 1, 1])
    for y in (labels, labels[:, None], np.eye(2)[labels], list(labels)):
        np.testing.assert_array_equal(top_1_correct(y, outputs), [1, 0, 1])


def test_tokens_of_an_example_are_one_observation():
    outputs = np.eye(3)[[[0, 1], [2, 2]]]
    shares = top_1_correct(np.array([[0, 0], [2, 2]]), outputs)
    np.testing.assert_array_equal(shares, [0.5, 1.0])
    # mean 3/4; deviations 1/4; error sqrt(1/16 / 2).
    assert mean_and_standard_error(shares) == pytest.approx((0.75, math.sqrt(1 / 32)))


def test_one_unit_has_no_top_1():
    with pytest.raises(ValueError, match=r"at least two classes .*shape \(4, 1\).*BinaryAccuracy"):
        top_1_correct(np.zeros(4), np.zeros((4, 1)))
    assert agreement(np.zeros((4, 1)), np.ones((4, 1))) is None


def test_a_judgement_has_scores_where_the_metric_has_one_for_each_example():
    outputs, labels = np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([1, 1])
    found = judged("accuracy", labels, outputs)
    assert (found.metric, found.value) == ("accuracy", 0.5)
    np.testing.assert_array_equal(found.scores, [1.0, 0.0])
    whole = judged(keras.metrics.SparseCategoricalAccuracy(name="whole"), labels, outputs)
    assert (whole.metric, whole.value, whole.standard_error, whole.scores) == (
        *("whole", 0.5),
        *(None, None),
    )
