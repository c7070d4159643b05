"""The mean of several distributions, and who of several teachers knows an example."""

from keras import ops

# The smallest weight: what is at it counts 1e-30 of the others, and its logarithm is finite.
_NONE = 1e-30


def mixture(*, log_p, weights):
    """Log-probabilities of a weighted mean of distributions: log (sum_k w_k p_k), normalised.

    Args:
        log_p: Of K teachers, shape [K, batch, ..., classes].
        weights: At least 0, and broadcastable to that shape. For weights of each class too, the
            mean is normalised over the classes again.

    Returns:
        Shape [batch, ..., classes], in nats.
    """
    log_w = ops.log(ops.maximum(weights, _NONE))
    return ops.log_softmax(ops.logsumexp(log_p + log_w, axis=0), axis=-1)


def known_or_all(known, logits):
    """Returns which examples one teacher knows, booleans of shape [batch]."""
    return ops.ones(ops.shape(logits)[:1], "bool") if known is None else known


def knowing(known, logits):
    """Returns 1 where a teacher knows the example, else 0; broadcastable to the logits."""
    if all(each is None for each in known):
        return ops.ones((1,) * len(logits.shape), logits.dtype)
    known = ops.stack([known_or_all(each, logits[0]) for each in known])
    return ops.cast(
        ops.reshape(known, (*ops.shape(known), *(1 for _ in logits.shape[2:]))), logits.dtype
    )


def known_by_any(known, logits):
    """Returns which examples at least one teacher knows; None for all."""
    if any(each is None for each in known):
        return None
    return ops.any(ops.stack([known_or_all(each, logits) for each in known]), axis=0)


def known_by_all(known):
    """Returns which examples all teachers know; None for all."""
    known = [each for each in known if each is not None]
    return ops.all(ops.stack(known), axis=0) if known else None
