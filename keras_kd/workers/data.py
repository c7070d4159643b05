"""What each worker of a job sees of the data that `fit` and `evaluate` are given."""

import math
import operator

import keras
import tensorflow as tf

from keras_kd.data import is_replayable, replayable, stages

# What Keras takes for None.
BATCH_SIZE = 32


def as_dataset(x, y=None, sample_weight=None, *, batch_size=None, shuffle=False):
    """Returns arrays as a `tf.data.Dataset` of the same order on all workers; the rest as it is.

    Args:
        x: What `fit` got as `x`.
        y: The same, for arrays.
        sample_weight: The same, for arrays.
        batch_size: Examples a batch on all workers together; None for Keras's 32.
        shuffle: Whether to shuffle, by an order of its own in every epoch.

    Returns:
        `(x, y, sample_weight)`; of arrays a dataset and two times None.
    """
    if not _is_arrays(x):
        return x, y, sample_weight
    size = BATCH_SIZE if batch_size is None else batch_size
    if shuffle:
        # Keras would draw the order on each worker for itself, and the workers' shares overlap.
        return replayable(x, y, sample_weight, batch_size=size, seed=0), None, None
    return _in_order((x, y, sample_weight), size), None, None


def split_off(share, x, y, sample_weight):
    """Splits the last part of arrays off, as `validation_split` asks for.

    Args:
        share: That part's share of the examples, in (0, 1).
        x: An array or a structure of arrays.
        y: The same, or None.
        sample_weight: The same, or None.

    Returns:
        Two tuples `(x, y, sample_weight)`: what is left, and what was split off.

    Raises:
        ValueError: If there are no arrays, or nothing is left of one part.
    """
    if not _is_arrays(x):
        raise ValueError(
            f"Expected arrays with validation_split={share}. Received: {type(x).__name__}. Hint: "
            "validation_data= takes a dataset."
        )
    examples = len(keras.tree.flatten(x)[0])
    left = math.floor(examples * (1.0 - share))
    if not 0 < left < examples:
        raise ValueError(
            f"Expected a validation_split that leaves examples on both sides. Received: {share} "
            f"of {examples} examples."
        )
    parts = (x, y, sample_weight)
    return tuple(_rows(parts, slice(left))), tuple(_rows(parts, slice(left, None)))


def for_worker(dataset, strategy):
    """Returns what this worker trains on, where TensorFlow's own division would go wrong.

    TensorFlow fills one worker after the other, so that a last batch of half the size leaves half
    of the workers without an example. Here each has as even a part of every batch as can be, where
    all workers are known to see the same batches: replayable data, and a pipeline whose
    `auto_shard_policy` is DATA, or AUTO over a source in memory. Under OFF, where every worker has
    data of its own, TensorFlow divides each batch into several and Keras counts the undivided ones,
    so that it would end the epoch before the data does. The rest is left to TensorFlow.

    Args:
        dataset: What `fit` got as `x`.
        strategy: The job's strategy.
    """
    if not isinstance(dataset, tf.data.Dataset) or len(strategy.extended.worker_devices) > 1:
        return dataset
    policies = tf.data.experimental.AutoShardPolicy
    policy = dataset.options().experimental_distribute.auto_shard_policy
    workers, batches = strategy.num_replicas_in_sync, int(dataset.cardinality())
    if policy is policies.OFF and batches >= 0:
        parts = dataset.flat_map(
            lambda *batch: tf.data.Dataset.range(workers).map(
                lambda index: _part(_one(batch), index, workers)
            )
        ).apply(tf.data.experimental.assert_cardinality(batches * workers))
        return strategy.distribute_datasets_from_function(lambda _: parts)
    in_memory = policy is policies.AUTO and _is_in_memory(dataset)
    if not (policy is policies.DATA or in_memory or is_replayable(dataset)):
        return dataset

    def of_worker(context):
        index = context.input_pipeline_id
        return dataset.map(lambda *batch: _part(_one(batch), index, workers))

    return strategy.distribute_datasets_from_function(of_worker)


def _in_order(parts, batch_size):
    lengths = {len(array) for array in keras.tree.flatten(parts) if array is not None}
    if len(lengths) != 1:
        raise ValueError(f"Expected arrays of one length. Received lengths: {sorted(lengths)}")
    tensors = keras.tree.map_structure(
        lambda array: None if array is None else tf.convert_to_tensor(array), parts
    )
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return (
        tf.data.Dataset.range(*lengths)
        .batch(batch_size)
        .map(lambda index: _rows(tensors, index))
        .with_options(options)
    )


def _is_arrays(x):
    return hasattr(x, "__array__") or keras.tree.is_nested(x)


def _is_in_memory(dataset):
    """Returns whether a pipeline reads no file, as far as it can be seen through."""
    names = list(stages(dataset))
    # What their functions read cannot be seen.
    opaque = any("Interleave" in name or "FlatMap" in name for name in names)
    # Depth first, so that the last name is a source; a zip or a choice has others before it.
    sources = {"TensorSlice", "Tensor", "Range"}
    branches = any(name in ("Zip", "Concatenate", "Choose") for name in names)
    return not opaque and not branches and names[-1] in sources


def _one(batch):
    """Returns what `Dataset.map` hands on as several arguments as the tuple that it was."""
    return batch if len(batch) > 1 else batch[0]


def _part(batch, index, parts):
    """Returns the `index`-th of `parts` parts of a batch, of sizes that differ by one at most."""
    size = tf.shape(keras.tree.flatten(batch)[0])[0]
    size, index = tf.cast(size, "int64"), tf.cast(index, "int64")
    begin, end = (-(-size * position // parts) for position in (index, index + 1))
    return _rows(batch, slice(begin, end))


def _rows(structure, rows):
    """Returns the same rows, a slice or their numbers, of every array; None stays None."""
    take = tf.gather if tf.is_tensor(rows) else operator.getitem
    return keras.tree.map_structure(lambda a: None if a is None else take(a, rows), structure)
