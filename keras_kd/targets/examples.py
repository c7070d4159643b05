"""The examples of a dataset: their keys, the hashes of their inputs, their augmented views."""

import keras
import tensorflow as tf

from keras_kd.data import EXAMPLE_INDEX, INPUTS, STORED, split_index


def inputs_spec(x):
    """Returns path, shape and dtype of each input of an example.

    Args:
        x: The inputs of one example, or of a batch without its first axis, as `tf.TensorSpec`.

    Raises:
        ValueError: If a shape is not fixed.
    """
    found = []
    for path, spec in zip(_paths(x), keras.tree.flatten(x), strict=True):
        if not isinstance(spec, tf.TensorSpec) or not spec.shape.is_fully_defined():
            raise ValueError(
                f"Expected examples of one fixed shape. Received inputs {path!r} of {spec}. Hint: "
                "pad or crop them to one shape."
            )
        found.append((path, tuple(spec.shape), spec.dtype.name))
    return tuple(found)


def is_batched(x):
    """Returns whether inputs are batches: the first axis of all of them is of no fixed length.

    Args:
        x: The inputs of a dataset's elements as `tf.TensorSpec`.
    """
    flat = keras.tree.flatten(x)
    return all(spec.shape.rank and spec.shape[0] is None for spec in flat)


def without_batch(x):
    """Returns the specs of one example of a batch."""
    return keras.tree.map_structure(lambda spec: tf.TensorSpec(spec.shape[1:], spec.dtype), x)


def inputs_of(element):
    """Returns the inputs of a dataset's element: the first of a tuple, or all of it."""
    return element[0] if isinstance(element, tuple) else element


def split_key(x, key):
    """Returns the inputs as a model takes them, and what tells the examples apart.

    Args:
        x: Inputs of a batch, with answers of other teachers or not.
        key: The name of an entry of `x`; "" for none.

    Returns:
        The inputs without that entry, number and answers, and the entry; None without one.

    Raises:
        ValueError: If there is no such entry.
    """
    if isinstance(x, dict):
        x = {name: value for name, value in x.items() if name != STORED}
    if not key:
        return _unwrapped(split_index(x)[0]), None
    if not isinstance(x, dict) or key not in x:
        names = list(x) if isinstance(x, dict) else "inputs that are no dict"
        hint = "keras_kd.data.with_index(x) numbers the examples." if key == EXAMPLE_INDEX else ""
        raise ValueError(
            f"Expected an entry {key!r} in the inputs, which tells the examples apart. Received: "
            f"{names}. Hint: {hint or 'x is a dict that holds it.'}"
        )
    inputs = {name: value for name, value in x.items() if name not in (key, EXAMPLE_INDEX)}
    return _unwrapped(inputs), x[key]


def hashes(x):
    """Returns FarmHash's Fingerprint64 of each example's bytes.

    It is stable over versions and machines (https://github.com/google/farmhash), and computed
    inside the graph. Of n different examples two share a hash with a probability of n^2 / 2^65:
    4e-8 for ImageNet's 1.3 million.

    Args:
        x: A tensor, or a structure of tensors, of shape [batch, ...].

    Returns:
        int64, shape [batch].
    """
    found = [tf.fingerprint(leaf) for leaf in keras.tree.flatten(x)]
    return tf.bitcast(found[0] if len(found) == 1 else tf.fingerprint(tf.concat(found, 1)), "int64")


def keys_of(x, key):
    """Returns the inputs as a model takes them, and a key for each example.

    Args:
        x: Inputs of a batch.
        key: The name of an entry of `x`, integers or strings of shape [batch]; "" for the hash of
            the inputs.

    Returns:
        The inputs, and int64 of shape [batch].

    Raises:
        ValueError: If the entry is missing or neither integers nor strings.
    """
    inputs, given = split_key(x, key)
    if given is None:
        return inputs, hashes(inputs)
    given = tf.convert_to_tensor(given)
    if given.shape.rank != 1 or not (given.dtype.is_integer or given.dtype == tf.string):
        raise ValueError(
            f"Expected {key!r} to hold an integer or a string for each example. Received: "
            f"{given.dtype.name} of shape {given.shape[1:]} an example."
        )
    return inputs, hashes(given) if given.dtype == tf.string else tf.cast(given, "int64")


