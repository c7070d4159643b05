"""How many devices share a batch, which Keras has no public word for."""

import tensorflow as tf


def replicas():
    """Returns the number of replicas of the current `tf.distribute` strategy; 1 without one."""
    return tf.distribute.get_strategy().num_replicas_in_sync


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
