import numpy as np
import pytest

import keras_kd
from keras_kd.losses import Context
from keras_kd.losses.relation import rkd, rkd_angle, rkd_distance


def smooth_l1(difference):
    size = np.abs(difference)
    return np.where(size < 1.0, 0.5 * size**2, size - 0.5)


def distances(rows):
    """Over their mean, one pair after the other, in float64."""
    n = len(rows)
    found = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in rows] for a in rows])
    return found / (found.sum() / (n * (n - 1)))


def cosines(rows):
    n = len(rows)
    found = np.zeros((n, n, n))
    for i in range(n):
        for j in range(n):
            for k in range(n):
                a, b = rows[j] - rows[i], rows[k] - rows[i]
                if i not in (j, k):
                    found[i, j, k] = a @ b / np.sqrt((a @ a) * (b @ b))
    return found


@pytest.fixture
def pair(rng):
    return [rng.normal(size=(5, size)).astype("float32") for size in (7, 3)]


# float32 sums of some hundred terms on inputs of a few units, against float64.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}


def test_distances_from_the_definition(pair):
    t, s = (distances(np.float64(side)) for side in pair)
    result = rkd_distance(teacher=pair[0], student=pair[1])
    np.testing.assert_allclose(result, smooth_l1(s - t).mean(1), **TOLERANCE)


def test_angles_from_the_definition(pair):
    t, s = (cosines(np.float64(side)) for side in pair)
    result = rkd_angle(teacher=pair[0], student=pair[1])
    np.testing.assert_allclose(result, smooth_l1(s - t).mean((1, 2)), **TOLERANCE)


def test_both_are_weighed(pair):
    sides = {"teacher": pair[0], "student": pair[1]}
    distance, angle = rkd_distance(**sides), rkd_angle(**sides)
    np.testing.assert_allclose(rkd(**sides), 25.0 * distance + 50.0 * angle, rtol=1e-6)
    loss = keras_kd.losses.get("rkd", distance_weight=2.0, angle_weight=0.0)
    np.testing.assert_allclose(loss.per_example(*pair, Context()), 2.0 * distance, rtol=1e-6)


def test_size_and_place_of_a_feature_are_of_no_consequence(pair):
    expected = rkd(teacher=pair[0], student=pair[1])
    moved = rkd(teacher=pair[0] * 3.0, student=pair[1] * 0.5 + 1.0)
    np.testing.assert_allclose(moved, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance_weight": -1.0}, "distance_weight to be a number of at least 0"),
        ({"angle_weight": "big"}, "angle_weight to be a number"),
        ({"angle_weight": keras_kd.schedules.Linear(0.0, 1.0, 2)}, "not a schedule"),
        ({"distance_weight": 0.0, "angle_weight": 0.0}, "above 0. Received: 0 for both"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        keras_kd.losses.get("rkd", **options)
