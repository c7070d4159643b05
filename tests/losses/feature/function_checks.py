"""What the tests of the functions on features share."""

import numpy as np
import tensorflow as tf

# Some dozen float32 operations of relative error 2**-24 = 6e-8 each, on sums of a few hundred
# terms: what they add up to stays ten times below.
RTOL, ATOL = 1e-4, 1e-7


def maps(rng, *shapes):
    """Returns normal float32 arrays of the given shapes."""
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


def value_and_gradient(function, student):
    """Returns the values of each example, and the gradient of their mean, as NumPy arrays."""
    student = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(student)
        values = function(student)
        mean = tf.reduce_mean(values)
    return values.numpy(), tape.gradient(mean, student).numpy()


def check_safe(function, teacher, student):
    """Fails unless a loss is safe on all finite input, and never teaches the teacher.

    Args:
        function: Called with `(teacher, student)`; returns shape [batch].
        teacher: A float32 array.
        student: A float32 array.
    """
    batch = len(student)
    constant = np.full_like(student, 2.5)
    for extreme in (student * 1e4, -student * 1e4, constant, np.zeros_like(student)):
        values, gradient = value_and_gradient(lambda s: function(tf.constant(teacher), s), extreme)
        assert values.shape == (batch,)
        assert np.isfinite(values).all()
        assert np.isfinite(gradient).all()
    values, gradient = value_and_gradient(
        lambda s: function(tf.zeros_like(teacher), s), np.zeros_like(student)
    )
    assert np.isfinite(values).all()
    assert np.isfinite(gradient).all()
    half = function(tf.cast(teacher, "float16"), tf.cast(student, "float16"))
    assert half.dtype == tf.float32
    watched = tf.Variable(teacher)
    with tf.GradientTape() as tape:
        values = function(watched, tf.constant(student))
    assert tape.gradient(values, watched) is None


def check_compiled(function, teacher, student):
    """Fails unless XLA, with a batch of unknown size, gives what eager execution does."""
    signature = [
        tf.TensorSpec((None, *array.shape[1:]), tf.float32) for array in (teacher, student)
    ]
    compiled = tf.function(function, input_signature=signature, jit_compile=True)
    eager = function(tf.constant(teacher), tf.constant(student))
    np.testing.assert_allclose(compiled(teacher, student), eager, rtol=RTOL, atol=1e-6)


def adaptive_pool(array, size, reduce=np.mean):
    """Adaptive pooling of [batch, height, width, channels] by its definition, window by window."""
    batch, height, width, channels = array.shape
    pooled = np.zeros((batch, *size, channels))
    for i in range(size[0]):
        rows = slice(i * height // size[0], -(-(i + 1) * height // size[0]))
        for j in range(size[1]):
            columns = slice(j * width // size[1], -(-(j + 1) * width // size[1]))
            pooled[:, i, j] = reduce(np.float64(array[:, rows, columns]), axis=(1, 2))
    return pooled


def normalized(array, axis):
    """L2-normalised in float64; zeros stay zeros."""
    norm = np.sqrt(np.square(np.float64(array)).sum(axis=axis, keepdims=True))
    return array / np.where(norm > 0, norm, 1.0)
