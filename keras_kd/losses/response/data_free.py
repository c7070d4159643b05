"""DAFL: what tells a generator, without any data, that its images look real to a teacher.

Pure functions on what a teacher says of generated images; a generator is trained on their sum, so
all of them let the gradient through.
"""

import math

from keras import ops

from keras_kd.numerics import at_least_float32, tempered_log_softmax


def dafl_onehot(*, logits):
    """Cross-entropy of a teacher's prediction with its own most likely class, per row.

    -log max_c softmax(logits)_c: small where the teacher is sure.

    Args:
        logits: The teacher's, shape [batch, ..., classes].

    Returns:
        Shape [batch, ...], in nats.

    Reference: Chen et al., arXiv:1904.01186, one-hot loss.
    """
    return -ops.max(tempered_log_softmax(logits, 1.0), axis=-1)


def dafl_info_entropy(*, logits):
    """Negative entropy of a teacher's mean prediction, in bans; the same for each example.

    sum_c p_c log10 p_c, p the mean of softmax(logits) over the batch: small where all classes are
    generated equally often.

    Args:
        logits: The teacher's, shape [batch, classes].

    Returns:
        Shape [batch].

    Reference: Chen et al., arXiv:1904.01186, information entropy loss; the base 10 is that of the
    authors' code.
    """
    log_p = tempered_log_softmax(logits, 1.0)
    examples = ops.cast(ops.shape(log_p)[0], log_p.dtype)
    log_mean = ops.logsumexp(log_p, axis=0) - ops.log(examples)
    value = ops.sum(ops.exp(log_mean) * log_mean) / math.log(10.0)
    return ops.broadcast_to(value, (ops.shape(log_p)[0],))


def dafl_activation(*, feature):
    """Minus the mean absolute activation of a teacher's layer, per example.

    -mean |feature|: small where the teacher's filters answer strongly.

    Args:
        feature: The teacher's, shape [batch, ...positions, channels].

    Returns:
        Shape [batch].

    Reference: Chen et al., arXiv:1904.01186, activation loss.
    """
    axes = tuple(range(1, len(feature.shape)))
    return -ops.mean(ops.abs(at_least_float32(feature)), axis=axes)
