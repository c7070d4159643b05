import keras
import numpy as np
import pytest

from keras_kd.losses.feature.pooling import average_pool_larger, channel_rows, max_pool_larger
from tests.losses.feature.function_checks import RTOL, adaptive_pool, maps


@pytest.mark.parametrize(
    ("pool", "reduce"), [(average_pool_larger, np.mean), (max_pool_larger, np.max)]
)
@pytest.mark.parametrize(
    ("first", "second", "size"),
    [
        ((8, 6), (4, 3), (4, 3)),
        ((4, 3), (8, 6), (4, 3)),
        ((7, 5), (3, 2), (3, 2)),  # Windows overlap.
        ((8, 3), (4, 6), (4, 3)),  # Each is the larger one along an axis.
    ],
)
def test_the_larger_is_pooled_to_the_smaller(pool, reduce, first, second, size, rng):
    arrays = maps(rng, (2, *first, 3), (2, *second, 4))
    for ours, array in zip(pool(*arrays), arrays, strict=True):
        np.testing.assert_allclose(ours, adaptive_pool(array, size, reduce), rtol=RTOL, atol=1e-6)


def test_equal_sizes_stay_as_they_are():
    unknown = keras.KerasTensor((None, None, None, 3)), keras.KerasTensor((None, None, None, 4))
    assert [t.shape for t in average_pool_larger(*unknown)] == [t.shape for t in unknown]


def test_sizes_that_differ_have_to_be_fixed():
    tensors = keras.KerasTensor((None, None, 4, 3)), keras.KerasTensor((None, 8, 4, 3))
    with pytest.raises(ValueError, match=r"equal or of fixed sizes.*\(None, None, 4, 3\)"):
        average_pool_larger(*tensors)


def test_rows_hold_the_positions_of_a_channel(rng):
    (array,) = maps(rng, (2, 3, 4, 5))
    np.testing.assert_array_equal(channel_rows(array)[1, 2], array[1, :, :, 2].ravel())
