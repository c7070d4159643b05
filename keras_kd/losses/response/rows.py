"""What losses on the statistics of a batch share: its valid rows."""

from keras import ops

from keras_kd.numerics import at_least_float32, without_padding


def tempered_rows(*, teacher, student, temperature, valid):
    """Probabilities of every row of a batch, with zeros in the rows that do not count.

    Args:
        teacher: Logits, shape [batch, ..., classes]; receives no gradient.
        student: Logits, same shape.
        temperature: T > 0, a float or a scalar tensor.
        valid: None, or booleans of shape [batch, ...].

    Returns:
        The teacher's and the student's probabilities, each of shape [rows, classes], and floats of
        shape [rows], 1 for the rows that count, else 0.
    """
    rows = [
        ops.reshape(
            ops.softmax(without_padding(at_least_float32(side), valid) / temperature, axis=-1),
            (-1, side.shape[-1]),
        )
        for side in (ops.stop_gradient(teacher), student)
    ]
    counts = ops.ones_like(rows[0][:, 0])
    if valid is not None:
        counts = ops.cast(ops.reshape(valid, (-1,)), counts.dtype)
    return *(probabilities * ops.expand_dims(counts, -1) for probabilities in rows), counts


def like_positions(values, logits):
    """Returns values of rows, shape [rows], in the shape of the positions, [batch, ...].

    Args:
        values: Shape [rows].
        logits: Shape [batch, ..., classes].
    """
    return ops.reshape(values, ops.shape(logits)[:-1])
