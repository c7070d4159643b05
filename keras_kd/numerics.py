"""Arithmetic that every distillation loss stands on: float32 at least, in log space, finite."""

import keras
import numpy as np
from keras import ops


def at_least_float32(tensor):
    """Returns `tensor` in float32, or in float64 if it came so.

    Loss arithmetic is never done in float16 or bfloat16, where 1e-8 is zero.

    Args:
        tensor: A tensor of any shape and dtype.

    Returns:
        The tensor, same shape, float32 or float64.
    """
    if keras.backend.standardize_dtype(tensor.dtype) == "float64":
        return tensor
    return ops.cast(tensor, "float32")


def tempered_log_softmax(logits, temperature):
    """Log-probabilities at a temperature: `log softmax(logits / T)` over the last axis.

    Args:
        logits: Shape [..., classes].
        temperature: T > 0, a float or a scalar tensor.

    Returns:
        Shape [..., classes], in nats.
    """
    return ops.log_softmax(at_least_float32(logits) / temperature, axis=-1)


def mean_over_positions(values, mask=None, position_weight=None):
    """Reduces the values at every position of an example to one value per example.

    Without a mask this is the mean over the positions (time steps, pixels). With one it is the sum
    over the example's valid positions times N over the valid positions of the batch, so that the
    mean over the N examples is the mean over all valid positions of the batch, as in Keras's
    losses.

    Args:
        values: Shape [batch, ...positions].
        mask: None, or booleans that broadcast from the left: shape [batch] or [batch,
            ...positions].
        position_weight: None, or weights of shape [batch, ...positions].

    Returns:
        Shape [batch].
    """
    positions = tuple(range(1, len(values.shape)))
    if position_weight is not None:
        _check_positions("position_weight", position_weight, values)
        values = values * ops.cast(position_weight, values.dtype)
    if mask is None:
        return ops.mean(values, axis=positions) if positions else values
    _check_positions("mask", mask, values)
    valid = ops.cast(mask, values.dtype)
    # A padded position may hold anything, NaN too: select, do not multiply.
    values = ops.where(ops.cast(mask, "bool"), values, ops.zeros_like(values))
    totals = ops.sum(values, axis=positions) if positions else values
    examples = ops.cast(ops.shape(values)[0], values.dtype)
    return totals * ops.divide_no_nan(examples, ops.sum(valid))


def without_padding(tensor, mask):
    """Returns `tensor` with zeros at the positions that the mask excludes.

    Leaving a position out of the sum is not enough: a NaN there would still come back in the
    gradient, as 0 * NaN.

    Args:
        tensor: Shape [batch, ...positions, units].
        mask: None, or booleans of shape [batch, ...positions].
    """
    if mask is None:
        return tensor
    _check_positions("mask", mask, tensor[..., 0])
    return ops.where(ops.expand_dims(ops.cast(mask, "bool"), -1), tensor, ops.zeros_like(tensor))


def safe_sqrt(tensor):
    """Square root whose gradient at 0 is 0 instead of infinite.

    Args:
        tensor: Shape [...], at least 0.

    Returns:
        Same shape.
    """
    positive = tensor > 0.0
    root = ops.sqrt(ops.where(positive, tensor, ops.ones_like(tensor)))
    return ops.where(positive, root, ops.zeros_like(tensor))


def l2_normalize(tensor, axis=-1):
    """Scales `tensor` to a Euclidean norm of 1; zeros stay zeros and get no gradient.

    Args:
        tensor: A tensor of any shape, float32 at least.
        axis: An axis or several, over which the norm is taken.

    Returns:
        The same shape.
    """
    squares = ops.sum(ops.square(tensor), axis=axis, keepdims=True)
    positive = squares > 1e-24
    norm = ops.sqrt(ops.where(positive, squares, ops.ones_like(squares)))
    return ops.where(positive, tensor / norm, ops.zeros_like(tensor))


def adaptive_average_pool(maps, size):
    """Averages maps over windows that cover them evenly, whatever the sizes.

    Output i of n over an axis of length L is the mean over [floor(i L / n), ceil((i + 1) L / n)):
    windows overlap where n does not divide L, and repeat entries where n is larger than L. This is
    what the papers' code calls adaptive average pooling.

    Args:
        maps: Shape [batch, height, width, channels], height and width fixed.
        size: Wanted (height, width).

    Returns:
        Shape [batch, *size, channels].

    Raises:
        ValueError: If height or width is not fixed.
    """
    if None in maps.shape[1:3]:
        raise ValueError(
            f"Expected maps of a fixed height and width. Received shape {tuple(maps.shape)}. "
            "Hint: give the models an Input of a fixed size."
        )
    for axis, equation in ((1, "bhwc,ih->biwc"), (2, "bhwc,jw->bhjc")):
        if maps.shape[axis] != size[axis - 1]:
            windows = ops.cast(_windows(maps.shape[axis], size[axis - 1]), maps.dtype)
            maps = ops.einsum(equation, maps, windows)
    return maps


def _windows(length, count):
    """Returns the averages that `adaptive_average_pool` takes, as a matrix [count, length]."""
    matrix = np.zeros((count, length))
    for row in range(count):
        start, stop = row * length // count, -(-(row + 1) * length // count)
        matrix[row, start:stop] = 1.0 / (stop - start)
    return matrix


def _check_positions(what, given, values):
    if len(given.shape) != len(values.shape) or any(
        a is not None and b is not None and a != b
        for a, b in zip(given.shape, values.shape, strict=True)
    ):
        raise ValueError(
            f"Expected a {what} with one entry for each position of the loss, shape "
            f"{tuple(values.shape)}. Received shape {tuple(given.shape)}."
        )
