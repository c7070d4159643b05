"""Layers, and small pieces of models, that are held against the device each by itself.

A conversion takes seconds, so the layers of one input stand side by side in one model, each on the
input itself.
"""

import keras
from keras import ops

from tests.quantization.on_device import fresh

layers = keras.layers


def norm_and(activation, layer):
    return lambda x: layers.Activation(activation)(layers.BatchNormalization()(fresh(layer)(x)))


def merged(merge):
    """Return a case that merges the input with two others of its shape, in their own ranges."""
    return lambda x: merge(x, layers.Conv2D(4, 1)(x), layers.AveragePooling2D(3, 1, "same")(x))


def squeeze_and_excite(x):
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(2, 1, activation="relu")(gate)
    return layers.Multiply()([x, layers.Conv2D(4, 1, activation="sigmoid")(gate)])


def dense_block(x):
    for _ in range(2):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Concatenate()([x, layers.Conv2D(3, 3, padding="same")(y)])
    return x


def norm_of_a_branch(x):
    x = layers.Conv2D(4, 3, padding="same")(x)
    return layers.Add()([x, layers.ReLU()(layers.BatchNormalization()(x))])


IMAGE_CASES = {
    "conv": layers.Conv2D(6, 3, padding="same"),
    "conv_strided": layers.Conv2D(6, 3, strides=2, padding="same"),
    "conv_dilated": layers.Conv2D(6, 3, dilation_rate=2),
    "conv_grouped": layers.Conv2D(8, 3, groups=2),
    "conv_relu": layers.Conv2D(6, 3, activation="relu"),
    "conv_relu6": layers.Conv2D(6, 3, activation="relu6"),
    "conv_norm": lambda x: layers.BatchNormalization()(layers.Conv2D(6, 3, use_bias=False)(x)),
    "conv_bias_norm_relu": norm_and("relu", layers.Conv2D(6, 3)),
    "conv_norm_relu6": norm_and("relu6", layers.Conv2D(6, 1, use_bias=False)),
    "conv_norm_no_scale": lambda x: layers.BatchNormalization(scale=False, center=False)(
        layers.Conv2D(6, 3)(x)
    ),
    "conv_softmax": layers.Conv2D(6, 3, activation="softmax"),
    "depthwise": layers.DepthwiseConv2D(3, padding="same"),
    "depthwise_multiplier": layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2),
    "depthwise_norm_relu": norm_and("relu", layers.DepthwiseConv2D(3, depth_multiplier=2)),
    "add": lambda x: layers.Add()([x, layers.Conv2D(4, 1)(x)]),
    "add_relu": lambda x: layers.ReLU()(layers.Add()([x, layers.Conv2D(4, 1)(x)])),
    "relu": layers.ReLU(),
    "average_pooling": layers.AveragePooling2D(2),
    "average_pooling_same": layers.AveragePooling2D(3, strides=1, padding="same"),
    "max_pooling": layers.MaxPooling2D(2),
    "global_average": layers.GlobalAveragePooling2D(),
    "global_average_kept": layers.GlobalAveragePooling2D(keepdims=True),
    "global_max": layers.GlobalMaxPooling2D(),
    "flatten": layers.Flatten(),
    "reshape": layers.Reshape((16, 16)),
    "zero_padding": layers.ZeroPadding2D(((1, 0), (2, 1))),
    "dropout": layers.Dropout(0.5),
    "concatenate": lambda x: layers.Concatenate()([x, layers.Conv2D(4, 1)(x)]),
    "concatenate_axis": lambda x: layers.Concatenate(axis=1)([x, layers.Conv2D(4, 1)(x)]),
    "sigmoid": layers.Activation("sigmoid"),
    "tanh": layers.Activation("tanh"),
    "softmax": layers.Softmax(),
}

