"""Asks a teacher ahead of the step: its answers travel with the data."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_kd import data as datasets
from keras_kd.losses import Context
from keras_kd.teachers.around import as_teacher

_AT_ONCE = 256


def with_answers(x, answers, *, teacher):
    """Puts a teacher's answers beside the inputs of a batch.

    Args:
        x: Inputs, numbered by `keras_kd.data.with_index` or not, with answers of others or not.
        answers: A dict with `"outputs"`, and `"features"` (a dict) and `"known"` where there are
            any; each of shape [batch, ...].
        teacher: The `Teacher` that is to read them.

    Returns:
        A dict with the answers under `keras_kd.data.STORED`. `Distiller` takes them out again, so
        that no model sees them.
    """
    inputs = x if isinstance(x, dict) else {datasets.INPUTS: x}
    others = inputs.get(datasets.STORED, {})
    return {**inputs, datasets.STORED: {**others, teacher.key: answers}}


def attach(data, teacher, *, y=None, features=(), parallel_calls=1):
    """Asks a teacher ahead of the step, and puts its answers beside the inputs.

    Of arrays all is asked at once, so that it is asked once for all epochs. A dataset asks batch by
    batch while it is read, ahead of the step that trains on the batch before; it is the augmented
    view that the teacher sees. Nothing is written: for that see `keras_kd.targets`.

    Args:
        data: Inputs, arrays of shape [examples, ...]; or a batched `tf.data.Dataset` of inputs or
            of tuples that begin with inputs and labels.
        teacher: A Keras model or a `Teacher`, the one that the distiller has or a member of it.
        y: With arrays: labels, for a teacher that needs them.
        features: Names of the features that losses are going to read.
        parallel_calls: For a dataset: how many batches are asked for at a time. A function beside
            the graph has to be safe to be called by so many threads.

    Returns:
        The same, with the answers in the inputs: for `Distiller.fit`, `evaluate` and
        `data.replayable`.

    Raises:
        ValueError: If what the teacher says depends on the step.

    Example:
        >>> teacher = keras_kd.teachers.Estimator(forest)
        >>> distiller = keras_kd.Distiller(teacher, student, keras_kd.LogitsDistillation(2.0))
        >>> distiller.fit(keras_kd.teachers.attach(x_train, teacher), y_train, epochs=20)
    """
    teacher = as_teacher(teacher)
    if not teacher.may_be_attached:
        raise ValueError(
            f"Expected a teacher whose answers depend on the data alone. Received: "
            f"'{teacher.name}', which says something else in every step."
        )
    connected = teacher.connect(paths=tuple(features), student=None)

    def asked(x, labels):
        inputs, answers = datasets.split_stored(x)
        inputs, index = datasets.split_index(inputs)
        answer = connected(Context(inputs=inputs, labels=labels, index=index, answers=answers))
        found = {"outputs": answer.outputs, "features": answer.features}
        return found if answer.known is None else {**found, "known": answer.known}

    if not isinstance(data, tf.data.Dataset):
        return with_answers(data, _in_batches(asked, data, y), teacher=connected)

    def with_asked(x, *rest):
        joined = with_answers(x, asked(x, rest[0] if rest else None), teacher=connected)
        return (joined, *rest) if rest else joined

    attached = data.map(with_asked, num_parallel_calls=parallel_calls, deterministic=True)
    attached = attached.prefetch(tf.data.AUTOTUNE)
    if datasets.is_replayable(data):
        attached.epoch = data.epoch
    return attached


def _in_batches(asked, x, y):
    """Returns the answers to arrays, as arrays."""
    pieces = []
    for start in range(0, len(keras.tree.flatten(x)[0]), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        found = asked(
            *keras.tree.map_structure(
                lambda array, part=part: None if array is None else array[part], (x, y)
            )
        )
        pieces.append(keras.tree.map_structure(ops.convert_to_numpy, found))
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *pieces)
