"""DS-CNN: depthwise-separable convolutions for keyword spotting."""

import keras
from keras import layers

from keras_kd.students import blocks

_STRIDE = 2


def ds_cnn(
    input_shape=(49, 10, 1),
    classes=12,
    *,
    width=1.0,
    activation="softmax",
    dropout=(0.2, 0.4),
    use_bias=False,
    name="ds_cnn",
):
    """DS-CNN for keyword spotting, of the size that is MLPerf Tiny's reference.

    A 10 x 4 convolution with stride 2 and 64 filters, four blocks of a depthwise 3 x 3 and a
    pointwise convolution with 64 filters, each with batch normalization and ReLU; mean over the
    map; a dense layer. With the defaults 22,016 weights and 2,656,768 MACs. Layers: `conv`,
    `block1_depthwise`, `block1_pointwise` ..., each followed by `..._norm` and `..._relu`; `pool`,
    `flatten`, `outputs`.

    Args:
        input_shape: [time steps, coefficients, channels] of a clip's MFCC, at least 2 x 2.
        classes: Number of classes.
        width: Multiplies all numbers of filters; 1 is the paper's DS-CNN of the small size (S).
        activation: "softmax", or None for logits.
        dropout: Rates of the reference's two dropout layers, behind the first convolution and
            before the pooling; 0 for none.
        use_bias: Whether convolutions have a bias, which the normalization behind them makes idle:
            True takes the weights of the reference's checkpoint, 24,908 parameters.
        name: Name of the model.

    Returns:
        A functional `keras.Model` from [batch, *input_shape] to [batch, classes].

    Raises:
        ValueError: See `input_shape`, `classes`, `width` and `activation`.

    Reference: Zhang et al., arXiv:1711.07128, section 3 (its sizes are those of DS-CNN small in
    https://github.com/ARM-software/ML-KWS-for-MCU, train_commands.txt); Banbury et al.,
    arXiv:2106.07597.
    """
    shape = blocks.check(input_shape, 3, classes, width, activation)
    blocks.check_size(shape, _STRIDE, name)
    filters = blocks.scaled(64, width)
    inputs = keras.Input(shape, name="inputs")
    x = blocks.convolution(
        inputs, filters, (10, 4), name="conv", strides=_STRIDE, use_bias=use_bias
    )
    if dropout[0]:
        x = layers.Dropout(dropout[0], name="conv_dropout")(x)
    for block in range(1, 5):
        x = blocks.convolution(x, None, 3, name=f"block{block}_depthwise", use_bias=use_bias)
        x = blocks.convolution(x, filters, 1, name=f"block{block}_pointwise", use_bias=use_bias)
    if dropout[1]:
        x = layers.Dropout(dropout[1], name="dropout")(x)
    return keras.Model(inputs, blocks.head(x, classes, activation), name=name)
