"""The layers of a student that trains as it will compute on the device."""

import functools
import math

import keras
import numpy as np
from keras import ops

from keras_kd import heads
from keras_kd.quantization.batch_norm import normalized_by_batch
from keras_kd.quantization.fake_quantization import (
    SMALLEST_RANGE,
    fake_quantize,
    fake_quantize_kernel,
    largest_values,
    learned_quantize,
    learned_step,
    straight_through,
)
from keras_kd.quantization.kernels import kernel_of

# Shares of the largest value among which a learned step's beginning is chosen.
CLIPPINGS = np.linspace(1.0, 0.3, 15)


@keras.saving.register_keras_serializable(package="keras_kd.quantization")
class FakeQuantize(heads.Transparent, keras.Layer):
    """Rounds activations to an integer grid, and learns the grid's range from what it sees.

    Called on a list of tensors it gives all of them one range, as a concatenation wants. A range
    that nothing was seen for yet is NaN, and so is what it rounds. The logits that Keras keeps on a
    softmax's outputs stay on the rounded ones: a loss of probabilities that were rounded to 0 would
    have no gradient.

    Args:
        observer: Finds the range: see `keras_kd.quantization.observers`.
        bits: Of the integer type: 8, or 16, whose grid has 0 in its middle.
        nonnegative: Whether no value is below 0, as behind a ReLU, so that the smallest one of a
            batch need not be looked for.
        observing: Whether training moves the range.
        quantizing: Whether training rounds; inference always does, as the device would.
        **kwargs: Passed to `keras.Layer`.

    Reference: Jacob et al., arXiv:1712.05877, section 3.
    """

    def __init__(
        self, observer, *, bits=8, nonnegative=False, observing=True, quantizing=True, **kwargs
    ):
        super().__init__(autocast=False, **kwargs)
        self.observer = observer
        self.bits = bits
        self.nonnegative = nonnegative
        self.observing = observing
        self.quantizing = quantizing
        self.calibrating = False
        self.supports_masking = True

    def build(self, input_shape):
        """Makes the range: nothing seen yet."""
        state = {"dtype": "float32", "trainable": False, "aggregation": "mean"}
        self.range = self.add_weight(
            shape=(2,), initializer=self._first_range, name="range", **state
        )
        self.batches = self.add_weight(shape=(), initializer="zeros", name="batches", **state)
        if self.observer.learned:
            self.log_step = self.add_weight(
                shape=(),
                initializer=keras.initializers.Constant(np.nan),
                name="log_step",
                **{**state, "trainable": True},
            )

    def _first_range(self, shape, dtype):
        return ops.cast(self.observer.fixed or (np.nan, np.nan), dtype)

    def call(self, inputs, training=None, observe=True):
        """Returns the rounded inputs.

        Args:
            inputs: A float tensor, or a list of them.
            training: Whether the range may move.
            observe: Whether these values count for the range; False where the layer is used again,
                on values that have it already.
        """
        tensors = inputs if isinstance(inputs, list | tuple) else [inputs]
        moves = observe and self.observer.fixed is None
        if moves and (self.calibrating or (training and self.observing)):
            self._observe(tensors)
        if self.calibrating or (training and not self.quantizing):
            # A range that is known beforehand is also where a function ends, such as a ReLU(4).
            fixed = self.observer.fixed
            rounded = tensors if fixed is None else [ops.clip(x, *fixed) for x in tensors]
        else:
            rounded = [heads.with_logits_of(self._rounded(x, training), x) for x in tensors]
        return rounded if isinstance(inputs, list | tuple) else rounded[0]

    def _rounded(self, x, training):
        if training and self.observer.learned:
            return self._rounded_to_steps(x)
        if training and self.bits == 8 and self.observer.fixed is None:
            # The op puts 0 on the grid itself, so some ten small ops are saved. It differs from
            # `ends` where 0 lies halfway between two values, which a range that is seen does not.
            return fake_quantize(x, *self._seen())
        return fake_quantize(x, *self.ends(), bits=self.bits)

    def _rounded_to_steps(self, x):
        """Returns the rounded inputs with a gradient for the step, which the op does not have."""
        _, zero_point = self._grid()
        values = math.prod(size for size in x.shape[1:] if size is not None)
        step = learned_step(self.log_step, values=values, bits=self.bits)
        ends = -zero_point, 2**self.bits - 1 - zero_point
        return ops.cast(learned_quantize(ops.cast(x, "float32"), step, *ends), x.dtype)

    def ends(self):
        """Returns the range (low, high) moved so that 0 is a value of the grid.

        The op moves it too, and so does the converter; a range such as (-1, 1), whose middle lies
        between two integers, they would move to different sides.
        """
        step, zero_point = self._grid()
        return -zero_point * step, (2**self.bits - 1 - zero_point) * step

    def _grid(self):
        """Returns the step and, as a number of steps above the lowest value, where 0 is."""
        step, zero_point = self._observed_grid()
        if self.observer.learned:
            step = ops.exp(self.log_step)
        return step, zero_point

    def _observed_grid(self):
        low, high = self._seen()
        if self.bits == 16:
            # The runtimes' kernels of int16 know no other place of 0.
            middle = 2.0**15
            return ops.maximum(-low / middle, high / (middle - 1.0)), middle
        step = (high - low) / (2**self.bits - 1)
        return step, ops.round(-low / step)

    def _seen(self):
        """Returns the range (low, high) as it was seen, with 0 in it and no length of 0."""
        low, high = ops.unstack(self.range)
        low = ops.minimum(low, 0.0)
        return low, ops.maximum(high, ops.maximum(low + SMALLEST_RANGE, 0.0))

    def _observe(self, tensors):
        seen = [
            self.observer.of_batch(ops.stop_gradient(ops.cast(x, "float32")), self.bits)
            for x in tensors
        ]
        lows, highs = zip(*seen, strict=True)
        low = 0.0 if self.nonnegative else functools.reduce(ops.minimum, lows)
        new = ops.stack([low, functools.reduce(ops.maximum, highs)])
        self.range.assign(self.observer.updated(self.range, new, self.batches))
        if self.observer.learned:
            counts = self.batches < self.observer.batches
            first = ops.log(self._observed_grid()[0])
            self.log_step.assign(ops.where(counts, first, self.log_step))
        self.batches.assign(self.batches + 1.0)

    def get_config(self):
        """Returns what makes this layer again."""
        return {
            **super().get_config(),
            "observer": keras.saving.serialize_keras_object(self.observer),
            "bits": self.bits,
            "nonnegative": self.nonnegative,
            "observing": self.observing,
            "quantizing": self.quantizing,
        }

    @classmethod
    def from_config(cls, config):
        """Makes a layer from what `get_config` gave."""
        config = dict(config)
        config["observer"] = keras.saving.deserialize_keras_object(config["observer"])
        return cls(**config)


