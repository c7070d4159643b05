"""Connectors: convolution and batch normalization between the student's feature and the loss."""

import keras
from keras import layers

from keras_kd.projectors import make_projector


def make_connector(student_shape, teacher_shape, name, *, activation=None):
    """Makes a 1x1 convolution without bias and a batch normalization, after any change of size.

    Args:
        student_shape: Shape of the student's feature, [batch, ...positions, channels].
        teacher_shape: Shape to be reached.
        name: Name of the connector.
        activation: Of its output; None for none.

    Returns:
        A built `keras.Sequential`.

    Raises:
        ValueError: If no connector leads from the one shape to the other.
    """
    student_shape, teacher_shape = tuple(student_shape), tuple(teacher_shape)
    resize = make_projector(student_shape, (*teacher_shape[:-1], student_shape[-1]), "resize")
    steps = [] if resize is None else [resize]
    # A dense layer is a 1x1 convolution of a feature of any rank. He et al., by its outputs.
    initializer = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
    steps.append(
        layers.Dense(
            teacher_shape[-1], use_bias=False, kernel_initializer=initializer, name="convolution"
        )
    )
    return finished(steps, student_shape, name, activation)


def finished(steps, student_shape, name, activation=None):
    """Returns the steps, batch normalization and the activation, built as a `keras.Sequential`."""
    steps = [*steps, layers.BatchNormalization(name="norm")]
    if activation is not None:
        steps.append(layers.Activation(activation, name="activation"))
    connector = keras.Sequential(steps, name=name)
    connector.build(student_shape)
    return connector


def halved(index, count):
    """Returns the weight of the pair `index` of `count`: 1 for the last, halved for each before."""
    return 2.0 ** (index + 1 - count)
