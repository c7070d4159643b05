"""A small teacher and its examples, the same in every process: for the tests in this folder."""

import keras
import numpy as np

EXAMPLES, FEATURES, CLASSES = 300, 6, 10
# Seven shards of two batches and one of a part of a batch.
OPTIONS = {"batch_size": 20, "shard_records": 40, "progress": False}


def inputs(count=EXAMPLES):
    """Returns float32 inputs, shape [count, FEATURES]."""
    return np.random.default_rng(0).normal(size=(count, FEATURES)).astype("float32")


def teacher(*, activation=None, seed=3, classes=CLASSES):
    """Returns a trained-looking model with the layer "hidden"."""
    keras.utils.set_random_seed(seed)
    x = keras.Input((FEATURES,))
    hidden = keras.layers.Dense(5, activation="tanh", name="hidden")(x)
    outputs = keras.layers.Dense(
        classes, activation=activation, kernel_initializer="random_normal", name="last"
    )(hidden)
    return keras.Model(x, outputs, name="teacher")


def examples(start, stop):
    """Returns the inputs of a range of examples."""
    return inputs()[start:stop]


def content(folder):
    """Returns the bytes of every file in a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
