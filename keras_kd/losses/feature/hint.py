"""FitNets: the student's guided layer regresses the teacher's hint layer."""

import keras
from keras import layers, ops

from keras_kd.losses import registry
from keras_kd.losses.feature.connectors import finished, make_connector
from keras_kd.losses.feature.feature_loss import AUTO, FeatureLoss
from keras_kd.numerics import at_least_float32, mean_over_positions
from keras_kd.projectors import check_same_shape


def hint(*, teacher, student, mask=None, position_weight=None):
    """Mean squared difference of two features.

    mean (r(f_s) - f_t)^2 over positions and channels; the paper's equation 3 has half the sum.

    Args:
        teacher: The hint f_t, shape [batch, ...positions, channels]; receives no gradient.
        student: Behind the regressor, r(f_s), same shape.
        mask: None, or the valid positions, booleans of shape [batch, ...positions].
        position_weight: None, or weights of shape [batch, ...positions].

    Returns:
        Shape [batch].

    Raises:
        ValueError: If the shapes differ.

    Reference: Romero et al., arXiv:1412.6550, equation 3.
    """
    check_same_shape(student.shape, teacher.shape, "a projector makes them meet.")
    teacher = at_least_float32(ops.stop_gradient(teacher))
    values = ops.mean(ops.square(at_least_float32(student) - teacher), axis=-1)
    return mean_over_positions(values, mask, position_weight)


@registry.method(
    "fitnets",
    title="FitNets (hint)",
    kind="feature",
    needs="a layer of each",
    reference="arXiv:1412.6550",
)
class Hint(FeatureLoss):
    """FitNets: a layer of the student, behind a regressor, follows a layer of the teacher.

    The regressor is a convolution, a batch normalization and an activation. Its convolution brings
    the map to the teacher's size: a stride of 2 for twice the size, a transposed one for half of
    it, a kernel of the difference for other larger sizes; what is smaller otherwise is resized
    first.

    The paper trains in two stages: first the layers up to the guided one on the hint alone, then
    the whole student on soft targets. Layers above the guided one get no gradient in the first
    stage (of which Keras warns) and keep their weights; only moving statistics of normalizations
    follow the forward pass.

    Args:
        teacher_layer_name: The hint layer, a path, or a list of paths.
        student_layer_name: The guided layer, or as many.
        activation: Of the regressor; None where the hint is taken before an activation.
        projector: `"auto"` for the regressor, None for none, or a Keras layer of one's own; for
            several pairs a list of these.
        name: Name in the logs.

    Raises:
        ValueError: If the lists differ in length; when the distiller is made, if a layer is unknown
            or the shapes do not meet.

    Example:
        >>> hint = keras_kd.losses.get(
        ...     "fitnets", teacher_layer_name="block3", student_layer_name="block2"
        ... )
        >>> stage = keras_kd.Distiller(teacher, student, hint, student_loss_weight=0.0)
        >>> stage.compile("adam")
        >>> stage.fit(x_train, y_train, epochs=40)
        >>> distiller = keras_kd.Distiller(teacher, student, keras_kd.LogitsDistillation(4.0))

    In one stage, together with the task, `distillation_loss_weights` is 100 in
    Tian et al., arXiv:1910.10699.

    Reference: Romero et al., arXiv:1412.6550, sections 2.2 and 2.3.
    """

    def __init__(
        self,
        teacher_layer_name,
        student_layer_name,
        *,
        activation="relu",
        projector=AUTO,
        name=None,
    ):
        super().__init__(teacher_layer_name, student_layer_name, projector=projector, name=name)
        keras.activations.get(activation)
        self.activation = activation

    def compare(self, teacher, student, context, index):
        """Returns `hint` for one pair; see `FeatureLoss.compare`."""
        return hint(
            teacher=teacher,
            student=student,
            mask=context.mask(index),
            position_weight=context.position_weight,
        )

    def make_part(self, student_shape, teacher_shape, name):
        """Makes the regressor; see `FeatureLoss.make_part`."""
        convolution = _convolution(student_shape, teacher_shape)
        if convolution is None:
            return make_connector(student_shape, teacher_shape, name, activation=self.activation)
        return finished([convolution], student_shape, name, self.activation)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "activation": self.activation}


def _convolution(student_shape, teacher_shape):
    """Returns the convolution that alone makes two sizes of maps equal, if there is one."""
    sizes = (*student_shape[1:-1], *teacher_shape[1:-1])
    if len(student_shape) != 4 or len(teacher_shape) != 4 or None in sizes:
        return None
    pairs = list(zip(student_shape[1:-1], teacher_shape[1:-1], strict=True))
    channels, options = teacher_shape[-1], {"use_bias": False, "name": "convolution"}
    if all(s == 2 * t for s, t in pairs):
        return layers.Conv2D(channels, 3, 2, padding="same", **options)
    if all(2 * s == t for s, t in pairs):
        return layers.Conv2DTranspose(channels, 4, 2, padding="same", **options)
    if all(s >= t for s, t in pairs):
        return layers.Conv2D(channels, [1 + s - t for s, t in pairs], **options)
    return None
