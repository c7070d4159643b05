"""Feature maps of two sizes brought to one, as the papers' code does."""

from keras import ops

from keras_kd.losses.feature.maps import as_maps
from keras_kd.numerics import adaptive_average_pool


def average_pool_larger(first, second):
    """Returns both features as maps, the larger one average-pooled to the size of the smaller.

    Args:
        first: Shape [batch, ...positions, channels], of at most two axes of positions.
        second: The same with other positions and channels.

    Returns:
        Shapes [batch, height, width, channels], channels as they were.

    Raises:
        ValueError: If a feature has another rank, or sizes differ that are not fixed.
    """
    return _pool_larger(first, second, adaptive_average_pool)


def max_pool_larger(first, second):
    """Returns both features as maps, the larger one max-pooled to the size of the smaller.

    Args, Returns and Raises are those of `average_pool_larger`.
    """
    return _pool_larger(first, second, _adaptive_max_pool)


def channel_rows(maps):
    """Returns maps [batch, height, width, channels] as [batch, channels, height * width]."""
    rows = ops.reshape(maps, (ops.shape(maps)[0], -1, maps.shape[-1]))
    return ops.transpose(rows, (0, 2, 1))


def _pool_larger(first, second, pool):
    first, second = as_maps(first), as_maps(second)
    if tuple(first.shape[1:3]) == tuple(second.shape[1:3]):
        return first, second
    if None in (*first.shape[1:3], *second.shape[1:3]):
        raise ValueError(
            "Expected maps of equal or of fixed sizes. Received shapes: "
            f"{tuple(first.shape)} and {tuple(second.shape)}. "
            "Hint: give the models an Input of a fixed size."
        )
    size = tuple(map(min, first.shape[1:3], second.shape[1:3]))
    return pool(first, size), pool(second, size)


def _adaptive_max_pool(maps, size):
    """The maximum over the windows of which `adaptive_average_pool` takes the mean."""
    for axis, count in enumerate(size, start=1):
        length = maps.shape[axis]
        if length == count:
            continue
        windows = [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
        before = [slice(None)] * axis
        pooled = [ops.max(maps[(*before, slice(*w))], axis=axis, keepdims=True) for w in windows]
        maps = ops.concatenate(pooled, axis=axis)
    return maps
