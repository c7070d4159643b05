"""Neuron selectivity transfer: which patterns the channels respond to."""

from keras import ops

from keras_kd.losses import registry
from keras_kd.losses.feature.feature_loss import FeatureLoss
from keras_kd.losses.feature.maps import check_whole
from keras_kd.losses.feature.pooling import average_pool_larger, channel_rows
from keras_kd.numerics import at_least_float32, l2_normalize


def neuron_selectivity(*, teacher, student):
    """Squared maximum mean discrepancy of the channels' maps, per example.

    mean k(t_i, t_j) + mean k(s_i, s_j) - 2 mean k(s_i, t_j), with k(a, b) = (a'b)^2, the polynomial
    kernel of degree 2 without constant, and t_i, s_i the maps of the channels, L2-normalised. The
    larger of two maps is average-pooled to the smaller size. A channel of zeros stays zero.

    Args:
        teacher: Maps of shape [batch, height, width, channels]; receives no gradient.
        student: Maps of any size and number of channels.

    Returns:
        Shape [batch], at least 0 up to rounding.

    Reference: Huang and Wang, arXiv:1707.01219, section 4.
    """
    teacher, student = average_pool_larger(
        at_least_float32(ops.stop_gradient(teacher)), at_least_float32(student)
    )
    teacher, student = (l2_normalize(channel_rows(maps)) for maps in (teacher, student))

    def kernel_mean(a, b):
        products = ops.matmul(a, ops.transpose(b, (0, 2, 1)))
        return ops.mean(ops.square(products), axis=(1, 2))

    same = kernel_mean(teacher, teacher) + kernel_mean(student, student)
    return same - 2.0 * kernel_mean(student, teacher)


@registry.method(
    "nst",
    title="Neuron selectivity transfer (NST)",
    kind="feature",
    needs="a layer of each",
    reference="arXiv:1707.01219",
)
class NeuronSelectivity(FeatureLoss):
    """NST: the student's channels are selective as the teacher's are, in distribution.

    Args:
        teacher_layer_name: A layer path, or a list of paths whose values are summed.
        student_layer_name: As many in the student; sizes and channels may differ.
        projector: `"auto"` and None for none, or a Keras layer of one's own in front of the loss;
            for several pairs a list of these.
        name: Name in the logs.

    Raises:
        ValueError: If the lists differ in length; when the distiller is made, if a layer is
            unknown.

    Example:
        >>> keras_kd.losses.get("nst", teacher_layer_name="block3", student_layer_name="block2")

    `distillation_loss_weights` is 50 in Tian et al., arXiv:1910.10699.

    Reference: Huang and Wang, arXiv:1707.01219, section 4.
    """

    match = None

    def compare(self, teacher, student, context, index):
        """Returns `neuron_selectivity` for one pair; see `FeatureLoss.compare`."""
        check_whole(context, index, self.name)
        return neuron_selectivity(teacher=teacher, student=student)
