"""Overhaul of feature distillation (OFD): what passes a margin ReLU."""

import math

import keras
import numpy as np
from keras import ops

from keras_kd.losses import registry
from keras_kd.losses.feature.connectors import halved, make_connector
from keras_kd.losses.feature.feature_loss import AUTO, FeatureLoss
from keras_kd.losses.feature.maps import as_maps, check_whole
from keras_kd.numerics import adaptive_average_pool, at_least_float32
from keras_kd.projectors import check_same_shape


def overhaul(*, teacher, student, margin):
    """Partial squared distance to the teacher's pre-activations behind a margin ReLU, per example.

    With m the margin, sum over positions and channels of (s - t)^2 where t > 0, or where m < t <= 0
    and s > t; of (s - m)^2 where t <= m and s > m; of 0 elsewhere. A teacher's map of another size
    is average-pooled to the student's.

    Args:
        teacher: Pre-activations t of shape [batch, height, width, channels]; receive no gradient.
        student: Pre-activations s behind the connector, of as many channels.
        margin: m < 0 of each channel, shape [channels]; see `overhaul_margin`.

    Returns:
        Shape [batch], at least 0.

    Raises:
        ValueError: If the channels differ.

    Reference: Heo et al., arXiv:1904.01866, section 3.
    """
    teacher, student = at_least_float32(ops.stop_gradient(teacher)), at_least_float32(student)
    teacher, student, margin = as_maps(teacher), as_maps(student), ops.stop_gradient(margin)
    if tuple(teacher.shape[1:3]) != tuple(student.shape[1:3]):
        teacher = adaptive_average_pool(teacher, tuple(student.shape[1:3]))
    check_same_shape(student.shape, teacher.shape, "projector='auto' makes channels equal.")
    below = ops.logical_and(teacher <= margin, student > margin)
    between = ops.logical_and(teacher > margin, teacher <= 0.0)
    above = ops.logical_or(teacher > 0.0, ops.logical_and(between, student > teacher))
    zeros = ops.zeros_like(student)
    values = ops.where(below, ops.square(student - margin), zeros)
    values = values + ops.where(above, ops.square(student - teacher), zeros)
    return ops.sum(values, axis=(1, 2, 3))


def overhaul_margin(*, gamma, beta):
    """Mean of what the teacher's batch normalization gives below 0, per channel.

    m = E[x | x < 0] for x ~ N(beta, |gamma|^2); -3 |gamma| where P(x < 0) <= 0.001.

    Args:
        gamma: Scale of the normalization, shape [channels].
        beta: Offset, shape [channels].

    Returns:
        Shape [channels].

    Reference: Heo et al., arXiv:1904.01866, section 3.
    """
    deviation, mean = ops.abs(at_least_float32(gamma)), at_least_float32(beta)
    z = mean / ops.maximum(deviation, 1e-12)
    probability = 0.5 * (1.0 - ops.erf(z / math.sqrt(2.0)))
    density = ops.exp(-0.5 * ops.square(z)) / math.sqrt(2.0 * math.pi)
    conditional = mean - deviation * density / ops.maximum(probability, 1e-3)
    return ops.where(probability > 1e-3, conditional, -3.0 * deviation)


