"""Hidden states: every token's vector in the student follows that in the teacher."""

from keras import ops

from keras_kd.losses import registry
from keras_kd.losses.response.settle import options as one_of
from keras_kd.losses.sequence.sequence_loss import SequenceLoss
from keras_kd.numerics import at_least_float32, l2_normalize, mean_over_positions
from keras_kd.projectors import check_same_shape


def hidden_mse(*, teacher, student, mask=None, position_weight=None):
    """Mean squared difference of hidden states, over the valid tokens.

    mean over units of (h_s - h_t)^2 for each token.

    Args:
        teacher: h_t, shape [batch, length, units]; receives no gradient.
        student: h_s, same shape.
        mask: None, or the valid tokens, booleans of shape [batch, length].
        position_weight: None, or weights of shape [batch, length].

    Returns:
        Shape [batch]; its mean is the mean over the valid tokens of the batch.

    Raises:
        ValueError: If the shapes differ.

    Reference: Jiao et al., arXiv:1909.10351, equation 9, without the projection.
    """
    teacher, student = _meet(teacher, student)
    values = ops.mean(ops.square(student - teacher), axis=-1)
    return mean_over_positions(values, mask, position_weight)


def hidden_cosine(*, teacher, student, mask=None, position_weight=None):
    """Cosine distance of hidden states, over the valid tokens.

    1 - cos(h_s, h_t) for each token. A vector of zeros has the cosine 0, and no gradient.

    Args:
        teacher: h_t, shape [batch, length, units]; receives no gradient.
        student: h_s, same shape.
        mask: None, or the valid tokens, booleans of shape [batch, length].
        position_weight: None, or weights of shape [batch, length].

    Returns:
        Shape [batch], in [0, 2] where all lengths are equal; its mean is the mean over the valid
        tokens of the batch.

    Raises:
        ValueError: If the shapes differ.

    Reference: Sanh et al., arXiv:1910.01108, section 3.
    """
    teacher, student = _meet(teacher, student)
    values = 1.0 - ops.sum(l2_normalize(student) * l2_normalize(teacher), axis=-1)
    return mean_over_positions(values, mask, position_weight)


_DISTANCES = {"mse": hidden_mse, "cosine": hidden_cosine}


@registry.method(
    "hidden",
    title="Hidden states",
    kind="sequence",
    needs="a layer of each",
    reference="arXiv:1908.09355",
)
class HiddenStates(SequenceLoss):
    """Hidden states of tokens: those of the student follow those of the teacher.

    Where the sizes differ, a linear projection leads from the student's to the teacher's; it is
    trained along. Several layers are matched by lists of paths, and their values summed.

    Args:
        teacher_layer_name: Layer path in the teacher, or a list of paths.
        student_layer_name: As many in the student.
        distance: `"mse"` or `"cosine"`.
        mask_input: Key of the input that is the padding mask; None to go by Keras's masks.
        projector: `"auto"`, None to ask for equal sizes, or a Keras layer of one's own; for several
            pairs a list of these.
        name: Name in the logs.

    Raises:
        ValueError: If the lists differ in length or the distance is unknown; when the distiller is
            made, if a layer is unknown or lengths differ.

    Example:
        >>> loss = keras_kd.losses.get(
        ...     "hidden",
        ...     teacher_layer_name=["block2", "block4"],
        ...     student_layer_name=["block1", "block2"],
        ... )

    Reference: Sun et al., arXiv:1908.09355, section 3.2, and the losses of TextBrewer,
    arXiv:2002.12620: there the first token alone is compared, here every one. With
    `distillation_loss_weights` of 1 beside soft targets.
    """

    def __init__(self, teacher_layer_name, student_layer_name, *, distance="mse", **options):
        super().__init__(teacher_layer_name, student_layer_name, **options)
        self.distance = one_of("distance", distance, tuple(_DISTANCES))

    def compare(self, teacher, student, context, index):
        """Returns the distance of each example, shape [batch]."""
        return _DISTANCES[self.distance](
            teacher=teacher,
            student=student,
            mask=context.mask(index),
            position_weight=context.position_weight,
        )

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "distance": self.distance}


def _meet(teacher, student):
    """Returns both in float32 at least, the teacher's without gradient."""
    check_same_shape(student.shape, teacher.shape, "a projector makes them meet.")
    return at_least_float32(ops.stop_gradient(teacher)), at_least_float32(student)
