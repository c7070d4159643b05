"""Values on the grid of an integer type, still as floats: what training sees of quantization."""

import math

import keras
from keras import ops

# A range has at least this length, so that its step is no denormal number.
SMALLEST_RANGE = 1e-6
# A channel's range is at least this share of the largest one of its kernel. A channel of zeros (a
# BatchNormalization whose gamma died) still has a bias, which is stored in steps of the kernel's
# scale times the input's: with a smaller scale it would not fit into the 32 bits that it has.
SMALLEST_CHANNEL = 2.0**-10


def fake_quantize(x, low, high, *, bits=8):
    """Rounds to the 2^bits values between `low` and `high`, one of which is made 0.

    The gradient is that of the identity inside of the range and 0 outside (straight-through).

    Args:
        x: Of any shape and float dtype, which the result has too; the arithmetic is float32.
        low: A scalar, float32: the range's lower end, at most 0.
        high: A scalar, float32: its upper end, at least 0.
        bits: Of the integer type.

    Returns: As x.

    Reference: Jacob et al., arXiv:1712.05877, section 3.1.
    """
    return keras.quantizers.fake_quant_with_min_max_vars(x, low, high, num_bits=bits)


def fake_quantize_kernel(kernel, largest, *, bits=8):
    """Rounds a kernel to the 2^bits - 1 values between -`largest` and `largest`.

    Args:
        kernel: float32, of shape [..., channels].
        largest: A scalar, or one for each channel: above 0.
        bits: Of the integer type: int8 without -128.

    Returns: As kernel. It has a gradient inside of the ranges only, where the largest value itself
        may or may not be: for training see `straight_through`.

    Reference: the LiteRT 8-bit quantization specification, "Symmetric vs asymmetric".
    """
    return keras.quantizers.fake_quant_with_min_max_vars(
        kernel,
        -largest,
        largest,
        num_bits=bits,
        narrow_range=True,
        axis=-1 if len(largest.shape) else None,
    )


def largest_values(kernel, *, per_channel, scales=1.0):
    """Returns the largest absolute value of a kernel, or of each channel of its last axis.

    It is at least what `SMALLEST_RANGE` and `SMALLEST_CHANNEL` say, and receives no gradient.

    Args:
        kernel: float32, of shape [..., channels].
        per_channel: Whether each channel has a value of its own.
        scales: What the device multiplies the kernel by, or each channel; not 0. The smallest
            values are those of the product.
    """
    axes = tuple(range(len(kernel.shape) - 1)) if per_channel else None
    scales = ops.abs(scales)
    largest = ops.max(ops.abs(kernel), axis=axes) * scales
    floor = ops.maximum(ops.max(largest) * SMALLEST_CHANNEL, SMALLEST_RANGE)
    return ops.stop_gradient(ops.maximum(largest, floor) / scales)


def straight_through(x, rounded):
    """Returns `rounded`, with the gradient of x.

    Reference: Bengio et al., arXiv:1308.3432, section 4.
    """
    return x + ops.stop_gradient(rounded - x)


def learned_step(logarithm, *, values, bits):
    """Returns the step that a trained logarithm stands for, with the gradient of LSQ.

    Its gradient reaches the logarithm times g / step, g = 1 / sqrt(values * 2^(bits - 1)): so
    gradient descent moves the step itself as in the paper. That its logarithm is trained is a
    departure: a step stays above 0, and Adam, whose updates do not know how small a step is,
    changes it by a share.

    Args:
        logarithm: A scalar, or one for each channel.
        values: How many values share a step, but for the batch.
        bits: Of the integer type.

    Returns: As logarithm.

    Reference: Esser et al., arXiv:1902.08153, section 2.2.
    """
    step = ops.stop_gradient(ops.exp(logarithm))
    share = 1.0 / math.sqrt(values * 2 ** (bits - 1))
    return step + (logarithm - ops.stop_gradient(logarithm)) * (share / step)


def learned_quantize(x, step, lowest, highest):
    """Rounds to whole steps and clips, with a gradient for the step too.

    step * clip(round(x / step), lowest, highest); the step's gradient is round(x / step) - x / step
    inside, and outside the end that was clipped to.

    Args:
        x: float32, of shape [..., channels] or any other.
        step: Above 0: a scalar, or one for each channel.
        lowest: The smallest number of steps, at most 0.
        highest: The largest, above 0.

    Returns: As x.

    Reference: Esser et al., arXiv:1902.08153, section 2.1.
    """
    steps = ops.clip(x / step, lowest, highest)
    return straight_through(steps, ops.round(steps)) * step
