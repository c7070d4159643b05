"""Arithmetic of relations between the examples of a batch, each example a vector."""

import math

from keras import ops

from keras_kd.numerics import at_least_float32, safe_sqrt

# The rounding of float32, relative.
_ROUNDING = 2.0**-23


def flat_rows(tensor, valid=None):
    """Each example as a vector, whatever its shape; excluded examples as zeros.

    Args:
        tensor: Shape [batch, ...].
        valid: None, or which examples count, booleans of shape [batch].

    Returns:
        Shape [batch, features], float32 at least.
    """
    tensor = at_least_float32(ops.convert_to_tensor(tensor))
    sizes = tuple(tensor.shape)[1:]
    # Not -1 where it can be helped: it cannot be inferred for a batch without examples.
    size = -1 if None in sizes else math.prod(sizes)
    rows = ops.reshape(tensor, (ops.shape(tensor)[0], size))
    if valid is None:
        return rows
    # An excluded example may hold anything, NaN too: select, do not multiply.
    return ops.where(ops.expand_dims(ops.cast(valid, "bool"), -1), rows, ops.zeros_like(rows))


def count(rows, valid=None):
    """Returns how many examples count, a float scalar."""
    if valid is None:
        return ops.cast(ops.shape(rows)[0], rows.dtype)
    return ops.sum(ops.cast(valid, rows.dtype))


def among_valid(relations, valid=None):
    """Returns relations with zeros where an excluded example takes part.

    Args:
        relations: Of each example, pair or triple: shape [batch], [batch, batch] or [batch, batch,
            batch].
        valid: None, or which examples count, booleans of shape [batch].
    """
    if valid is None:
        return relations
    rank = len(relations.shape)
    for axis in range(rank):
        shape = [1] * rank
        shape[axis] = -1
        takes_part = ops.reshape(ops.cast(valid, "bool"), shape)
        relations = ops.where(takes_part, relations, ops.zeros_like(relations))
    return relations


def share(relations, valid=None):
    """Each example's share in the mean over all pairs (triples), times N.

    The mean over the N examples is the mean over the N^2 pairs (N^3 triples), i = j among them.
    With excluded examples N is the number of the others, whose relations alone are meant.

    Args:
        relations: Shape [batch], [batch, batch] or [batch, batch, batch].
        valid: None, or which examples count, booleans of shape [batch].

    Returns:
        Shape [batch]; 0 for excluded examples.
    """
    others = tuple(range(1, len(relations.shape)))
    if not others:
        return among_valid(relations, valid)
    totals = ops.sum(among_valid(relations, valid), axis=others)
    return ops.divide_no_nan(totals, count(relations, valid) ** len(others))


def lengths(vectors):
    """Returns the Euclidean norms over the last axis; the gradient of a zero vector is 0."""
    return safe_sqrt(ops.sum(ops.square(vectors), axis=-1))


def differences(rows):
    """Returns `rows[j] - rows[i]` at [i, j]; shape [batch, batch, features]."""
    return ops.expand_dims(rows, 0) - ops.expand_dims(rows, 1)


def squared_distances(rows, valid=None):
    """Squared Euclidean distances of all pairs, from inner products.

    It needs batch^2 numbers where `differences` needs batch^2 * features. Distances within the
    rounding of float32 are 0, with gradient 0.

    Args:
        rows: Shape [batch, features]; excluded examples are zeros.
        valid: None, or which examples count, booleans of shape [batch].

    Returns:
        Shape [batch, batch].
    """
    # Distances do not change when all rows move; around their mean the least is lost to rounding.
    centre = ops.divide_no_nan(ops.sum(rows, axis=0), count(rows, valid))
    centred = rows - ops.stop_gradient(centre)
    products = ops.matmul(centred, ops.transpose(centred))
    squares = ops.diagonal(products)
    sums = ops.expand_dims(squares, 0) + ops.expand_dims(squares, 1)
    distances = sums - 2.0 * products
    rounding = 4.0 * _ROUNDING * (sums + 4.0 * _ROUNDING * ops.sum(ops.square(centre)))
    return ops.where(distances > rounding, distances, ops.zeros_like(distances))
