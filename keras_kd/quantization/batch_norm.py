"""BatchNormalization in training, in one op where TensorFlow has one for it.

Keras 3 takes the moments and normalizes in ops of their own, each of which reads all of the
outputs. With TensorFlow's fused op in their place a step of a small convolutional student took 0.92
of the float student's, with them 1.19 (docs/quantization.md).
"""

import keras
import tensorflow as tf
from keras import ops

# Of the fused op on a GPU (CUDNN_BN_MIN_EPSILON).
_SMALLEST_EPSILON = 1.001e-5


def normalized_by_batch(norm, x):
    """Returns what a `BatchNormalization` gives in training, and moves its averages.

    Args:
        norm: The built layer.
        x: Its inputs, shape [batch, ..., channels].
    """
    if not _is_fused(norm, x):
        return norm(x, training=True)
    x = ops.cast(x, "float32")
    channels = x.shape[-1]
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=norm.gamma if norm.scale else tf.ones(channels),
        offset=norm.beta if norm.center else tf.zeros(channels),
        mean=tf.zeros(0),
        variance=tf.zeros(0),
        epsilon=norm.epsilon,
        is_training=True,
    )
    # Keras keeps the variance of the batch itself; the op estimates that of all there could be.
    count = tf.cast(tf.size(x) // channels, "float32")
    variance = variance * (count - 1.0) / count
    for average, value in ((norm.moving_mean, mean), (norm.moving_variance, variance)):
        average.assign(average * norm.momentum + value * (1.0 - norm.momentum))
    return ops.cast(outputs, norm.compute_dtype)


def _is_fused(norm, x):
    """Whether the op does what the layer does."""
    return (
        type(norm) is keras.layers.BatchNormalization
        and norm.trainable
        and len(x.shape) == 4
        and norm.axis in (-1, 3)
        and norm.epsilon >= _SMALLEST_EPSILON
        and not norm.synchronized
        and not norm.renorm
    )
