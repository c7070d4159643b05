"""Training data whose order can be replayed: a function of seed and epoch.

Stock `fit` shuffles with a state that no checkpoint holds, so a run that was interrupted goes on
with another order. A dataset made here draws order and augmentation from (seed, epoch) alone; the
distiller tells it the epoch, so the resumed run sees what the uninterrupted one saw.
"""

import math
import warnings

import keras
import numpy as np
import tensorflow as tf


def replayable(
    x, y=None, sample_weight=None, *, batch_size, seed, augment=None, shuffle_buffer=None
):
    """Makes a `tf.data.Dataset` whose order and augmentation are functions of seed and epoch.

    Arrays are shuffled as a whole, by a stateless permutation; a dataset in blocks of
    `shuffle_buffer` elements, each by a permutation of its own.

    Args:
        x: An array or a structure of arrays, all of the same length; or an unbatched
            `tf.data.Dataset` that itself gives its elements in one order.
        y: None, or labels of the same length.
        sample_weight: None, or weights of the same length.
        batch_size: Examples a batch; the last batch may be smaller.
        seed: An integer.
        augment: None, or a callable `(x, seed) -> x` on a batch of inputs, where `seed` is an
            integer tensor of shape [2] for `tf.image.stateless_*`, `tf.random.stateless_*` or, as
            `keras.random` takes it, a seed.
        shuffle_buffer: For a dataset: how many elements a block holds.

    Returns:
        A dataset of one epoch for `Distiller.fit`, with the attribute `epoch`, the `tf.Variable`
        that says which. What is derived from it (`.map`, `.take`) has no such attribute.

    Raises:
        ValueError: If lengths differ, or an argument does not go with the kind of data.

    Example:
        >>> data = keras_kd.data.replayable(x_train, y_train, batch_size=64, seed=0)
        >>> distiller.fit(data, epochs=10, callbacks=[keras.callbacks.BackupAndRestore("backup")])
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"Expected batch_size to be a positive integer. Received: {batch_size!r}")
    if isinstance(x, tf.data.Dataset):
        if y is not None or sample_weight is not None:
            raise ValueError("Expected labels and weights inside the dataset. Hint: leave y out.")
        if shuffle_buffer is None:
            raise ValueError("Expected shuffle_buffer= with a dataset. Received: None")
        make, batches = _from_dataset(x, batch_size, shuffle_buffer)
    else:
        if shuffle_buffer is not None:
            raise ValueError(
                "Expected no shuffle_buffer with arrays: they are shuffled as a whole."
            )
        make, batches = _from_arrays(_pack(x, y, sample_weight), batch_size)
    # On the CPU, where the pipeline runs and reads it when an iterator is made.
    with tf.device("CPU:0"):
        epoch = tf.Variable(0, trainable=False, dtype=tf.int64, name="epoch")

    def one_epoch(_):
        pair = tf.stack([tf.constant(seed, tf.int64), epoch])
        dataset = make(pair)
        if augment is not None:
            dataset = dataset.enumerate().map(
                lambda index, batch: _augmented(augment, batch, _fold_in(pair, index)),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
        return dataset

    dataset = tf.data.Dataset.range(1).flat_map(one_epoch)
    if batches is not None:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(batches))
    options = tf.data.Options()
    options.deterministic = True
    dataset = dataset.prefetch(tf.data.AUTOTUNE).with_options(options)
    dataset.epoch = epoch
    return dataset


EXAMPLE_INDEX, INPUTS, STORED = "example_index", "inputs", "stored_answers"


def with_index(x):
    """Numbers the examples, for losses that remember something of each of them.

    Args:
        x: An array, a dict of arrays, or an unbatched `tf.data.Dataset` of inputs or of tuples that
            begin with inputs. Its order is what the numbers mean, so it must not be shuffled yet.

    Returns:
        A dict of the inputs (under `"inputs"` if they are no dict) and `"example_index"`, int64 of
        shape [examples]; of a dataset one whose inputs are such dicts. `Distiller` takes the index
        out again, so that neither model sees it.

    Example:
        >>> x = keras_kd.data.with_index(x_train)
        >>> data = keras_kd.data.replayable(x, y_train, batch_size=64, seed=0)
    """
    if not isinstance(x, tf.data.Dataset):
        return _numbered(x, np.arange(len(keras.tree.flatten(x)[0]), dtype="int64"))

    def number(index, element):
        if isinstance(element, tuple):
            return (_numbered(element[0], index), *element[1:])
        return _numbered(element, index)

    return x.enumerate().map(number, num_parallel_calls=tf.data.AUTOTUNE)


def split_index(x):
    """Returns the inputs without their numbers, and the numbers, or None where there are none.

    Args:
        x: Inputs of a batch, as `with_index` made them or not.
    """
    if not (isinstance(x, dict) and EXAMPLE_INDEX in x):
        return x, None
    inputs = {name: value for name, value in x.items() if name != EXAMPLE_INDEX}
    return inputs[INPUTS] if inputs.keys() == {INPUTS} else inputs, x[EXAMPLE_INDEX]


def split_stored(x):
    """Returns the inputs without the stored answers of a teacher, and these; None without any.

    Args:
        x: Inputs of a batch, as `keras_kd.targets.attach` made them or not.
    """
    if not (isinstance(x, dict) and STORED in x):
        return x, None
    inputs = {name: value for name, value in x.items() if name != STORED}
    return inputs[INPUTS] if inputs.keys() == {INPUTS} else inputs, x[STORED]


def is_replayable(x):
    """Returns whether `x` was made by `replayable`."""
    return isinstance(x, tf.data.Dataset) and hasattr(x, "epoch")


def why_not_replayable(x, shuffle):
    """Returns why the order of `fit`'s data cannot be replayed; None if it can.

    Args:
        x: What `fit` got as `x`.
        shuffle: What it got as `shuffle`.
    """
    if is_replayable(x):
        return None
    if isinstance(x, tf.data.Dataset):
        kind = _random_stage(x)
        return f"the tf.data pipeline holds {kind}" if kind else None
    if isinstance(x, keras.utils.PyDataset):
        return "fit() shuffles the batches of the PyDataset" if shuffle else None
    if hasattr(x, "__array__") or keras.tree.is_nested(x):
        return "fit() shuffles the arrays" if shuffle else None
    return f"a {type(x).__name__} cannot be asked for its order"


def warn_if_not_replayable(x, shuffle, callbacks):
    """Warns if a run that is backed up could not be resumed on the data that it would have seen.

    Args:
        x: What `fit` got as `x`.
        shuffle: What it got as `shuffle`.
        callbacks: What it got as `callbacks`.
    """
    given = getattr(callbacks, "callbacks", None) or keras.tree.flatten(callbacks or [])
    if not any(isinstance(entry, keras.callbacks.BackupAndRestore) for entry in given):
        return
    reason = why_not_replayable(x, shuffle)
    if reason is not None:
        warnings.warn(
            f"A resumed run will see its data in another order: {reason}. "
            "Hint: keras_kd.data.replayable() gives data whose order can be replayed.",
            stacklevel=4,
        )


def with_epoch_told(callbacks, x):
    """Returns `fit`'s callbacks, with one that tells a replayable dataset which epoch begins.

    Args:
        callbacks: What `fit` got as `callbacks`.
        x: What it got as `x`.
    """
    given = getattr(callbacks, "callbacks", callbacks)
    if not is_replayable(x):
        return callbacks
    return [_TellEpoch(x.epoch), *keras.tree.flatten(given or [])]


class _TellEpoch(keras.callbacks.Callback):
    """Tells a replayable dataset which epoch begins."""

    def __init__(self, epoch):
        super().__init__()
        self._epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch.assign(epoch)


def _pack(x, y, sample_weight):
    if sample_weight is not None:
        return (x, y, sample_weight)
    return (x,) if y is None else (x, y)


def _from_arrays(arrays, batch_size):
    lengths = {len(array) for array in keras.tree.flatten(arrays) if array is not None}
    if len(lengths) != 1:
        raise ValueError(f"Expected arrays of one length. Received lengths: {sorted(lengths)}")
    (examples,) = lengths
    tensors = keras.tree.map_structure(
        lambda array: None if array is None else tf.convert_to_tensor(array), arrays
    )

    def make(pair):
        order = tf.random.experimental.stateless_shuffle(tf.range(examples), seed=pair)
        return (
            tf.data.Dataset.from_tensor_slices(order)
            .batch(batch_size)
            .map(
                lambda index: keras.tree.map_structure(
                    lambda tensor: None if tensor is None else tf.gather(tensor, index), tensors
                ),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
        )

    return make, math.ceil(examples / batch_size)


def _from_dataset(dataset, batch_size, shuffle_buffer):
    count = int(dataset.cardinality())

    # `Dataset.shuffle` mixes the process's global seed into its own; a stateless permutation of
    # each block does not.
    def make(pair):
        def permuted(index, block):
            size = tf.shape(keras.tree.flatten(block)[0])[0]
            order = tf.random.experimental.stateless_shuffle(
                tf.range(size), seed=_fold_in(pair, index)
            )
            return keras.tree.map_structure(lambda tensor: tf.gather(tensor, order), block)

        blocks = dataset.batch(shuffle_buffer).enumerate()
        return blocks.map(permuted, num_parallel_calls=tf.data.AUTOTUNE).rebatch(batch_size)

    return make, math.ceil(count / batch_size) if count >= 0 else None


def _fold_in(pair, index):
    return tf.random.experimental.stateless_fold_in(pair, index)


def _augmented(augment, batch, seed):
    if not isinstance(batch, tuple):
        return _augmented_inputs(augment, batch, seed)
    return (_augmented_inputs(augment, batch[0], seed), *batch[1:])


def _augmented_inputs(augment, x, seed):
    if isinstance(x, dict) and STORED in x:
        raise ValueError(
            "Expected no augment= with stored answers, which are those to the inputs as they are. "
            "Hint: keras_kd.targets.write(..., augment=, views=) stores answers to views."
        )
    inputs, index = split_index(x)
    augmented = augment(inputs, seed)
    return augmented if index is None else _numbered(augmented, index)


def _numbered(x, index):
    return {**(x if isinstance(x, dict) else {INPUTS: x}), EXAMPLE_INDEX: index}


def stages(dataset):
    """Yields the names of a pipeline's stages, the last one first, such as "Shuffle".

    `_inputs` is what tf.data itself walks; tests/test_data.py fails when it moves.
    """
    yield type(dataset).__name__.strip("_").removesuffix("Dataset")
    for source in dataset._inputs():
        yield from stages(source)


def _random_stage(dataset):
    """Returns the name of the last shuffling or sampling stage of a pipeline, None without one."""
    kinds = ("Shuffle", "Random", "Sample", "Generator")
    return next((name for name in stages(dataset) if any(kind in name for kind in kinds)), None)
