"""A convolutional net over time, for windows of sensor readings."""

import keras

from keras_kd.students import blocks

# Filters and kernel size: arXiv:1611.06455, section II.B.
_BLOCKS = [(128, 8), (256, 5), (128, 3)]


def sensor_cnn(input_shape, classes, *, width=0.25, activation="softmax", name="sensor_cnn"):
    """The fully convolutional net for time series, at a quarter of its width.

    Three convolutions over time, of 128, 256 and 128 filters and kernels 8, 5 and 3, each with
    batch normalization and ReLU; mean over time; a dense layer. There are no strides, so windows of
    any length do. MACs are the weights of the convolutions times the steps, and those of the dense
    layer. Layers: `conv1`, `conv1_norm`, `conv1_relu` ... `conv3_relu`, `pool`, `outputs`.

    Args:
        input_shape: [time steps, sensor channels] of a window.
        classes: Number of classes.
        width: Multiplies all numbers of filters; 1 is the paper's.
        activation: "softmax", or None for logits.
        name: Name of the model.

    Returns:
        A functional `keras.Model` from [batch, *input_shape] to [batch, classes].

    Raises:
        ValueError: See `blocks.check`; a window shorter than the longest kernel, 8 steps.

    Reference: Wang et al., arXiv:1611.06455, section II.B; compared with other deep nets on 85
    data sets by Fawaz et al., arXiv:1809.04356.
    """
    shape = blocks.check(input_shape, 2, classes, width, activation)
    longest = max(kernel for _, kernel in _BLOCKS)
    if shape[0] < longest:
        raise ValueError(
            f"Expected a window of at least {longest} steps, the longest kernel of '{name}'. "
            f"Received: {shape}"
        )
    inputs = keras.Input(shape, name="inputs")
    x = inputs
    for block, (filters, kernel) in enumerate(_BLOCKS, start=1):
        x = blocks.convolution(x, blocks.scaled(filters, width), kernel, name=f"conv{block}")
    return keras.Model(inputs, blocks.head(x, classes, activation), name=name)
