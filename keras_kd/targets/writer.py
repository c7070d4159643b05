"""Writes a teacher's answers: once, shard by shard, and goes on where it was stopped."""

import inspect
import pathlib

import tensorflow as tf

from keras_kd.targets.task import Task


def write(
    teacher,
    dataset,
    path,
    top_k=None,
    dtype="float16",
    features=(),
    temperature=None,
    *,
    key=None,
    outputs="auto",
    preprocessing=None,
    fingerprint=None,
    views=1,
    augment=None,
    seed=0,
    batch_size=256,
    shard_records=8192,
    progress=None,
):
    """Asks a teacher about every example and stores what it says, for `attach`.

    Killed at any moment, the same call goes on behind the last whole shard, and what it leaves is
    byte for byte what an undisturbed call leaves.

    Args:
        teacher: A Keras model, run in inference mode; one of `keras_kd.teachers`; or any callable
            from NumPy arrays to one.
        dataset: Arrays, or a `tf.data.Dataset` of inputs or of tuples that begin with inputs, one
            example each or in batches of no fixed size; it has to give the same inputs each time.
        path: The folder to write.
        top_k: How many classes to keep, with the remaining mass; None for all.
        dtype: `"float16"` or `"float32"`, of all that is stored.
        features: Layer paths whose features are stored too.
        temperature: T of the distribution that is stored, which a loss of that temperature gets
            exactly; None for the outputs as the teacher gives them, or with `top_k` for T = 1.
        key: The entry of the inputs, a dict, that tells examples apart: integers or strings. None
            for the number that `keras_kd.data.with_index` gave or, without one, the hash of the
            inputs' bytes.
        outputs: `"logits"`, `"probabilities"`, or `"auto"` to look at a model's last layer.
        preprocessing: None, or a callable from the inputs to the teacher's.
        fingerprint: For a teacher that has none: text that changes when the teacher does.
        views: How many augmented views of each example to store.
        augment: None, or a callable `(x, seed) -> x` on one example, with `seed` int64 of shape
            [2] for `tf.image.stateless_*` and the like. Each view's seed is stored.
        seed: What the seeds of the views are drawn from.
        batch_size: Records that the teacher is asked for at once.
        shard_records: Records a shard, rounded up to whole batches of whole examples; as many are
            lost at most when the writer is killed.
        progress: Whether to show it; None for where stderr is a terminal.

    Returns:
        The `Manifest`.

    Raises:
        ValueError: If an option is out of range, the dataset gives other inputs each time it is
            read, an answer is not finite in `dtype`, or `path` holds answers to another task.
        OSError: If the disk is full: the message says so, and all whole shards stay.

    Example:
        >>> keras_kd.targets.write(teacher, x_train, "targets", top_k=5)
        >>> x = keras_kd.targets.attach(x_train, "targets")
    """
    task = Task(
        teacher,
        as_dataset(dataset),
        top_k=top_k,
        dtype=dtype,
        features=features,
        temperature=temperature,
        key=key,
        outputs=outputs,
        preprocessing=preprocessing,
        fingerprint=fingerprint,
        views=views,
        augment=augment,
        seed=seed,
        batch_size=batch_size,
        shard_records=shard_records,
    )
    return task.write(pathlib.Path(path), progress=progress)


def as_dataset(data):
    """Returns arrays as a dataset of examples; a dataset stays as it is."""
    return data if isinstance(data, tf.data.Dataset) else tf.data.Dataset.from_tensor_slices(data)


def with_defaults(options):
    """Returns the options of a `Task`, with the defaults of `write` for what is not among them.

    Raises:
        TypeError: If one is unknown.
    """
    parameters = inspect.signature(write).parameters.values()
    known = {p.name: p.default for p in parameters if p.default is not p.empty}
    del known["progress"]
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise TypeError(f"Expected options of {sorted(known)}. Received: {unknown}")
    return {**known, **options}
