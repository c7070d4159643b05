"""What losses with labels share: the target class of each row of logits, and the others."""

from keras import ops

from keras_kd.numerics import at_least_float32

# Far below every logit, and still finite after a division by a small temperature.
_NEVER = -1e30


def is_target(labels, logits):
    """Returns where the target class of each row stands.

    Args:
        labels: Class numbers, integers of shape [batch, ...]. A number that is no class marks
            nothing.
        logits: Shape [batch, ..., classes].

    Returns:
        Booleans, the shape of the logits.
    """
    return ops.equal(ops.expand_dims(ops.cast(labels, "int32"), -1), ops.arange(logits.shape[-1]))


def log_softmax_of_others(logits, target, temperature):
    """Log-probabilities among the classes that are not the target, at a temperature.

    Args:
        logits: Shape [batch, ..., classes].
        target: `is_target`.
        temperature: T > 0, a float or a scalar tensor.

    Returns:
        Shape [batch, ..., classes], in nats, with 0 for the target itself.
    """
    logits = at_least_float32(logits) / temperature
    log_p = ops.log_softmax(ops.where(target, ops.full_like(logits, _NEVER), logits), axis=-1)
    return ops.where(target, ops.zeros_like(log_p), log_p)


def softmax_of_others(logits, target, temperature):
    """The probabilities of `log_softmax_of_others`, with 0 for the target itself."""
    log_p = log_softmax_of_others(logits, target, temperature)
    return ops.where(target, ops.zeros_like(log_p), ops.exp(log_p))


def target_margin(logits, target, temperature):
    """The log-odds of the target class against all others, at a temperature.

    log(p_y / (1 - p_y)) = z_y / T - log sum_{i != y} exp(z_i / T): exact where 1 - p_y has
    underflowed.

    Args:
        logits: Shape [batch, ..., classes].
        target: `is_target`.
        temperature: T > 0, a float or a scalar tensor.

    Returns:
        Shape [batch, ...], in nats.
    """
    logits = at_least_float32(logits) / temperature
    others = ops.where(target, ops.full_like(logits, _NEVER), logits)
    own = ops.sum(ops.where(target, logits, ops.zeros_like(logits)), axis=-1)
    return own - ops.logsumexp(others, axis=-1)
