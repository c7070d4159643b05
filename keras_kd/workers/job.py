"""The workers of a job: who there is, what they tell each other, what is said if one is lost."""

import contextlib

import numpy as np
import tensorflow as tf


def is_job(strategy):
    """Returns whether a strategy trains on the workers of a cluster.

    Args:
        strategy: A `tf.distribute.Strategy`.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return False
    # Without a cluster, as without TF_CONFIG, the strategy is that of a single machine.
    resolver = strategy.cluster_resolver
    return resolver is not None and bool(resolver.cluster_spec().jobs)


def is_chief(strategy):
    """Returns whether this process is the worker that writes for all: `chief`, else worker 0."""
    resolver = strategy.cluster_resolver
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0)


def worker_count(strategy):
    """Returns how many workers train."""
    cluster = strategy.cluster_resolver.cluster_spec()
    return sum(cluster.num_tasks(job) for job in ("chief", "worker") if job in cluster.jobs)


def name_of(strategy):
    """Returns what this worker is called in `TF_CONFIG`, as "worker 1"."""
    return f"{strategy.cluster_resolver.task_type} {strategy.cluster_resolver.task_id}"


def bytes_of_chief(strategy, content):
    """Returns the chief's bytes on every worker, which all have to ask for them.

    Args:
        strategy: The job's strategy.
        content: On the chief the bytes; on the others whatever.
    """
    mine = np.frombuffer(content if is_chief(strategy) else b"", "uint8")
    length = int(_of_first_replica(strategy, np.int64(mine.size)))
    padded = np.zeros(-(-length // 8) * 8, "uint8")
    padded[: mine.size] = mine
    # As int64, which every implementation of the collectives takes; bytes none does.
    return _of_first_replica(strategy, padded.view("int64")).tobytes()[:length]


def _of_first_replica(strategy, array):
    """Returns the array of the first replica, which is the chief's, on every worker."""
    return _sum(strategy, tf.constant(array), first_only=True).numpy()


@tf.function(reduce_retracing=True)
def _sum(strategy, value, first_only=False):
    """Returns the sum of the replicas' values, or that of the first one alone."""

    def mine():
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        return value if number == 0 or not first_only else tf.zeros_like(value)

    return strategy.reduce("SUM", strategy.run(mine), axis=None)


@contextlib.contextmanager
def refused_together(strategy):
    """Lets all workers refuse what one of them refuses, so that none waits for it in vain.

    Args:
        strategy: Any `tf.distribute.Strategy`; without a cluster this does nothing.

    Raises:
        RuntimeError: If another worker refused, and this one had no reason to.
    """
    if not is_job(strategy):
        yield
        return
    refusal = None
    try:
        yield
    except (TypeError, ValueError) as err:
        refusal = err
    refusals = int(_sum(strategy, tf.constant(0 if refusal is None else 1, tf.int64)))
    if refusal is not None:
        raise refusal
    if refusals:
        raise RuntimeError(
            "Expected a first batch that all workers can train on. Received one that another "
            "worker refused. Hint: that worker's log says why."
        )


@contextlib.contextmanager
def lost_workers_named(strategy):
    """Says what is to be done where TensorFlow says that a connection is unavailable.

    Args:
        strategy: The job's strategy.

    Raises:
        RuntimeError: If another worker has ended or cannot be reached.
    """
    try:
        yield
    except tf.errors.UnavailableError as err:
        raise RuntimeError(
            f"Expected all {worker_count(strategy)} workers to stay. Received the loss of one, as "
            f"{name_of(strategy)} sees it. Hint: end this process and start all workers again; "
            "with keras.callbacks.BackupAndRestore they go on after the last whole epoch."
        ) from err