def view_seeds(seed, keys, view):
    """Returns the seed of a view of each example, a function of its key.

    Args:
        seed: An integer.
        keys: int64, shape [batch].
        view: Numbers of the views, int64 of shape [batch].

    Returns:
        int64, shape [batch, 2].
    """

    def one(entry):
        key, number = entry
        pair = tf.random.experimental.stateless_fold_in(tf.constant([seed, 0], "int64"), key)
        return tf.random.experimental.stateless_fold_in(pair, number)

    return tf.map_fn(one, (keys, view), fn_output_signature=tf.TensorSpec((2,), tf.int64))


def augmented(augment, x, seeds):
    """Returns each example's view by its own seed.

    Args:
        augment: A callable `(x, seed) -> x` on one example; `seed` is int64 of shape [2].
        x: Inputs, shape [batch, ...].
        seeds: int64, shape [batch, 2].
    """
    signature = keras.tree.map_structure(
        lambda t: tf.TensorSpec(t.shape, t.dtype),
        tf.function(augment)
        .get_concrete_function(
            keras.tree.map_structure(lambda t: tf.TensorSpec(t.shape[1:], t.dtype), x),
            tf.TensorSpec((2,), tf.int64),
        )
        .structured_outputs,
    )
    return tf.map_fn(lambda entry: augment(*entry), (x, seeds), fn_output_signature=signature)


def records(dataset, manifest_key, *, views, augment, seed, batch_size):
    """Returns what a teacher is asked, in batches, in the order in which it is stored.

    All views of an example stand one after another.

    Args:
        dataset: Unbatched or batched inputs, or tuples that begin with inputs.
        manifest_key: The entry that tells examples apart; "" for the hash of the inputs.
        views: How many views an example has.
        augment: None, or the callable that makes a view of one example from a seed.
        seed: An integer, for the seeds of the views.
        batch_size: Records a batch.

    Returns:
        A dataset of dicts: `inputs`, `key`, `input_hash` and, with `augment`, `seed`.
    """
    x_only = dataset.map(lambda x, *rest: x, num_parallel_calls=tf.data.AUTOTUNE)
    batched = is_batched(x_only.element_spec)
    if views > 1:
        single = x_only.unbatch() if batched else x_only
        numbers = tf.data.Dataset.range(views)
        pairs = single.flat_map(lambda x: numbers.map(lambda view: (x, view))).batch(batch_size)
    else:
        whole = x_only.rebatch(batch_size) if batched else x_only.batch(batch_size)
        pairs = whole.map(lambda x: (x, tf.zeros(tf.shape(keras.tree.flatten(x)[0])[:1], "int64")))

    def asked(x, view):
        inputs, keys = keys_of(x, manifest_key)
        found = {"key": keys}
        if augment is not None:
            found["seed"] = view_seeds(seed, keys, view)
            inputs = augmented(augment, inputs, found["seed"])
        if augment is not None or manifest_key:
            found["input_hash"] = hashes(inputs)
        return {"inputs": inputs, **found}

    options = tf.data.Options()
    options.deterministic = True
    return (
        pairs.map(asked, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(options)
    )


def _unwrapped(x):
    """Returns inputs that `with_index` or `attach` put into a dict of their own without it."""
    return x[INPUTS] if isinstance(x, dict) and x.keys() == {INPUTS} else x


def _paths(x):
    """Returns a name for each leaf of a structure, in the order of `keras.tree.flatten`."""
    if isinstance(x, dict):
        # In the order of the sorted keys, as the tree is flattened.
        inner = [(str(name), x[name]) for name in sorted(x)]
    elif isinstance(x, list | tuple):
        inner = [(str(index), value) for index, value in enumerate(x)]
    else:
        return [""]
    return [f"{name}/{rest}".strip("/") for name, value in inner for rest in _paths(value)]
