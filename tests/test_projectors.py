import keras
import numpy as np
import pytest

from keras_kd import projectors


def kinds(projector):
    return [type(layer).__name__ for layer in projector.layers]


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ((None, 8), (None, 12), ["Dense"]),
        ((None, 5, 8), (None, 5, 12), ["Conv1D"]),
        ((None, 6, 6, 8), (None, 6, 6, 12), ["Conv2D"]),
        ((None, 4, 4, 4, 8), (None, 4, 4, 4, 12), ["Conv3D"]),
        ((None, 12, 6, 8), (None, 4, 2, 8), ["AveragePooling2D"]),
        ((None, 12, 12, 8), (None, 6, 6, 12), ["AveragePooling2D", "Conv2D"]),
        ((None, 5, 7, 8), (None, 10, 14, 8), ["Resizing"]),
        ((None, 5, 7, 8), (None, 6, 6, 12), ["Resizing", "Conv2D"]),
        ((None, 10, 8), (None, 5, 8), ["AveragePooling1D"]),
        ((None, 8, 4, 4, 2), (None, 4, 4, 2, 2), ["AveragePooling3D"]),
        ((None, 6, 6, 8), (None, 12), ["GlobalAveragePooling2D", "Dense"]),
        ((None, 6, 6, 8), (None, 8), ["GlobalAveragePooling2D"]),
        ((None, 6, 8), (None, 12), ["GlobalAveragePooling1D", "Dense"]),
        ((None, None, None, 8), (None, None, None, 12), ["Conv2D"]),
    ],
)
def test_shapes_meet(student, teacher, expected, rng):
    projector = projectors.make_projector(student, teacher)
    assert kinds(projector) == expected
    feature = rng.normal(size=[3 if i == 0 else size or 6 for i, size in enumerate(student)])
    wanted = [3 if i == 0 else size or 6 for i, size in enumerate(teacher)]
    assert list(projector(feature.astype("float32")).shape) == wanted


@pytest.mark.parametrize("shape", [(None, 8), (None, 6, 6, 8), (None, None, 8), (None, 3, 4, 5, 6)])
def test_equal_shapes_need_none(shape):
    assert projectors.make_projector(shape, shape) is None


def test_pooling_is_the_mean_of_each_window():
    feature = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    pooled = projectors.make_projector((None, 4, 4, 1), (None, 2, 2, 1))(feature)
    np.testing.assert_array_equal(np.squeeze(pooled), [[2.5, 4.5], [10.5, 12.5]])


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ((None, 8), (None, 6, 6, 8), "the ranks differ"),
        ((None, 5, 8), (None, 6, 6, 8), "the ranks differ"),
        ((None, 5, 8), (None, 3, 8), "no multiples"),
        ((None, None), (None, 8), "number of channels is not fixed"),
        ((None, None, 6, 8), (None, 3, 3, 8), "fixed in one of them alone"),
        ((None,), (None,), "the ranks differ"),
    ],
)
def test_no_way(student, teacher, message):
    with pytest.raises(ValueError, match=f"{message}.*Hint: name other layers"):
        projectors.make_projector(student, teacher)


def test_config_round_trip(rng):
    projector = projectors.make_projector((None, 12, 12, 8), (None, 6, 6, 12))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(projector))
    assert kinds(again) == kinds(projector)
    again.set_weights(projector.get_weights())
    feature = rng.normal(size=(2, 12, 12, 8)).astype("float32")
    np.testing.assert_array_equal(again(feature), projector(feature))


def test_features_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"student \(2, 8\), teacher \(2, 1\)\. Hint: do this"):
        projectors.check_same_shape((2, 8), (2, 1), "do this")
    with pytest.raises(ValueError, match="equal shapes"):
        projectors.check_same_shape((2, 3, 8), (2, 8), "do this")
    projectors.check_same_shape((None, 3, None), (7, 3, 8), "do this")