SEQUENCE_CASES = {
    "conv1d": layers.Conv1D(6, 3, padding="same"),
    "conv1d_causal": layers.Conv1D(6, 3, padding="causal", dilation_rate=2),
    "conv1d_norm_relu": norm_and("relu", layers.Conv1D(6, 3, strides=2, use_bias=False)),
    "max_pooling": layers.MaxPooling1D(2),
    "global_average": layers.GlobalAveragePooling1D(),
    "global_max": layers.GlobalMaxPooling1D(),
    "zero_padding": layers.ZeroPadding1D(2),
    "dense": layers.Dense(7),
}

KERNEL_CASES = {
    "relu6": layers.ReLU(6.0),
    "separable": layers.SeparableConv2D(6, 3, depth_multiplier=2, strides=2),
    "separable_norm_relu": norm_and("relu", layers.SeparableConv2D(6, 3, padding="same")),
    "transposed": layers.Conv2DTranspose(6, 3, strides=2, padding="same"),
    "transposed_norm_relu": norm_and("relu", layers.Conv2DTranspose(6, 2, strides=2)),
    "transposed_padded": layers.Conv2DTranspose(6, 3, strides=2, output_padding=1),
    "norm": layers.BatchNormalization(),
    "norm_relu": lambda x: layers.ReLU()(layers.BatchNormalization(scale=False)(x)),
    "norm_of_a_branch": norm_of_a_branch,
    "dense_block": dense_block,
    "rescaling": layers.Rescaling(1 / 127.5, -1.0),
    "normalization": layers.Normalization(mean=[0.1, 0.2, 0.3, 0.4], variance=[1.0, 2.0, 3.0, 4.0]),
    "squeeze_and_excite": squeeze_and_excite,
}

FUNCTION_CASES = {
    "leaky_relu": layers.LeakyReLU(0.2),
    "relu_sloped": layers.ReLU(negative_slope=0.1),
    "relu4": layers.ReLU(1.5),
    "conv_relu4": lambda x: layers.ReLU(1.5)(layers.Conv2D(4, 3)(x)),
    "hard_sigmoid": layers.Activation("hard_sigmoid"),
    "conv_hard_sigmoid": layers.Conv2D(4, 3, activation="hard_sigmoid"),
    "hard_silu": layers.Activation("hard_silu"),
    "conv_hard_silu": layers.Conv2D(4, 3, activation="hard_silu"),
    "silu": layers.Activation("silu"),
    "conv_norm_silu": norm_and("silu", layers.Conv2D(4, 3)),
    "log_softmax": layers.Activation("log_softmax"),
    "softmax_axis": layers.Softmax(axis=1),
    "tanh_relu": lambda x: layers.ReLU()(layers.Activation("tanh")(x)),
    "multiply_relu": lambda x: layers.ReLU()(layers.Multiply()([x, layers.Conv2D(4, 1)(x)])),
    "rescaling_by": layers.Rescaling(1 / 255),
    "rescaling_to": layers.Rescaling(1.0, 0.5),
}

MERGE_CASES = {
    "add_three": merged(lambda *x: layers.Add()(x)),
    "multiply": merged(lambda *x: layers.Multiply()(x[:2])),
    "multiply_three": merged(lambda *x: layers.Multiply()(x)),
    "subtract": merged(lambda *x: layers.Subtract()(x[:2])),
    "average": merged(lambda *x: layers.Average()(x[:2])),
    "average_three": merged(lambda *x: layers.Average()(x)),
    "maximum": merged(lambda *x: layers.Maximum()(x)),
    "minimum": merged(lambda *x: layers.Minimum()(x)),
    "concatenate_pooled": merged(lambda *x: layers.Concatenate()(x)),
    "concatenate_limited": merged(lambda a, b, c: layers.Concatenate()([layers.ReLU(0.5)(b), a])),
    "concatenate_tanh": merged(
        lambda a, b, c: layers.Concatenate()([layers.Activation("tanh")(b), a])
    ),
    "concatenate_twice": merged(
        lambda a, b, c: ops.concatenate([b, layers.Concatenate()([a, b])], -1)
    ),
    "operators": merged(lambda a, b, c: 0.5 * (1.0 - a) + b * c / 3.0),
    "operations": merged(lambda a, b, c: ops.maximum(ops.relu(b), ops.minimum(a, c))),
    "an_operation": ops.sigmoid,
    "activations": merged(lambda a, b, c: keras.activations.silu(keras.activations.relu6(a))),
}

