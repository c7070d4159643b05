"""How the kernel of each kind of layer is laid out, rounded and used."""

import dataclasses
from collections.abc import Callable

import keras
from keras import ops


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What a kind of layer does with its kernel.

    Attributes:
        apply: (layer, inputs, kernel) -> the layer's outputs before bias and activation.
        as_on_device: kernel -> the same values as the converter stores them, channels last where
            they have a scale each; `as_in_keras`, given the kernel too, makes of them what `apply`
            takes, which is the kernel itself or one with a second axis.
        channel_axes: Axes of the kernel that are the layer's output channels.
        per_channel_scales: Whether the converter takes a scale for each channel.
        smallest_bits: Of the integer types that the runtime has for it.
    """

    apply: Callable
    channel_axes: tuple[int, ...] = (-1,)
    per_channel_scales: bool = True
    smallest_bits: int = 4
    as_on_device: Callable = lambda kernel: kernel
    as_in_keras: Callable = lambda values, kernel: values

    def read(self, layer):
        """Returns the layer's kernel."""
        return ops.convert_to_tensor(layer.kernel)

    def per_channel(self, values, kernel):
        """Returns values of shape [channels] in a shape that multiplies the kernel."""
        shape = [1] * len(kernel.shape)
        for axis in self.channel_axes:
            shape[axis] = kernel.shape[axis]
        return ops.reshape(values, shape)


def _with_second_axis(kernel):
    """Returns the kernel of one axis with the second one of the device, which it may have."""
    return kernel if len(kernel.shape) == 4 else ops.expand_dims(kernel, 1)


def _convolution(layer, x, kernel):
    if layer.padding == "causal":
        left = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        x = ops.pad(x, [[0, 0], [left, 0], [0, 0]])
    if len(layer.kernel_size) > 1:
        return layer.convolution_op(x, kernel)
    # The converter takes scales per channel from a kernel of two dimensions only.
    outputs = ops.conv(
        ops.expand_dims(x, 2),
        _with_second_axis(kernel),
        strides=(*layer.strides, 1),
        padding="valid" if layer.padding == "causal" else layer.padding,
        dilation_rate=(*layer.dilation_rate, 1),
    )
    return ops.squeeze(outputs, 2)


def _depthwise(layer, x, kernel):
    strides, dilation_rate = layer.strides, layer.dilation_rate
    one_axis = len(layer.kernel_size) == 1
    if one_axis:
        x, kernel = ops.expand_dims(x, 2), _with_second_axis(kernel)
        # The op takes one stride for both axes.
        strides, dilation_rate = strides * 2, dilation_rate * 2
    outputs = ops.depthwise_conv(
        x,
        kernel,
        strides=strides,
        padding=layer.padding,
        data_format=layer.data_format,
        dilation_rate=dilation_rate,
    )
    return ops.squeeze(outputs, 2) if one_axis else outputs


def _transposed(layer, x, kernel):
    strides, output_padding = layer.strides, layer.output_padding
    one_axis = len(layer.kernel_size) == 1
    if one_axis:
        x, kernel = ops.expand_dims(x, 2), _with_second_axis(kernel)
        strides = (*strides, 1)
        output_padding = None if output_padding is None else (*output_padding, 0)
    outputs = ops.conv_transpose(
        x,
        kernel,
        strides=strides,
        padding=layer.padding,
        output_padding=output_padding,
        data_format=layer.data_format,
    )
    return ops.squeeze(outputs, 2) if one_axis else outputs


def _dense(layer, x, kernel):
    return ops.matmul(x, kernel)


_DEPTHWISE = Kernel(
    apply=_depthwise,
    channel_axes=(-2, -1),
    # LiteRT 2.3 has no DEPTHWISE_CONV_2D of version 7, which the converter writes for 4 bits.
    smallest_bits=8,
    as_on_device=lambda kernel: ops.reshape(kernel, (*kernel.shape[:2], -1)),
    as_in_keras=lambda values, kernel: ops.reshape(values, kernel.shape),
)
# In one step from the one form to the other: the converter fails at a kernel reshaped twice.
_DEPTHWISE_1D = dataclasses.replace(
    _DEPTHWISE,
    as_on_device=lambda kernel: ops.reshape(kernel, (kernel.shape[0], 1, -1)),
    as_in_keras=lambda values, kernel: ops.reshape(values, (*values.shape[:2], *kernel.shape[1:])),
)
# The converter turns these kernels round and cannot turn scales per channel with them.
_DENSE = Kernel(apply=_dense, per_channel_scales=False)
_TRANSPOSED = Kernel(
    apply=_transposed, channel_axes=(-2,), per_channel_scales=False, smallest_bits=8
)

KERNELS = {
    keras.layers.Conv1D: Kernel(
        apply=_convolution,
        # With the dimension that the convolution gets on the device.
        as_on_device=lambda kernel: ops.expand_dims(kernel, 1),
    ),
    keras.layers.Conv2D: Kernel(apply=_convolution),
    keras.layers.DepthwiseConv1D: _DEPTHWISE_1D,
    keras.layers.DepthwiseConv2D: _DEPTHWISE,
    keras.layers.Conv1DTranspose: _TRANSPOSED,
    keras.layers.Conv2DTranspose: _TRANSPOSED,
    keras.layers.Dense: _DENSE,
}


def kernel_of(layer):
    """Returns the `Kernel` of a layer's kind; None for one without a kernel that we know."""
    return KERNELS.get(type(layer))
