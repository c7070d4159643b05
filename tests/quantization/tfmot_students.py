"""Small students of the architectures that people put on devices, for the tests of tfmot."""

import keras
from keras import layers


def convolution(x, filters, name, *, strides=1, kernel_size=3, activation=True):
    """Convolution, BatchNormalization and, if asked for, ReLU."""
    x = layers.Conv2D(
        filters, kernel_size, strides=strides, padding="same", use_bias=False, name=name
    )(x)
    # A short memory, so that a few steps are enough for statistics that inference can use.
    x = layers.BatchNormalization(momentum=0.8, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if activation else x


def depthwise(x, name, *, strides=1, max_value=None):
    x = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False, name=name)(x)
    x = layers.BatchNormalization(momentum=0.8, name=f"{name}_bn")(x)
    return layers.ReLU(max_value, name=f"{name}_relu")(x)


def plain(width=8, shape=(8, 8, 1), name="plain"):
    """Two convolutions: enough for scikit-learn's digits."""
    inputs = keras.Input(shape)
    x = convolution(inputs, width, "first")
    x = convolution(x, 2 * width, "second", strides=2)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name=name)


def ds_cnn():
    """As Zhang et al., arXiv:1711.07128, figure 4: one convolution, then separable blocks."""
    inputs = keras.Input((12, 8, 1))
    x = convolution(inputs, 8, "stem", strides=2)
    x = layers.Dropout(0.2)(x)
    for block in range(2):
        x = convolution(depthwise(x, f"depthwise{block}"), 8, f"pointwise{block}", kernel_size=1)
    x = layers.AveragePooling2D((6, 4))(x)
    return keras.Model(inputs, layers.Dense(12, activation="softmax")(layers.Flatten()(x)))


def resnet():
    """As He et al., arXiv:1512.03385, figure 2: one block with a projection in its shortcut."""
    inputs = keras.Input((16, 16, 3))
    x = convolution(inputs, 8, "stem")
    y = convolution(x, 12, "block_a", strides=2)
    y = convolution(y, 12, "block_b", activation=False)
    x = layers.Conv2D(12, 1, strides=2, padding="same", name="shortcut")(x)
    x = layers.ReLU(name="block_relu")(layers.Add(name="add")([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def mobilenet_v1():
    """As Howard et al., arXiv:1704.04861, table 1: separable blocks with ReLU6."""
    inputs = keras.Input((16, 16, 3))
    x = layers.ReLU(6.0)(convolution(inputs, 8, "stem", strides=2, activation=False))
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    x = depthwise(x, "depthwise", max_value=6.0)
    x = convolution(x, 12, "pointwise", kernel_size=1)
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Conv2D(5, 1, name="head")(x)
    return keras.Model(inputs, layers.Softmax()(layers.Reshape((5,))(x)))


def mobilenet_v2():
    """As Sandler et al., arXiv:1801.04381, figure 4: an inverted residual block."""
    inputs = keras.Input((16, 16, 3))
    x = convolution(inputs, 8, "stem", strides=2, activation=False)
    y = layers.ReLU(6.0)(convolution(x, 24, "expand", kernel_size=1, activation=False))
    y = depthwise(y, "depthwise", max_value=6.0)
    y = convolution(y, 8, "project", kernel_size=1, activation=False)
    x = layers.Add()([x, y])
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))


ARCHITECTURES = {
    "ds_cnn": ds_cnn,
    "resnet": resnet,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
}


def randomize(model, rng):
    """Gives a model weights as after training: none is at its start, variances are positive."""
    model.set_weights([rng.uniform(0.1, 0.5, w.shape) for w in model.get_weights()])
    return model
