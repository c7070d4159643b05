"""What the losses on feature maps share: maps of one rank, of one size, and whole."""

import keras
import numpy as np
from keras import layers, ops

from keras_kd.numerics import adaptive_average_pool


def as_maps(feature):
    """Returns a feature as maps: a sequence gets a width of 1, a vector a height of 1 too.

    Args:
        feature: Shape [batch, channels], [batch, length, channels] or [batch, height, width,
            channels].

    Returns:
        Shape [batch, height, width, channels].

    Raises:
        ValueError: If it is of another rank.
    """
    rank = len(feature.shape)
    if rank not in (2, 3, 4):
        raise ValueError(
            "Expected a vector, a sequence or maps, of rank 2, 3 or 4 with the batch. "
            f"Received shape {tuple(feature.shape)}."
        )
    if rank == 4:
        return feature
    return ops.expand_dims(feature, (1, 2)) if rank == 2 else ops.expand_dims(feature, 2)


def map_shape(shape):
    """Returns the shape that `as_maps` gives to a feature of this shape.

    Raises:
        ValueError: If it is of another rank, or a size other than the batch's is not fixed.
    """
    shape = tuple(as_maps(keras.KerasTensor(tuple(shape))).shape)
    if None in shape[1:]:
        raise ValueError(
            f"Expected features of a fixed size. Received shape {shape}. Hint: give the models an "
            "Input of a fixed size."
        )
    return shape


def smaller_size(teacher_shape, student_shape):
    """Returns the (height, width) at which two maps meet: axis by axis the smaller one."""
    return tuple(map(min, teacher_shape[1:3], student_shape[1:3]))


def at_size(maps, size):
    """Returns maps average-pooled to (height, width); see `adaptive_average_pool`."""
    return maps if tuple(maps.shape[1:3]) == tuple(size) else adaptive_average_pool(maps, size)


def nearest(maps, size):
    """Returns maps resized to (height, width) by taking the entry floor(i * old / new).

    Args:
        maps: Shape [batch, height, width, channels], height and width fixed.
        size: Wanted (height, width).
    """
    for axis in (1, 2):
        old, new = maps.shape[axis], size[axis - 1]
        if old != new:
            maps = ops.take(maps, np.arange(new) * old // new, axis=axis)
    return maps


def check_whole(context, index, name):
    """Refuses what a loss on whole maps cannot apply: padding, and weights of positions.

    Raises:
        ValueError: If the feature has a mask, or there are sample weights a position.
    """
    if context.mask(index) is not None:
        raise ValueError(
            f"Expected features without padding for '{name}', which compares whole maps. Received "
            "a masked feature. Hint: 'hint' or a loss on sequences leaves padding out."
        )
    if context.position_weight is not None:
        raise ValueError(
            f"Expected one sample weight an example for '{name}', which compares whole maps. "
            "Received a weight for each position."
        )


def missing(name):
    """Returns the error of a loss that is called before it has seen its models."""
    return ValueError(
        f"Expected '{name}' to be connected to its two models. Received a call before that. "
        "Hint: give it to a keras_kd.Distiller with a teacher."
    )


def conv_norm(channels, size=1, activation="relu", initializer="he_normal"):
    """Returns [convolution, batch normalization, activation], without the last for None.

    Args:
        channels: Channels of the output.
        size: Of the kernel; the maps keep their size.
        activation: A name, or None.
        initializer: Of the kernel.
    """
    convolution = layers.Conv2D(
        channels, size, padding="same", use_bias=False, kernel_initializer=initializer
    )
    steps = [convolution, layers.BatchNormalization()]
    return steps if activation is None else [*steps, layers.Activation(activation)]


def built(steps, shape, name):
    """Returns the steps as a `keras.Sequential`, built for maps of `shape`."""
    made = keras.Sequential(steps, name=name)
    made.build((None, *shape[1:]))
    return made
