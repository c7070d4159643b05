"""Joins stored answers to the examples that they were given to."""

import keras
import numpy as np
import tensorflow as tf

from keras_kd.data import EXAMPLE_INDEX, INPUTS, STORED
from keras_kd.targets import examples
from keras_kd.targets.asking import function_name
from keras_kd.targets.manifest import SEED
from keras_kd.targets.stored import Stored
from keras_kd.teachers.model import fingerprint

# Examples that are looked up at once where they do not come in batches: the look-up costs some 50
# microseconds a call.
_AT_ONCE = 256


def attach(data, path, *, augment=None, teacher=None, verify=True):
    """Joins the answers of `write` to the inputs, by key and in whatever order they come.

    Args:
        data: Inputs: arrays or a dict of arrays; or a `tf.data.Dataset` of inputs or of tuples that
            begin with inputs, shuffled, repeated, sharded, in batches or not. It is quickest in
            batches.
        path: The folder that `write` wrote.
        augment: The callable that `write` got; for a dataset. The dataset then runs through all
            views, those of number 0 first: with V views an epoch of it is V epochs.
        teacher: None, or the Keras model that is to have given the answers.
        verify: Whether to compute the checksum of every shard first.

    Returns:
        The same, with the answers beside the inputs under `keras_kd.data.STORED`, where
        `StoredTeacher` reads them; `Distiller` takes them out, so that no model sees them. Those of
        several teachers can be attached one after another. The entry that was the key is left out,
        but for the number of `keras_kd.data.with_index`.

    Raises:
        FileNotFoundError: If there are no answers.
        ValueError: If answers are incomplete or damaged, of another teacher, to inputs of another
            form or augmented otherwise; when the data is read, if there is none for an example,
            naming the first.

    Example:
        >>> data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(10_000).batch(64)
        >>> data = keras_kd.targets.attach(data, "targets")
    """
    stored = Stored(path, verify=verify)
    _check_teacher(stored.manifest, teacher)
    _check_augment(stored.manifest, augment, path)
    if not isinstance(data, tf.data.Dataset):
        if augment is not None:
            raise ValueError(
                "Expected a tf.data.Dataset with augment=: views are made while it is read. "
                "Received arrays. Hint: tf.data.Dataset.from_tensor_slices((x, y))."
            )
        return _to_arrays(data, stored)
    spec = examples.inputs_of(data.element_spec)
    batched = _check_inputs(spec, stored.manifest, path)
    batches = data if batched else data.batch(_AT_ONCE)
    views = [
        batches.map(
            lambda *element, view=view: _joined(element, stored, augment, view),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        for view in range(stored.manifest.views)
    ]
    joined = views[0]
    for view in views[1:]:
        joined = joined.concatenate(view)
    if batched:
        return joined
    count = int(data.cardinality())
    joined = joined.unbatch()
    if count >= 0:
        joined = joined.apply(tf.data.experimental.assert_cardinality(count * len(views)))
    return joined


def _joined(element, stored, augment, view):
    """Returns the element of a dataset with the answers in its inputs."""
    x, *rest = element
    manifest = stored.manifest
    inputs, keys = examples.keys_of(x, manifest.key)
    if augment is not None:
        seeds = _looked_up(stored, keys, None, view, [SEED])[SEED]
        inputs = examples.augmented(augment, inputs, seeds)
    hashes = examples.hashes(inputs) if manifest.hashes_apart else None
    names = [name for name, *_ in manifest.answers.fields()]
    found = _looked_up(stored, keys, hashes, view, names)
    joined = _beside(x, inputs, {manifest.read_as: found})
    return (joined, *rest) if rest else joined


def _beside(x, inputs, answers):
    """Returns inputs with answers; the number and the other answers that were in `x` stay."""
    joined = dict(inputs) if isinstance(inputs, dict) else {INPUTS: inputs}
    given = x if isinstance(x, dict) else {}
    if EXAMPLE_INDEX in given:
        joined[EXAMPLE_INDEX] = given[EXAMPLE_INDEX]
    return {**joined, STORED: {**given.get(STORED, {}), **answers}}


def _looked_up(stored, keys, hashes, view, names):
    """Returns fields of the records of a batch, inside the graph."""
    record = stored.manifest.record()
    kinds = [record[name].subdtype or (record[name], ()) for name in names]

    def read(*given):
        found = stored.read(*given, view=view)
        # Of its own memory each: a field of the records is strided.
        return [np.ascontiguousarray(found[name]) for name in names]

    given = [keys] if hashes is None else [keys, hashes]
    values = tf.numpy_function(
        read, given, [tf.as_dtype(kind) for kind, _ in kinds], stateful=False
    )
    return {
        name: tf.ensure_shape(value, (keys.shape[0], *shape))
        for name, value, (_, shape) in zip(names, values, kinds, strict=True)
    }


def _to_arrays(x, stored):
    """Returns arrays with the answers beside them."""
    spec = keras.tree.map_structure(
        lambda a: tf.TensorSpec((None, *np.shape(a)[1:]), np.asarray(a).dtype), x
    )
    _check_inputs(spec, stored.manifest, stored.path)
    count = len(keras.tree.flatten(x)[0])
    keys, hashes = [], []
    for start in range(0, count, _AT_ONCE):
        part = keras.tree.map_structure(lambda a, s=start: a[s : s + _AT_ONCE], x)
        inputs, found = examples.keys_of(part, stored.manifest.key)
        keys.append(found)
        hashes.append(examples.hashes(inputs) if stored.manifest.hashes_apart else found)
    together = np.concatenate(hashes) if stored.manifest.hashes_apart else None
    records = stored.read(np.concatenate(keys), together)
    names = [name for name, *_ in stored.manifest.answers.fields()]
    answers = {name: np.ascontiguousarray(records[name]) for name in names}
    inputs, _ = examples.split_key(x, stored.manifest.key)
    return _beside(x, inputs, {stored.manifest.read_as: answers})


def _check_teacher(manifest, teacher):
    if teacher is not None and fingerprint(teacher) != manifest.fingerprint:
        raise ValueError(
            f"Expected the answers of teacher '{teacher.name}', of fingerprint "
            f"{fingerprint(teacher)[:12]}. Received those of '{manifest.teacher}', of "
            f"{manifest.fingerprint[:12]}. Hint: write the answers of this teacher."
        )


def _check_augment(manifest, augment, path):
    if augment is not None and not manifest.augment:
        raise ValueError(
            f"Expected no augment=: the answers in '{path}' are those to the inputs as they are, "
            "and say nothing of a view made at random. Hint: targets.write(..., augment=, views=) "
            "stores answers to views that can be made again."
        )
    if manifest.augment and augment is None:
        raise ValueError(
            f"Expected augment={manifest.augment}, by which the views in '{path}' were made. "
            "Received: None"
        )
    if augment is not None and function_name(augment) != manifest.augment:
        raise ValueError(
            f"Expected augment={manifest.augment}, by which the views in '{path}' were made. "
            f"Received: {function_name(augment)}"
        )


def _check_inputs(spec, manifest, path):
    """Refuses inputs of another form; returns whether they come in batches."""
    inputs, _ = examples.split_key(spec, manifest.key)
    batched = examples.is_batched(inputs)
    if not batched:
        flat = keras.tree.flatten(inputs)
        lengths = [len(shape) for _, shape, _ in manifest.inputs]
        # Batches that drop their remainder have a fixed first axis.
        batched = [spec.shape.rank - 1 for spec in flat] == lengths
    found = examples.inputs_spec(examples.without_batch(inputs) if batched else inputs)
    if found != manifest.inputs:
        raise ValueError(
            f"Expected inputs as in '{path}', {_described(manifest.inputs)}. Received: "
            f"{_described(found)}. Hint: attach the answers to the inputs that they were written "
            "for, before scaling or after, but alike."
        )
    return batched


def _described(inputs):
    return ", ".join(f"{name} {dtype}{list(shape)}".strip() for name, shape, dtype in inputs)
