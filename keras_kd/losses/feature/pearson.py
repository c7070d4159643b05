"""Pearson correlation of features (PKD): what remains once scale and offset are gone."""

from keras import ops

from keras_kd.losses import registry
from keras_kd.losses.feature.feature_loss import FeatureLoss
from keras_kd.losses.feature.maps import as_maps, check_whole
from keras_kd.numerics import at_least_float32, safe_sqrt
from keras_kd.projectors import check_same_shape


def pearson_feature(*, teacher, student, valid=None):
    """Half the mean squared difference of standardised features, per example.

    1/2 mean (n(s) - n(t))^2, where n gives each channel the mean 0 and the standard deviation 1
    over the batch and the positions: 1 minus the channels' Pearson correlation. The deviation is
    unbiased and 1e-6 is added to it; a channel that is constant up to rounding becomes 0 and gets
    no gradient. A student's map of another size is resized bilinearly to the teacher's.

    Args:
        teacher: Maps of shape [batch, height, width, channels]; receive no gradient.
        student: Maps of as many channels.
        valid: None, or which examples count, booleans of shape [batch]; the others get 0.

    Returns:
        Shape [batch], at least 0.

    Raises:
        ValueError: If the channels differ.

    Reference: Cao et al., arXiv:2207.02039, section 3.
    """
    teacher, student = (as_maps(at_least_float32(maps)) for maps in (teacher, student))
    if tuple(teacher.shape[1:3]) != tuple(student.shape[1:3]):
        student = ops.image.resize(
            student, teacher.shape[1:3], interpolation="bilinear", data_format="channels_last"
        )
    check_same_shape(student.shape, teacher.shape, "projector='auto' makes channels equal.")
    if valid is not None:
        valid = ops.reshape(ops.cast(valid, "bool"), (-1, 1, 1, 1))
    difference = _standardized(student, valid) - _standardized(ops.stop_gradient(teacher), valid)
    return 0.5 * ops.mean(ops.square(difference), axis=(1, 2, 3))


def _standardized(maps, valid):
    batch, height, width, _ = ops.shape(maps)
    zeros = ops.zeros_like(maps)
    if valid is not None:
        maps = ops.where(valid, maps, zeros)
        batch = ops.sum(ops.cast(valid, maps.dtype))
    count = ops.cast(batch, maps.dtype) * ops.cast(height * width, maps.dtype)
    mean = ops.sum(maps, axis=(0, 1, 2), keepdims=True) / ops.maximum(count, 1.0)
    centred = maps - mean if valid is None else ops.where(valid, maps - mean, zeros)
    squares = ops.sum(ops.square(centred), axis=(0, 1, 2), keepdims=True)
    deviation = safe_sqrt(squares / ops.maximum(count - 1.0, 1.0))
    # Below the rounding of the mean there is nothing but noise.
    varies = deviation > 1e-6 * ops.abs(mean)
    return ops.where(varies, centred / (deviation + 1e-6), zeros)


@registry.method(
    "pkd",
    title="Pearson correlation of features (PKD)",
    kind="feature",
    needs="a layer of each",
    reference="arXiv:2207.02039",
)
class PearsonFeature(FeatureLoss):
    """PKD: channels of the student correlate with the teacher's, whatever their scale.

    One number for the batch, whose rows are the examples' shares: sample weights other than 0 and 1
    are refused, and examples of weight 0 stay out of the statistics.

    Args:
        teacher_layer_name: A layer path, or a list of paths whose values are summed; the paper
            takes the levels of a detector's neck.
        student_layer_name: As many in the student; sizes and channels may differ.
        projector: `"auto"` for a 1x1 convolution where channels differ, None for none, or a Keras
            layer of one's own; for several pairs a list of these.
        name: Name in the logs.

    Raises:
        ValueError: If the lists differ in length; when the distiller is made, if a layer is
            unknown.

    Example:
        >>> keras_kd.losses.get("pkd", teacher_layer_name="block3", student_layer_name="block2")

    `distillation_loss_weights` is 6 in the paper.

    Reference: Cao et al., arXiv:2207.02039, section 3.
    """

    batch_level = True
    leaves_out = True
    match = "channels"

    def compare(self, teacher, student, context, index):
        """Returns `pearson_feature` for one pair; see `FeatureLoss.compare`."""
        check_whole(context, index, self.name)
        return pearson_feature(teacher=teacher, student=student, valid=context.valid)