SHAPE_CASES = {
    "prelu_shared": layers.PReLU(shared_axes=[1, 2]),
    "upsampling": layers.UpSampling2D((2, 3)),
    "upsampling_bilinear": layers.UpSampling2D(2, interpolation="bilinear"),
    "resizing": layers.Resizing(11, 5),
    "resizing_nearest": layers.Resizing(11, 5, interpolation="nearest"),
    "cropping": layers.Cropping2D(((1, 0), (2, 1))),
    "permute": layers.Permute((3, 1, 2)),
    "global_max_kept": layers.GlobalMaxPooling2D(keepdims=True),
    "noise": layers.GaussianNoise(0.5),
    "random_flip": layers.RandomFlip(),
    "regularized": layers.ActivityRegularization(0.1),
    "identity": layers.Identity(),
    "reshaped": lambda x: ops.transpose(ops.reshape(x, (-1, 64, 4)), (0, 2, 1)),
    "squeezed": lambda x: ops.squeeze(layers.MaxPooling2D((8, 1))(x), 1),
    "mean": lambda x: ops.mean(x, axis=(1, 2)),
}

SEQUENCE_KERNEL_CASES = {
    "depthwise": layers.DepthwiseConv1D(3, depth_multiplier=2, padding="same"),
    "depthwise_norm_relu": norm_and("relu", layers.DepthwiseConv1D(3, strides=2)),
    "separable": layers.SeparableConv1D(6, 3),
    "transposed": layers.Conv1DTranspose(6, 3, strides=2, padding="same"),
    "transposed_norm_relu": norm_and("relu", layers.Conv1DTranspose(6, 3, strides=2)),
    "norm": layers.BatchNormalization(),
    "rescaling": layers.Rescaling(0.5, -1.0),
    "average_pooling": layers.AveragePooling1D(2),
    "average_pooling_same": layers.AveragePooling1D(3, strides=1, padding="same"),
    "prelu": layers.PReLU(),
    "upsampling": layers.UpSampling1D(3),
    "cropping": layers.Cropping1D((1, 2)),
    "conv": layers.Conv1D(6, 3),
}

VECTOR_CASES = {
    "dense": layers.Dense(7),
    "dense_relu": layers.Dense(7, activation="relu"),
    "dense_no_bias": layers.Dense(7, use_bias=False),
    "dense_norm_relu": norm_and("relu", layers.Dense(7)),
    "dense_softmax": layers.Dense(7, activation="softmax"),
    "dense_sigmoid": layers.Dense(1, activation="sigmoid"),
    "dense_tanh": layers.Dense(7, activation="tanh"),
    "gelu": layers.Activation("gelu"),
    "exponential": layers.Activation("exponential"),
    "dense_gelu": layers.Dense(7, activation="gelu"),
    "norm": layers.BatchNormalization(),
    "norm_relu": lambda x: layers.ReLU()(layers.BatchNormalization()(x)),
    "rescaling": layers.Rescaling(0.5, -1.0),
    "repeat": layers.RepeatVector(3),
}

INPUTS = {
    "image": ((8, 8, 4), IMAGE_CASES),
    "sequence": ((12, 4), SEQUENCE_CASES),
    "kernels": ((8, 8, 4), KERNEL_CASES),
    "functions": ((8, 8, 4), FUNCTION_CASES),
    "merges": ((8, 8, 4), MERGE_CASES),
    "shapes": ((8, 8, 4), SHAPE_CASES),
    "sequence_kernels": ((12, 4), SEQUENCE_KERNEL_CASES),
    "vector": ((16,), VECTOR_CASES),
}