@registry.method(
    "ofd",
    title="Overhaul of feature distillation (OFD)",
    kind="feature",
    needs="a layer before a ReLU of each, the teacher's batch normalization",
    reference="arXiv:1904.01866",
)
class Overhaul(FeatureLoss):
    """OFD: the student follows what of the teacher's feature passes a margin ReLU.

    The named layers are those *before* a ReLU. Where the teacher is on, the student follows it;
    where it is off, the student has to be at or below it, and the margin is all that is asked.
    Between them stands a connector, a 1x1 convolution and a batch normalization. Of n pairs the
    i-th counts 2^(i - n), as in the authors' code.

    Args:
        teacher_layer_name: A layer path, or a list of paths.
        student_layer_name: As many in the student; sizes and channels may differ.
        teacher_norm_layer_name: The `BatchNormalization` of the teacher that the margin is computed
            from, a path or a list of paths; None where `teacher_layer_name` names it.
        margin: None for that margin, or one's own: numbers of shape [channels], for several pairs a
            list of these.
        projector: `"auto"` for the connector, None for none, or a Keras layer of one's own to the
            teacher's channels; for several pairs a list of these.
        name: Name in the logs.

    Raises:
        ValueError: If the lists differ in length; when the distiller is made, if a layer is unknown
            or no batch normalization.

    Example:
        >>> keras_kd.losses.get(
        ...     "ofd", teacher_layer_name="block3/norm", student_layer_name="block2/norm"
        ... )

    `distillation_loss_weights` is 1e-3 in the authors' code.

    Reference: Heo et al., arXiv:1904.01866, section 3.
    """

    match = "channels"

    def __init__(
        self,
        teacher_layer_name,
        student_layer_name,
        *,
        teacher_norm_layer_name=None,
        margin=None,
        projector=AUTO,
        name=None,
    ):
        super().__init__(teacher_layer_name, student_layer_name, projector=projector, name=name)
        count = len(self._projectors)
        self.teacher_norm_layer_name = teacher_norm_layer_name
        if teacher_norm_layer_name is not None and (
            len(self._pairs(teacher_norm_layer_name)) != count
        ):
            raise ValueError(
                f"Expected one batch normalization for each of {count} pairs of layers. "
                f"Received: {teacher_norm_layer_name!r}."
            )
        self.margin = None if margin is None else _rows(margin, count)

    def compare(self, teacher, student, context, index):
        """Returns `overhaul` for one pair; see `FeatureLoss.compare`."""
        check_whole(context, index, self.name)
        if self.margin is None:
            raise ValueError(
                f"Expected margin= for '{self.name}', which has not seen a teacher. "
                "Hint: keras_kd.Distiller connects a loss to its teacher."
            )
        margin = ops.convert_to_tensor(self.margin[index], "float32")
        values = overhaul(teacher=teacher, student=student, margin=margin)
        return halved(index, len(self._projectors)) * values

    def connect(self, ends):
        """Makes the connectors and computes the margins; see `DistillationLoss.connect`.

        Raises:
            ValueError: If a margin's layer is unknown or no batch normalization.
        """
        connected = super().connect(ends)
        if self.margin is None and ends.teacher_model is not None:
            paths = self._pairs(self.teacher_norm_layer_name or self.teacher_layer_name)
            connected.margin = [_margin_of(ends.teacher_model, path) for path in paths]
        return connected

    def is_connected(self):
        """Returns whether connectors and margins are there."""
        return self.margin is not None and super().is_connected()

    def make_part(self, student_shape, teacher_shape, name):
        """Makes the connector; see `FeatureLoss.make_part`."""
        return make_connector(student_shape, (*student_shape[:-1], teacher_shape[-1]), name)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "teacher_norm_layer_name": self.teacher_norm_layer_name,
            "margin": self.margin,
        }


def _rows(margin, count):
    """Returns margins as `count` lists of floats."""
    rows = margin if count > 1 or np.ndim(margin[0]) else [margin]
    if len(rows) != count or any(np.ndim(row) != 1 for row in rows):
        raise ValueError(
            f"Expected a margin of shape [channels] for each of {count} pairs of layers. "
            f"Received: {margin!r}."
        )
    return [[float(value) for value in row] for row in rows]


def _margin_of(model, path):
    """Returns the margin that the batch normalization `path` of a model implies."""
    layer = model
    for name in path.split("/"):
        layer = layer.get_layer(name)
    if not isinstance(layer, keras.layers.BatchNormalization):
        raise ValueError(
            f"Expected '{path}' of teacher '{model.name}' to be a BatchNormalization. "
            f"Received: a {type(layer).__name__}. Hint: name it by teacher_norm_layer_name=, or "
            "give margin=."
        )
    channels = layer.moving_mean.shape
    gamma = ops.ones(channels) if layer.gamma is None else ops.convert_to_tensor(layer.gamma)
    beta = ops.zeros(channels) if layer.beta is None else ops.convert_to_tensor(layer.beta)
    margin = overhaul_margin(gamma=gamma, beta=beta)
    return [float(value) for value in ops.convert_to_numpy(margin)]
