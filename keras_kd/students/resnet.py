"""ResNet-8: three residual blocks, for small pictures."""

import keras
from keras import layers

from keras_kd.students import blocks

_STRIDE = 4


def resnet8(
    input_shape=(32, 32, 3), classes=10, *, width=1.0, activation="softmax", name="resnet8"
):
    """ResNet-8, MLPerf Tiny's `resnet_v1_eembc` for pictures of 32 x 32.

    A 3 x 3 convolution and three stacks of one residual block each, of 16, 32 and 64 filters; the
    second and third halve the map, with a 1 x 1 convolution beside them. With the defaults 78,666
    parameters, 77,360 weights and 12,501,632 MACs. `width=2.5` is MLPerf Tiny's larger ResNet,
    479,480 weights. Layers: `conv`, then of each stack `stack1_conv1`, `stack1_conv2` (with `_norm`
    and, but for the last, `_relu` behind), `stack2_shortcut`, `stack1_add`, `stack1_relu`; `pool`,
    `flatten`, `outputs`.

    The convolutions have biases, as the reference's do, so that it takes the reference's weights,
    one by one in the order of `model.weights`. The converter folds them away.

    Args:
        input_shape: [height, width, channels], at least 4 x 4.
        classes: Number of classes.
        width: Multiplies all numbers of filters.
        activation: "softmax", or None for logits.
        name: Name of the model.

    Returns:
        A functional `keras.Model` from [batch, *input_shape] to [batch, classes].

    Raises:
        ValueError: See `input_shape`, `classes`, `width` and `activation`.

    Reference: Banbury et al., arXiv:2106.07597; He et al., arXiv:1512.03385, section
    4.2. The reference adds an L2 penalty of 1e-4 on kernels, which is left to the optimizer here.
    """
    shape = blocks.check(input_shape, 3, classes, width, activation)
    blocks.check_size(shape, _STRIDE, name)
    inputs = keras.Input(shape, name="inputs")
    x = blocks.convolution(inputs, blocks.scaled(16, width), 3, name="conv", use_bias=True)
    for stack, (filters, strides) in enumerate([(16, 1), (32, 2), (64, 2)], start=1):
        x = _stack(x, blocks.scaled(filters, width), strides, f"stack{stack}")
    return keras.Model(inputs, blocks.head(x, classes, activation), name=name)


def _stack(x, filters, strides, name):
    y = blocks.convolution(x, filters, 3, name=f"{name}_conv1", strides=strides, use_bias=True)
    y = blocks.convolution(y, filters, 3, name=f"{name}_conv2", use_bias=True, relu=None)
    if strides > 1:
        x = layers.Conv2D(
            filters,
            1,
            strides=strides,
            padding="same",
            kernel_initializer="he_normal",
            name=f"{name}_shortcut",
        )(x)
    x = layers.Add(name=f"{name}_add")([x, y])
    return layers.ReLU(name=f"{name}_relu")(x)
