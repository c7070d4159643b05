"""Activation boundaries: which neurons are on, not how strongly."""

from keras import ops

from keras_kd import schedules
from keras_kd.losses import registry
from keras_kd.losses.feature.connectors import halved, make_connector
from keras_kd.losses.feature.feature_loss import AUTO, FeatureLoss
from keras_kd.losses.feature.maps import check_whole
from keras_kd.numerics import at_least_float32
from keras_kd.projectors import check_same_shape


def activation_boundary(*, teacher, student, margin=1.0):
    """Squared hinge on the sign of the teacher's pre-activations, per example.

    3/1000 sum (relu(s + m))^2 where t <= 0, (relu(m - s))^2 where t > 0, over positions and
    channels; the factor is that of the authors' code.

    Args:
        teacher: Pre-activations t of shape [batch, ...positions, channels]; receive no gradient.
        student: Pre-activations s behind the connector, same shape.
        margin: m > 0.

    Returns:
        Shape [batch], at least 0.

    Raises:
        ValueError: If the shapes differ.

    Reference: Heo et al., arXiv:1811.03233, section 3.
    """
    check_same_shape(student.shape, teacher.shape, "a connector makes them meet.")
    teacher, student = ops.stop_gradient(teacher), at_least_float32(student)
    on, off = ops.relu(margin - student), ops.relu(student + margin)
    beyond = ops.where(teacher > 0.0, on, off)
    return 3e-3 * ops.sum(ops.square(beyond), axis=tuple(range(1, len(student.shape))))


@registry.method(
    "ab",
    title="Activation boundaries (AB)",
    kind="feature",
    needs="a layer before an activation of each",
    reference="arXiv:1811.03233",
)
class ActivationBoundary(FeatureLoss):
    """AB: neurons of the student are on where the teacher's are.

    The named layers are those *before* an activation, a convolution or its batch normalization.
    Between them stands a connector, a 1x1 convolution and a batch normalization. Of n pairs the
    i-th counts 2^(i - n), as in the authors' code.

    The paper trains in two stages: first on this loss alone, then the student on the task (and soft
    targets).

    Args:
        teacher_layer_name: A layer path, or a list of paths.
        student_layer_name: As many in the student.
        margin: m > 0.
        projector: `"auto"` for the connector, None for none, or a Keras layer of one's own; for
            several pairs a list of these.
        name: Name in the logs.

    Raises:
        ValueError: If the margin is not positive or the lists differ in length; when the distiller
            is made, if a layer is unknown or shapes do not meet.

    Example:
        >>> boundary = keras_kd.losses.get(
        ...     "ab", teacher_layer_name="block3_bn", student_layer_name="block2_bn"
        ... )
        >>> stage = keras_kd.Distiller(teacher, student, boundary, student_loss_weight=0.0)
        >>> stage.compile("adam")
        >>> stage.fit(x_train, y_train, epochs=40)
        >>> distiller = keras_kd.Distiller(teacher, student, keras_kd.LogitsDistillation(4.0))

    `distillation_loss_weights` is 1 in the first stage, where nothing else is minimized.

    Reference: Heo et al., arXiv:1811.03233, section 3.
    """

    def __init__(
        self, teacher_layer_name, student_layer_name, *, margin=1.0, projector=AUTO, name=None
    ):
        super().__init__(teacher_layer_name, student_layer_name, projector=projector, name=name)
        self.margin = schedules.checked("margin", margin, positive=True)
        if schedules.is_schedule(margin):
            raise ValueError(f"Expected margin to be a number. Received: {margin!r}")

    def compare(self, teacher, student, context, index):
        """Returns `activation_boundary` for one pair; see `FeatureLoss.compare`."""
        check_whole(context, index, self.name)
        values = activation_boundary(teacher=teacher, student=student, margin=self.margin)
        return halved(index, len(self._projectors)) * values

    def make_part(self, student_shape, teacher_shape, name):
        """Makes the connector; see `FeatureLoss.make_part`."""
        return make_connector(student_shape, teacher_shape, name)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "margin": self.margin}