@keras.saving.register_keras_serializable(package="keras_kd.quantization")
class Quantized(keras.Layer):
    """A layer with a kernel that is rounded, and the BatchNormalization behind it as part of it.

    The converter multiplies a BatchNormalization into the kernel, so it is the product that has to
    be on the grid. With m = gamma / sqrt(moving variance + epsilon) the kernel in training is
    q(kernel * m) / m, and its outputs are normalized by the batch's statistics as ever; in
    inference it is q(kernel * m), and there is no normalization left. That takes one convolution in
    training, not the two of Jacob et al.

    Args:
        layer: The layer with the kernel, without activation.
        batch_norm: The `BatchNormalization` that follows it, or None.
        bits: Of the kernel's integer type.
        per_channel: Whether each channel of the kernel has a range of its own.
        learned_steps: Whether the kernel's ranges are trained (LSQ), in place of following its
            largest values.
        quantizing: Whether training rounds the kernel; inference always does.
        batch_statistics: Whether training normalizes by the batch's statistics and moves the
            averages; False for a BatchNormalization that is frozen but for gamma and beta.
        **kwargs: Passed to `keras.Layer`.

    Reference: Jacob et al., arXiv:1712.05877, section 3.2; Krishnamoorthi, arXiv:1806.08342,
    section 3.2.2.
    """

    def __init__(
        self,
        layer,
        batch_norm=None,
        *,
        bits=8,
        per_channel=True,
        learned_steps=False,
        quantizing=True,
        batch_statistics=True,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.layer = layer
        self.batch_norm = batch_norm
        self.bits = bits
        self.per_channel = per_channel
        self.learned_steps = learned_steps
        self.quantizing = quantizing
        self.batch_statistics = batch_statistics
        self._kernel = kernel_of(layer)

    def build(self, input_shape):
        """Builds the two layers."""
        if not self.layer.built:
            self.layer.build(input_shape)
        if self.batch_norm is not None and not self.batch_norm.built:
            self.batch_norm.build(self.layer.compute_output_shape(input_shape))
        if self.learned_steps:
            first = self._first_steps()
            self.log_steps = self.add_weight(
                shape=first.shape,
                initializer=lambda shape, dtype: ops.cast(np.log(first), dtype),
                dtype="float32",
                name="log_steps",
            )

    def _first_steps(self):
        """Returns the steps that round and clip the kernel with the least squared error."""
        kernel = self._kernel.read(self.layer)
        if self.batch_norm is not None:
            kernel = kernel * self._kernel.per_channel(self._folded()[0], kernel)
        stored = self._kernel.as_on_device(kernel)
        largest = ops.convert_to_numpy(self._largest_of(stored))
        stored, highest = ops.convert_to_numpy(stored), self._highest
        axes = tuple(range(stored.ndim - 1)) if largest.ndim else None
        candidates = [largest * clipping / highest for clipping in CLIPPINGS]
        errors = [
            np.square(np.clip(np.round(stored / s), -highest, highest) * s - stored).sum(axis=axes)
            for s in candidates
        ]
        return np.choose(np.argmin(errors, axis=0), candidates)

    def call(self, inputs, training=None):
        """Returns the layer's outputs with its kernel rounded, normalized.

        The bias stays as it is: the device has it in 32 bits, whose steps are some thousandths of
        those of the outputs.
        """
        kernel = self._kernel.read(self.layer)
        bias = self.layer.bias if self.layer.use_bias else None
        if self.batch_norm is not None:
            scale, offset = self._folded()
            if training and self.batch_statistics:
                if self.quantizing:
                    # Only the place of the grid comes from the moving average.
                    kernel = self._rounded_times(ops.stop_gradient(scale), kernel)
                return normalized_by_batch(self.batch_norm, self._run(inputs, kernel, bias))
            kernel = kernel * self._kernel.per_channel(scale, kernel)
            bias = offset if bias is None else offset + bias * scale
        if self.quantizing or not training:
            kernel = self._rounded(kernel, training)
        return self._run(inputs, kernel, bias)

    def _rounded_times(self, scale, kernel):
        """Returns q(kernel * scale) / scale, for training."""
        if self._has_channel_ranges and not self.learned_steps:
            # A channel's grid is divided by its scale in place of all that is on it.
            stored = self._kernel.as_on_device(kernel)
            largest = largest_values(stored, per_channel=True, scales=scale)
            rounded = fake_quantize_kernel(stored, largest, bits=self.bits)
            return self._kernel.as_in_keras(straight_through(stored, rounded), kernel)
        scales = self._kernel.per_channel(scale, kernel)
        return self._rounded(kernel * scales, training=True) / scales

    def _rounded(self, kernel, training):
        """Returns the kernel rounded; in training with the gradient of the kernel itself."""
        stored = self._kernel.as_on_device(kernel)
        if not training:
            rounded = fake_quantize_kernel(stored, self._largest(stored), bits=self.bits)
        elif self.learned_steps:
            values = math.prod(stored.shape) // math.prod(self.log_steps.shape)
            steps = learned_step(self.log_steps, values=values, bits=self.bits)
            rounded = learned_quantize(stored, steps, -self._highest, self._highest)
        else:
            rounded = fake_quantize_kernel(stored, self._largest(stored), bits=self.bits)
            rounded = straight_through(stored, rounded)
        return self._kernel.as_in_keras(rounded, kernel)

    @property
    def _highest(self):
        """The largest integer."""
        return 2 ** (self.bits - 1) - 1

    def _largest(self, stored):
        """Returns the value of the largest integer, or that of each channel."""
        if self.learned_steps:
            return ops.exp(self.log_steps) * self._highest
        return self._largest_of(stored)

    def _largest_of(self, stored):
        return largest_values(stored, per_channel=self._has_channel_ranges)

    @property
    def _has_channel_ranges(self):
        return self.per_channel and self._kernel.per_channel_scales

    def _run(self, inputs, kernel, bias):
        dtype = self.compute_dtype
        outputs = self._kernel.apply(self.layer, ops.cast(inputs, dtype), ops.cast(kernel, dtype))
        return outputs if bias is None else outputs + ops.cast(bias, dtype)

    def _folded(self):
        """Returns the scale and the offset, per channel, that the BatchNormalization comes to."""
        norm = self.batch_norm
        scale = ops.rsqrt(norm.moving_variance + norm.epsilon)
        if norm.scale:
            # A gamma of 0 would be divided by.
            gamma = ops.where(ops.abs(norm.gamma) < SMALLEST_RANGE, SMALLEST_RANGE, norm.gamma)
            scale = scale * gamma
        offset = -norm.moving_mean * scale
        return scale, offset + norm.beta if norm.center else offset

    def compute_output_shape(self, input_shape):
        """Returns the shape of the layer's outputs."""
        return self.layer.compute_output_shape(input_shape)

    def get_config(self):
        """Returns what makes this layer again."""
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "layer": serialize(self.layer),
            "batch_norm": self.batch_norm and serialize(self.batch_norm),
            "bits": self.bits,
            "per_channel": self.per_channel,
            "learned_steps": self.learned_steps,
            "quantizing": self.quantizing,
            "batch_statistics": self.batch_statistics,
        }

    @classmethod
    def from_config(cls, config):
        """Makes a layer from what `get_config` gave."""
        config = dict(config)
        for name in ("layer", "batch_norm"):
            if config[name] is not None:
                config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)
