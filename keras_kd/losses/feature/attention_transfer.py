"""Attention transfer: where the student's maps are strong."""

from keras import ops

from keras_kd import schedules
from keras_kd.losses import registry
from keras_kd.losses.feature.feature_loss import AUTO, FeatureLoss
from keras_kd.losses.feature.maps import check_whole
from keras_kd.losses.feature.pooling import average_pool_larger
from keras_kd.numerics import at_least_float32, l2_normalize, safe_sqrt

MODES = ("code", "paper")


def attention_transfer(*, teacher, student, p=2, mode="code"):
    """Difference of the attention maps of teacher and student, per example.

    Q = vec(sum_c |f_c|^p) / ||.||_2; `"code"` is mean (Q_s - Q_t)^2 over the positions, as the
    authors' code computes it, `"paper"` is ||Q_s - Q_t||_2. The larger of two maps is
    average-pooled to the smaller size, along each axis.

    Args:
        teacher: Maps of shape [batch, height, width, channels]; receives no gradient.
        student: Maps of any size and number of channels.
        p: Exponent of at least 1.
        mode: `"code"` or `"paper"`.

    Returns:
        Shape [batch], at least 0.

    Reference: Zagoruyko and Komodakis, arXiv:1612.03928, equation 2 (with half of it and a sum over
    layers); their utils.py for `"code"`.
    """
    teacher, student = average_pool_larger(
        at_least_float32(ops.stop_gradient(teacher)), at_least_float32(student)
    )
    difference = _attention(student, p) - _attention(teacher, p)
    if mode == "code":
        return ops.mean(ops.square(difference), axis=(1, 2))
    return safe_sqrt(ops.sum(ops.square(difference), axis=(1, 2)))


def _attention(maps, p):
    # A scale goes with the normalization: without it no power can overflow.
    scale = ops.stop_gradient(ops.max(ops.abs(maps), axis=(1, 2, 3), keepdims=True))
    maps = maps / ops.where(scale > 0.0, scale, ops.ones_like(scale))
    strength = ops.square(maps) if p == 2 else ops.power(ops.abs(maps), p)
    return l2_normalize(ops.mean(strength, axis=-1), axis=(1, 2))


@registry.method(
    "at",
    title="Attention transfer (AT)",
    kind="feature",
    needs="a layer of each",
    reference="arXiv:1612.03928",
)
class AttentionTransfer(FeatureLoss):
    """Attention transfer: the student's maps are strong where the teacher's are.

    Args:
        teacher_layer_name: A layer path, or a list of paths whose values are summed; the paper
            takes the last layer of each stage.
        student_layer_name: As many in the student; sizes and channels may differ.
        p: Exponent of the strength of a map, at least 1.
        mode: `"code"`, mean of squared differences, or `"paper"`, the L2 norm; see
            `attention_transfer`.
        projector: `"auto"` and None for none, or a Keras layer of one's own in front of the loss;
            for several pairs a list of these.
        name: Name in the logs.

    Raises:
        ValueError: If p or the mode is out of range or the lists differ in length; when the
            distiller is made, if a layer is unknown.

    Example:
        >>> keras_kd.losses.get(
        ...     "at",
        ...     teacher_layer_name=["stage2", "stage3"],
        ...     student_layer_name=["block2", "block3"],
        ... )

    With mode `"code"`, `distillation_loss_weights` is 1000 in Tian et al., arXiv:1910.10699.

    Reference: Zagoruyko and Komodakis, arXiv:1612.03928, section 3.1.
    """

    match = None

    def __init__(
        self,
        teacher_layer_name,
        student_layer_name,
        *,
        p=2,
        mode="code",
        projector=AUTO,
        name=None,
    ):
        super().__init__(teacher_layer_name, student_layer_name, projector=projector, name=name)
        if schedules.is_schedule(p) or schedules.checked("p", p) < 1:
            raise ValueError(f"Expected p to be a number of at least 1. Received: {p!r}")
        if mode not in MODES:
            raise ValueError(f"Expected mode to be one of {MODES}. Received: {mode!r}")
        self.p = p
        self.mode = mode

    def compare(self, teacher, student, context, index):
        """Returns `attention_transfer` for one pair; see `FeatureLoss.compare`."""
        check_whole(context, index, self.name)
        return attention_transfer(teacher=teacher, student=student, p=self.p, mode=self.mode)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "p": self.p, "mode": self.mode}
