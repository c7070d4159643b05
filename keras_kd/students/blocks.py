"""What the students are made of: checked sizes, convolutions with normalization, and heads."""

from keras import layers


def check(input_shape, rank, classes, width, activation):
    """Refuses what no student can be built from.

    Args:
        input_shape: Shape of an example.
        rank: How many axes it must have.
        classes: Number of classes.
        width: Width multiplier.
        activation: Of the last layer.

    Returns:
        `input_shape` as a tuple of ints.

    Raises:
        ValueError: Another number of axes, a free or empty axis, classes < 1, width <= 0, or an
            activation other than "softmax" and None.
    """
    shape = tuple(input_shape)
    if len(shape) != rank or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(
            f"Expected an input_shape of {rank} sizes, positive ints without the batch. "
            f"Received: {input_shape!r}. Hint: a device's arena holds one fixed size."
        )
    if not isinstance(classes, int) or classes < 1:
        raise ValueError(f"Expected classes >= 1. Received: {classes!r}")
    if not width > 0:
        raise ValueError(f"Expected width > 0. Received: {width!r}")
    if activation not in ("softmax", None):
        raise ValueError(
            f"Expected activation 'softmax' or None, for logits. Received: {activation!r}"
        )
    return shape


def scaled(channels, width):
    """Returns `width * channels` as a whole number of channels, at least 1.

    Raises:
        ValueError: If it is none.
    """
    found = round(channels * width)
    if found < 1:
        raise ValueError(
            f"Expected a width that leaves at least one of {channels} channels. Received: {width}. "
            f"Hint: {1 / channels} or more."
        )
    return found


def convolution(x, filters, kernel, *, name, strides=1, use_bias=False, relu=layers.ReLU):
    """Convolution, batch normalization and ReLU; the layers' names begin with `name`.

    Args:
        x: Maps [batch, height, width, channels] or sequences [batch, steps, channels].
        filters: Channels to come; None for a depthwise convolution.
        kernel: Size of the kernel.
        name: Name of the convolution; those behind it add `_norm` and `_relu`.
        strides: Of the convolution.
        use_bias: Whether the convolution has the bias that the normalization makes idle.
        relu: A function from a name to the last layer, None for none.
    """
    options = {"strides": strides, "padding": "same", "use_bias": use_bias, "name": name}
    if filters is None:
        x = layers.DepthwiseConv2D(kernel, depthwise_initializer="he_normal", **options)(x)
    else:
        kind = layers.Conv1D if len(x.shape) == 3 else layers.Conv2D
        x = kind(filters, kernel, kernel_initializer="he_normal", **options)(x)
    x = layers.BatchNormalization(name=f"{name}_norm")(x)
    return x if relu is None else relu(name=f"{name}_relu")(x)


def relu6(name):
    """Returns the layer min(max(x, 0), 6), for low precision (arXiv:1801.04381, section 4)."""
    return layers.ReLU(6.0, name=name)


def head(x, classes, activation, *, dropout=0.0):
    """Mean over all positions and a dense layer: `pool`, `flatten`, `dropout` and `outputs`."""
    if len(x.shape) == 4:
        # One AVERAGE_POOL_2D, as in MLPerf Tiny's models, where a global pooling becomes a MEAN.
        x = layers.AveragePooling2D(x.shape[1:3], name="pool")(x)
        x = layers.Flatten(name="flatten")(x)
    else:
        x = layers.GlobalAveragePooling1D(name="pool")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    return layers.Dense(classes, activation=activation, name="outputs")(x)


def check_size(shape, stride, name):
    """Refuses maps that the strides would shrink to less than a pixel.

    With "same" padding a map never vanishes, but below one pixel a stride every step sees padding
    more than picture.

    Args:
        shape: [height, width, channels].
        stride: Product of all strides.
        name: Name of the model.

    Raises:
        ValueError: A side is shorter than the stride.
    """
    if min(shape[:2]) < stride:
        raise ValueError(
            f"Expected an input of at least {stride} x {stride} for '{name}', whose strides make "
            f"{stride}. Received: {shape}. Hint: a larger input, or a smaller total_stride where "
            "the model has one."
        )


def strides_for(published, total_stride):
    """Returns the strides of a model, the first ones left out until the total is as wanted.

    Args:
        published: The strides of the layers, each 1 or 2.
        total_stride: Their product to be: a power of 2 from 1 to what is published.

    Raises:
        ValueError: Another total.
    """
    reducing = [index for index, stride in enumerate(published) if stride == 2]
    totals = [2**count for count in range(len(reducing) + 1)]
    if total_stride not in totals:
        raise ValueError(f"Expected total_stride in {totals}. Received: {total_stride!r}")
    left_out = reducing[: len(reducing) - totals.index(total_stride)]
    return [1 if index in left_out else stride for index, stride in enumerate(published)]
