"""Tiny models, data and NumPy formulas that the tests of the distiller share."""

import keras
import numpy as np
import tensorflow as tf

CLASSES = 4
FEATURES = 6
IMAGE = (8, 8, 2)

# A value goes through some dozen float32 operations of relative error 2**-24 = 6e-8 each and sums
# of at most a few hundred terms: 1e-5 is a good ten times what they add up to.
RTOL = 1e-5


# -- models ----------------------------------------------------------------------------------------


def wide():
    """Large initial logits, so that a wrong temperature, head or clip shows."""
    return keras.initializers.RandomNormal(stddev=1.0)


def mlp(
    name,
    width=8,
    *,
    units=CLASSES,
    activation=None,
    features=FEATURES,
    first=None,
    **hidden_options,
):
    """Dense "hidden" and dense "outputs"; before them the layer `first`, if there is one."""
    inputs = x = keras.Input((features,))
    if first is not None:
        x = first(x)
    hidden = keras.layers.Dense(width, activation="tanh", name="hidden", **hidden_options)(x)
    outputs = keras.layers.Dense(
        units, activation=activation, kernel_initializer=wide(), name="outputs"
    )(hidden)
    return keras.Model(inputs, outputs, name=name)


def conv_net(
    name, channels=4, *, norm=False, dropout=0.0, flip=False, first=None, shape=IMAGE, **options
):
    """Convolution "map" of the input's size, then classes; random layers on request."""
    inputs = x = keras.Input(shape)
    if first is not None:
        x = first(x)
    if flip:
        x = keras.layers.RandomFlip("horizontal", name="flip")(x)
    x = keras.layers.Conv2D(channels, 3, padding="same", name="map", **options)(x)
    if norm:
        x = keras.layers.BatchNormalization(momentum=0.5, name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(keras.layers.ReLU(name="relu")(x))
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    outputs = keras.layers.Dense(CLASSES, kernel_initializer=wide(), name="outputs")(x)
    return keras.Model(inputs, outputs, name=name)


class Counting(keras.layers.Layer):
    """Hands on its input and counts how often it was executed, in graph and eager mode alike.

    `executed` is a `tf.Variable` that Keras does not know, so it is no state of the model; nothing
    is counted when only a shape is inferred or a function traced.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.__dict__["executed"] = tf.Variable(0, trainable=False)

    def call(self, inputs):
        self.executed.assign_add(1)
        return inputs

    def taken(self):
        """Returns the count, and starts again from 0."""
        count = int(self.executed)
        self.executed.assign(0)
        return count


# -- data ------------------------------------------------------------------------------------------


def vectors(n=20, features=FEATURES, seed=0):
    """Returns (x, integer labels)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, features)).astype("float32"), rng.integers(0, CLASSES, size=n)


def images(n=12, shape=IMAGE, seed=0):
    """Returns (x, integer labels)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, *shape)).astype("float32"), rng.integers(0, CLASSES, size=n)


def batches(n, size):
    """Returns the slices that `fit` makes of `n` examples without shuffling."""
    return [slice(start, start + size) for start in range(0, n, size)]


def task_loss(**options):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


# -- formulas in float64 ---------------------------------------------------------------------------


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def soft_target(teacher, student, temperature):
    """T^2 KL(softmax(t / T) || softmax(s / T)) per row, Hinton et al., arXiv:1503.02531."""
    t = log_softmax(np.asarray(teacher, "float64") / temperature)
    s = log_softmax(np.asarray(student, "float64") / temperature)
    return temperature**2 * (np.exp(t) * (t - s)).sum(-1)


def binary_soft_target(teacher, student, temperature):
    """The same for each sigmoid unit, which is a softmax over (logit, 0); the units' mean."""
    t, s = (np.stack([z, np.zeros_like(z)], -1) for z in (teacher, student))
    return soft_target(t, s, temperature).mean(-1)


def cross_entropy(labels, logits):
    return -np.take_along_axis(log_softmax(logits), np.asarray(labels)[..., None], -1)[..., 0]


# -- looking at state ------------------------------------------------------------------------------


def snapshot(*holders):
    """Returns copies of the variables of models, layers and optimizers, by path and position."""
    found = {}
    for holder in holders:
        variables = holder.variables
        if isinstance(holder, keras.Model):
            metrics = {id(variable) for variable in holder.metrics_variables}
            variables = [variable for variable in variables if id(variable) not in metrics]
        for variable in variables:
            found[f"{len(found)} {variable.path}"] = np.array(variable.numpy())
    return found


def assert_same(before, after):
    """Fails unless two snapshots are equal to the last bit."""
    assert before.keys() == after.keys()
    different = [
        name for name in before if not np.array_equal(before[name], after[name], equal_nan=True)
    ]
    assert not different, f"changed: {different}"


def assert_equal(ours, theirs):
    """Fails unless two models of one structure hold the same numbers, whatever they are called."""
    assert_same(dict(enumerate(ours.values())), dict(enumerate(theirs.values())))


def assert_close(ours, theirs, **tolerance):
    """Fails unless two snapshots of equally built models are within a tolerance."""
    assert len(ours) == len(theirs)
    for (name, a), b in zip(ours.items(), theirs.values(), strict=True):
        np.testing.assert_allclose(a, b, err_msg=name, **tolerance)
