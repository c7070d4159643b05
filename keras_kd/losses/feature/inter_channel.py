"""Inter-channel correlation (ICKD): which channels respond together."""

from keras import ops

from keras_kd.losses import registry
from keras_kd.losses.feature.feature_loss import FeatureLoss
from keras_kd.losses.feature.maps import as_maps, check_whole
from keras_kd.losses.feature.pooling import channel_rows
from keras_kd.numerics import at_least_float32, l2_normalize
from keras_kd.projectors import check_same_shape


def inter_channel(*, teacher, student, valid=None):
    """Squared difference of the channels' row-normalised Gram matrices, per example.

    G = F F' over the positions, each row L2-normalised; sum_ij (G_s - G_t)^2 / (C N), so that the
    mean over the batch of N is the sum over C N^2, as in the authors' code (the paper: over C^2).

    Args:
        teacher: Maps of shape [batch, height, width, channels]; receive no gradient.
        student: Maps of as many channels; sizes may differ.
        valid: None, or which examples count, booleans of shape [batch]; the others get 0 and are
            not in N.

    Returns:
        Shape [batch], at least 0.

    Raises:
        ValueError: If the channels differ.

    Reference: Liu et al., Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge
    Distillation, ICCV 2021, section 3.2.
    """
    student_gram = _correlation(student, valid)
    teacher_gram = _correlation(ops.stop_gradient(teacher), valid)
    check_same_shape(
        student_gram.shape, teacher_gram.shape, "projector='auto' makes channels equal."
    )
    if valid is None:
        examples = ops.cast(ops.shape(student_gram)[0], student_gram.dtype)
    else:
        examples = ops.maximum(ops.sum(ops.cast(valid, student_gram.dtype)), 1.0)
    squares = ops.sum(ops.square(student_gram - teacher_gram), axis=(1, 2))
    return squares / (student_gram.shape[-1] * examples)


def _correlation(maps, valid):
    rows = channel_rows(as_maps(at_least_float32(maps)))
    if valid is not None:
        kept = ops.reshape(ops.cast(valid, "bool"), (-1, 1, 1))
        rows = ops.where(kept, rows, ops.zeros_like(rows))
    # A scale goes with the normalization: without it the Gram's squares cannot overflow.
    scale = ops.stop_gradient(ops.max(ops.abs(rows), axis=(1, 2), keepdims=True))
    rows = rows / ops.where(scale > 0.0, scale, ops.ones_like(scale))
    return l2_normalize(ops.matmul(rows, ops.transpose(rows, (0, 2, 1))), axis=-1)


@registry.method(
    "ickd",
    title="Inter-channel correlation (ICKD)",
    kind="feature",
    needs="a layer of each",
    reference="Liu et al., ICCV 2021",
)
class InterChannel(FeatureLoss):
    """ICKD: channels of the student respond together as the teacher's do.

    The value is divided by the number of examples once more than a mean is, as in the authors'
    code: sample weights other than 0 and 1 are refused, and examples of weight 0 are not counted.

    Args:
        teacher_layer_name: A layer path, or a list of paths whose values are summed.
        student_layer_name: As many in the student; sizes and channels may differ.
        projector: `"auto"` for a 1x1 convolution where channels differ, None for none, or a Keras
            layer of one's own; for several pairs a list of these.
        name: Name in the logs.

    Raises:
        ValueError: If the lists differ in length; when the distiller is made, if a layer is
            unknown.

    Example:
        >>> keras_kd.losses.get("ickd", teacher_layer_name="block3", student_layer_name="block2")

    Reference: Liu et al., Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge
    Distillation, ICCV 2021, section 3.
    """

    batch_level = True
    leaves_out = True
    match = "channels"

    def compare(self, teacher, student, context, index):
        """Returns `inter_channel` for one pair; see `FeatureLoss.compare`."""
        check_whole(context, index, self.name)
        return inter_channel(teacher=teacher, student=student, valid=context.valid)
