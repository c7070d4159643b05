"""How many devices share a batch, which Keras has no public word for."""

import tensorflow as tf
from keras import ops


def replicas():
    """Returns the number of replicas of the current `tf.distribute` strategy; 1 without one."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def share_of(examples):
    """Returns which share of the batch's examples this replica has, a float32 scalar.

    The sum over the replicas of their means, each times its share, is the mean over the batch, as
    unevenly as the last batch of an epoch may be divided.

    Args:
        examples: How many this replica has, an integer scalar.
    """
    count, context = replicas(), tf.distribute.get_replica_context()
    # Outside of the replicas, as where Keras builds a model, there is nobody to be asked.
    if count == 1 or context is None:
        return 1.0 / count
    examples = ops.cast(examples, "float32")
    return ops.divide_no_nan(examples, context.all_reduce("SUM", examples))


def with_changes_of_all(before, after):
    """Returns what a variable has to be assigned in order to hold the changes of every replica.

    A variable of `aggregation="mean"` becomes the mean of what the replicas assign. Where each
    changes other rows of it, the mean alone would hold a share of every change.

    Args:
        before: The variable's value, the same on all replicas.
        after: What this replica makes of it, the same shape.

    Returns:
        The same shape; `after` itself on a single device.
    """
    count = replicas()
    return after if count == 1 else before + count * (after - before)
