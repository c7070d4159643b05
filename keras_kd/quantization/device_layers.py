"""Layers that compute what Keras's do, in the form that the converter makes integers of."""

import keras
from keras import ops

# Between the float32 numbers next to 1, on the side of 0.
SPACING = 2.0**-24


@keras.saving.register_keras_serializable(package="keras_kd.quantization")
class Requantize(keras.Layer):
    """Carries values that have a range over to another one, which is given behind it.

    The converter takes one range for what goes into a concatenation or a maximum, and fails where
    a tensor comes there with a second one. Behind an op of its own it is another tensor. The op is
    a product with nearly 1, for one with 1 is dropped, and a product that is there twice is shared.

    Args:
        number: Of this layer among those of a model, from 1.
        **kwargs: Passed to `keras.Layer`.
    """

    def __init__(self, number, **kwargs):
        super().__init__(**kwargs)
        self.number = number
        self.supports_masking = True

    def call(self, inputs):
        """Returns the inputs, a 2^-24th smaller for each of the model's layers like this one."""
        return inputs * (1.0 - self.number * SPACING)

    def compute_output_shape(self, input_shape):
        """Returns the shape of the input."""
        return input_shape

    def get_config(self):
        """Returns what makes this layer again."""
        return {**super().get_config(), "number": self.number}


@keras.saving.register_keras_serializable(package="keras_kd.quantization")
class SaturatingReLU(keras.Layer):
    """min(max(x, 0), limit), the minimum of which is left to the range behind it.

    The converter makes ops for 1 and 6 only. On a grid that ends at `limit` nothing is above.

    Args:
        limit: The range's upper end, > 0.
        **kwargs: Passed to `keras.Layer`.
    """

    def __init__(self, limit, **kwargs):
        super().__init__(**kwargs)
        self.limit = limit
        self.supports_masking = True

    def call(self, inputs):
        """Returns max(inputs, 0)."""
        return ops.relu(inputs)

    def compute_output_shape(self, input_shape):
        """Returns the shape of the input."""
        return input_shape

    def get_config(self):
        """Returns what makes this layer again."""
        return {**super().get_config(), "limit": self.limit}


@keras.saving.register_keras_serializable(package="keras_kd.quantization")
class NearestUpsampling(keras.Layer):
    """Repeats rows and columns: a nearest-neighbour UpSampling2D as one op.

    Keras repeats by tiling, whose op in int8 the runtimes' reference kernels lack. Training does so
    too, since XLA has no gradient of the resizing.

    Args:
        size: How often, for rows and columns.
        **kwargs: Passed to `keras.Layer`.
    """

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = tuple(size)

    def call(self, inputs, training=None):
        """Returns the inputs [batch, rows, columns, channels] with more rows and columns."""
        if training:
            return ops.repeat(ops.repeat(inputs, self.size[0], axis=1), self.size[1], axis=2)
        shape = self.compute_output_shape(inputs.shape)
        return ops.image.resize(inputs, shape[1:3], "nearest", data_format="channels_last")

    def compute_output_shape(self, input_shape):
        """Returns the shape of the outputs."""
        rows, columns = self.size
        batch, height, width, channels = input_shape
        return (batch, rows * height, columns * width, channels)

    def get_config(self):
        """Returns what makes this layer again."""
        return {**super().get_config(), "size": self.size}
