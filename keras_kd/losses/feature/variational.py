"""Variational information distillation: how well the student's feature tells the teacher's."""

import math

import keras
from keras import layers, ops

from keras_kd import schedules
from keras_kd.losses import registry
from keras_kd.losses.feature.feature_loss import AUTO, FeatureLoss
from keras_kd.losses.feature.pooling import average_pool_larger
from keras_kd.numerics import at_least_float32, mean_over_positions
from keras_kd.projectors import check_same_shape

_SMALLEST_VARIANCE = 1e-5


def variational_information(*, teacher, mean, variance, mask=None, position_weight=None):
    """Negative log-likelihood of the teacher's feature under a Gaussian, per example.

    mean 1/2 ((mu - t)^2 / v + log v) over positions and channels; the constant is left out.

    Args:
        teacher: Feature t, shape [batch, ...positions, channels]; receives no gradient.
        mean: mu, regressed from the student's feature, same shape.
        variance: v > 0 of each channel, shape [channels].
        mask: None, or the valid positions, booleans of shape [batch, ...positions].
        position_weight: None, or weights of shape [batch, ...positions].

    Returns:
        Shape [batch], in nats; of either sign.

    Raises:
        ValueError: If the shapes differ.

    Reference: Ahn et al., arXiv:1904.05835, section 2.
    """
    check_same_shape(mean.shape, teacher.shape, "the regressor makes channels equal.")
    teacher, variance = at_least_float32(ops.stop_gradient(teacher)), at_least_float32(variance)
    squares = ops.square(at_least_float32(mean) - teacher)
    values = 0.5 * (squares / variance + ops.log(variance))
    return mean_over_positions(ops.mean(values, axis=-1), mask, position_weight)


def channel_variance(log_scale):
    """Variance of each channel: softplus(a) + 1e-5.

    Args:
        log_scale: a, shape [channels].

    Returns:
        Shape [channels].

    Reference: Ahn et al., arXiv:1904.05835, section 2.
    """
    return ops.softplus(at_least_float32(log_scale)) + _SMALLEST_VARIANCE


@keras.saving.register_keras_serializable(package="keras_kd")
class VariationalRegressor(layers.Layer):
    """Mean and variance of the teacher's feature, given the student's.

    The mean is that of three 1x1 convolutions without bias and two ReLUs; the variance of a channel
    is softplus(a) + 1e-5 with a trained a, whatever the student's feature.

    Args:
        channels: Channels of the teacher's feature.
        hidden_channels: Channels between the convolutions; None for as many.
        initial_variance: Above 1e-5.
        **kwargs: Of `keras.layers.Layer`.

    Reference: Ahn et al., arXiv:1904.05835, section 2.
    """

    def __init__(self, channels, hidden_channels=None, initial_variance=5.0, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.hidden_channels = hidden_channels
        self.initial_variance = initial_variance
        hidden = hidden_channels or channels
        # A dense layer is a 1x1 convolution of a feature of any rank.
        self.convolutions = [
            layers.Dense(units, activation, use_bias=False, dtype=self.dtype_policy)
            for units, activation in ((hidden, "relu"), (hidden, "relu"), (channels, None))
        ]

    def build(self, input_shape):
        """Makes the weights for features of shape [batch, ...positions, channels]."""
        shape = tuple(input_shape)
        for convolution in self.convolutions:
            convolution.build(shape)
            shape = convolution.compute_output_shape(shape)
        self.log_scale = self.add_weight(
            name="log_scale",
            shape=(self.channels,),
            initializer=keras.initializers.Constant(
                math.log(math.expm1(self.initial_variance - _SMALLEST_VARIANCE))
            ),
            dtype="float32",
        )

    def call(self, inputs):
        """Returns the mean, shape [batch, ...positions, channels]."""
        for convolution in self.convolutions:
            inputs = convolution(inputs)
        return inputs

    def variance(self):
        """Returns the variance of each channel, shape [channels]."""
        return channel_variance(ops.convert_to_tensor(self.log_scale))

    def compute_output_shape(self, input_shape):
        """Returns the shape of the mean."""
        return (*input_shape[:-1], self.channels)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "channels": self.channels,
            "hidden_channels": self.hidden_channels,
            "initial_variance": self.initial_variance,
        }


@registry.method(
    "vid",
    title="Variational information distillation (VID)",
    kind="feature",
    needs="a layer of each",
    reference="arXiv:1904.05835",
)
class VariationalInformation(FeatureLoss):
    """VID: the student's feature tells the teacher's, to a learned precision.

    Of two sizes of maps the larger is average-pooled to the smaller.

    Args:
        teacher_layer_name: A layer path, or a list of paths whose values are summed.
        student_layer_name: As many in the student; sizes and channels may differ.
        hidden_channels: Between the convolutions of the regressor; None for the teacher's.
        initial_variance: Of every channel, above 1e-5.
        projector: `"auto"` for the regressor, or a `VariationalRegressor` of one's own; for several
            pairs a list of these.
        name: Name in the logs.

    Raises:
        ValueError: If an option is out of range or the lists differ in length; when the distiller
            is made, if a layer is unknown.

    Example:
        >>> keras_kd.losses.get("vid", teacher_layer_name="block3", student_layer_name="block2")

    `distillation_loss_weights` is 1 in Tian et al., arXiv:1910.10699.

    Reference: Ahn et al., arXiv:1904.05835, section 2.
    """

    match = None

    def __init__(
        self,
        teacher_layer_name,
        student_layer_name,
        *,
        hidden_channels=None,
        initial_variance=5.0,
        projector=AUTO,
        name=None,
    ):
        super().__init__(teacher_layer_name, student_layer_name, projector=projector, name=name)
        for entry in self._projectors:
            if entry != AUTO and not isinstance(entry, VariationalRegressor):
                raise ValueError(
                    "Expected projector to be 'auto' or a VariationalRegressor. "
                    f"Received: {entry!r}"
                )
        if hidden_channels is not None and (
            not isinstance(hidden_channels, int) or hidden_channels < 1
        ):
            raise ValueError(
                "Expected hidden_channels to be None or an integer of at least 1. "
                f"Received: {hidden_channels!r}"
            )
        if (
            schedules.is_schedule(initial_variance)
            or schedules.checked("initial_variance", initial_variance) <= _SMALLEST_VARIANCE
        ):
            raise ValueError(
                f"Expected initial_variance to be a number above {_SMALLEST_VARIANCE}. "
                f"Received: {initial_variance!r}"
            )
        self.hidden_channels = hidden_channels
        self.initial_variance = initial_variance

    def align(self, teacher, student):
        """Returns both features at one size, the larger pooled; see `FeatureLoss.align`."""
        if tuple(teacher.shape[1:-1]) == tuple(student.shape[1:-1]):
            return teacher, student
        return average_pool_larger(teacher, at_least_float32(student))

    def compare(self, teacher, student, context, index):
        """Returns `variational_information` for one pair; see `FeatureLoss.compare`."""
        return variational_information(
            teacher=teacher,
            mean=student,
            variance=self._projectors[index].variance(),
            mask=context.mask(index),
            position_weight=context.position_weight,
        )

    def make_part(self, student_shape, teacher_shape, name):
        """Makes the regressor; see `FeatureLoss.make_part`."""
        regressor = VariationalRegressor(
            teacher_shape[-1], self.hidden_channels, self.initial_variance, name=name
        )
        regressor.build(tuple(student_shape))
        return regressor

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "hidden_channels": self.hidden_channels,
            "initial_variance": self.initial_variance,
        }
