"""MobileNet, first and second version, at any width."""

import keras
from keras import layers

from keras_kd.students import blocks

# Filters and stride of each depthwise-separable block: arXiv:1704.04861, table 1.
_V1 = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2)]
# The table says stride 2 for the last one too, whose map stays 7 x 7: a misprint.
_V1 += [(1024, 1)]

# Expansion, channels, repeats and stride of each stage: arXiv:1801.04381, table 2.
_V2 = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]
_V2_FIRST, _V2_LAST = 32, 1280


def mobilenet_v1(
    input_shape=(96, 96, 3),
    classes=2,
    *,
    width=0.25,
    activation="softmax",
    total_stride=32,
    use_bias=False,
    name="mobilenet_v1",
):
    """MobileNetV1; with the defaults MLPerf Tiny's model for visual wake words.

    A 3 x 3 convolution with stride 2 and thirteen blocks of a depthwise 3 x 3 and a pointwise
    convolution, each with batch normalization and ReLU; mean over the map; a dense layer. With the
    defaults 208,112 weights and 7,489,664 MACs. Layers: `conv`, `block1_depthwise`,
    `block1_pointwise` ... `block13_pointwise`, each followed by `..._norm` and `..._relu`; `pool`,
    `flatten`, `outputs`.

    Args:
        input_shape: [height, width, channels], at least `total_stride` on each side.
        classes: Number of classes.
        width: The paper's width multiplier alpha.
        activation: "softmax", or None for logits.
        total_stride: How many times smaller than the input the last map is. 32 is the paper's; for
            8 or 16 the first strides become 1, so that a picture of 32 x 32 ends as 4 x 4 or 2 x 2.
        use_bias: Whether convolutions have a bias, which the normalization behind them makes idle:
            True takes the weights of MLPerf Tiny's checkpoint, 221,794 parameters.
        name: Name of the model.

    Returns:
        A functional `keras.Model` from [batch, *input_shape] to [batch, classes].

    Raises:
        ValueError: See the arguments.

    Reference: Howard et al., arXiv:1704.04861, section 3 and table 1; Banbury et al.,
    arXiv:2106.07597.
    """
    shape = blocks.check(input_shape, 3, classes, width, activation)
    strides = blocks.strides_for([2, *(stride for _, stride in _V1)], total_stride)
    blocks.check_size(shape, total_stride, name)
    inputs = keras.Input(shape, name="inputs")
    x = blocks.convolution(
        inputs, blocks.scaled(32, width), 3, name="conv", strides=strides[0], use_bias=use_bias
    )
    for block, ((filters, _), stride) in enumerate(zip(_V1, strides[1:], strict=True), start=1):
        x = blocks.convolution(
            x, None, 3, name=f"block{block}_depthwise", strides=stride, use_bias=use_bias
        )
        filters = blocks.scaled(filters, width)
        x = blocks.convolution(x, filters, 1, name=f"block{block}_pointwise", use_bias=use_bias)
    return keras.Model(inputs, blocks.head(x, classes, activation), name=name)


def mobilenet_v2(
    input_shape=(96, 96, 3),
    classes=2,
    *,
    width=0.35,
    activation="softmax",
    total_stride=32,
    dropout=0.0,
    name="mobilenet_v2",
):
    """MobileNetV2: inverted residuals with linear bottlenecks.

    A 3 x 3 convolution with stride 2; seventeen bottlenecks of a pointwise convolution to six times
    the channels, a depthwise 3 x 3 and a pointwise one without activation, with a residual
    connection where shapes are equal; a pointwise convolution to 1280 channels; mean over the map;
    a dense layer. ReLU6 throughout. Layers: `conv`, `block1_depthwise`, `block1_project`,
    `block2_expand` ..., each followed by `..._norm` and, but for `project`, `..._relu`;
    `block3_add` and so on; `last`, `pool`, `flatten`, `outputs`.

    Channels are multiples of 8. Below a width of 1 the last convolution keeps its 1280 channels.

    Args:
        input_shape: [height, width, channels], at least `total_stride` on each side.
        classes: Number of classes.
        width: The paper's width multiplier.
        activation: "softmax", or None for logits.
        total_stride: How many times smaller than the input the last map is. 32 is the paper's; for
            8 or 16 the first strides become 1: with 8 a picture of 32 x 32 ends as 4 x 4.
        dropout: Rate of dropout before the dense layer.
        name: Name of the model.

    Returns:
        A functional `keras.Model` from [batch, *input_shape] to [batch, classes].

    Raises:
        ValueError: See the arguments.

    Reference: Sandler et al., arXiv:1801.04381, table 2 and section 6.1.
    """
    shape = blocks.check(input_shape, 3, classes, width, activation)
    repeated = [
        (expansion, filters, stride if repeat == 0 else 1)
        for expansion, filters, repeats, stride in _V2
        for repeat in range(repeats)
    ]
    strides = blocks.strides_for([2, *(stride for *_, stride in repeated)], total_stride)
    blocks.check_size(shape, total_stride, name)
    inputs = keras.Input(shape, name="inputs")
    x = blocks.convolution(
        inputs, _by_eight(_V2_FIRST * width), 3, name="conv", strides=strides[0], relu=blocks.relu6
    )
    for block, (expansion, filters, _) in enumerate(repeated, start=1):
        x = _bottleneck(x, expansion, _by_eight(filters * width), strides[block], f"block{block}")
    x = blocks.convolution(
        x, _by_eight(_V2_LAST * max(width, 1.0)), 1, name="last", relu=blocks.relu6
    )
    outputs = blocks.head(x, classes, activation, dropout=dropout)
    return keras.Model(inputs, outputs, name=name)


def _bottleneck(x, expansion, filters, strides, name):
    channels = x.shape[-1]
    y = x
    if expansion > 1:
        y = blocks.convolution(y, expansion * channels, 1, name=f"{name}_expand", relu=blocks.relu6)
    y = blocks.convolution(y, None, 3, name=f"{name}_depthwise", strides=strides, relu=blocks.relu6)
    y = blocks.convolution(y, filters, 1, name=f"{name}_project", relu=None)
    if strides > 1 or channels != filters:
        return y
    return layers.Add(name=f"{name}_add")([x, y])


def _by_eight(channels):
    """Returns the nearest multiple of 8, at least 8 and no more than a tenth below `channels`."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
