"""Weighted soft labels: a teacher counts where it is surer of the label than its student."""

from keras import ops

from keras_kd.losses import registry
from keras_kd.losses.response.logits_loss import LogitsLoss
from keras_kd.losses.response.targets import is_target, target_margin
from keras_kd.numerics import tempered_log_softmax

_EPSILON = 1e-7


def wsld(*, teacher, student, labels, temperature):
    """Tempered cross-entropy, weighted by how far the student is behind its teacher, per row.

    T^2 * w * H(softmax(teacher / T), softmax(student / T)) with
    w = 1 - exp(-CE(student) / (CE(teacher) + 1e-7)), the cross-entropies with the label at
    temperature 1; w receives no gradient. Not 0 where student and teacher agree.

    Args:
        teacher: Logits, shape [batch, ..., classes]; receives no gradient.
        student: Logits, same shape.
        labels: Class numbers, integers of shape [batch, ...].
        temperature: T > 0, a float or a scalar tensor.

    Returns:
        Shape [batch, ...], in nats.

    Reference: Zhou et al., arXiv:2102.00650.
    """
    teacher = ops.stop_gradient(teacher)
    target = is_target(labels, student)
    ce_t, ce_s = (
        -ops.log_sigmoid(target_margin(side, target, 1.0))
        for side in (teacher, ops.stop_gradient(student))
    )
    weight = -ops.expm1(-ce_s / (ce_t + _EPSILON))
    p_t = ops.exp(tempered_log_softmax(teacher, temperature))
    cross_entropy = -ops.sum(p_t * tempered_log_softmax(student, temperature), axis=-1)
    return temperature**2 * weight * cross_entropy


@registry.method(
    "wsld",
    title="Weighted soft labels (WSLD)",
    kind="response",
    needs="labels",
    reference="arXiv:2102.00650",
)
class WeightedSoftLabels(LogitsLoss):
    """Soft targets that count less where the teacher is no surer of the label than its student.

    Args:
        temperature: T > 0, a float or a schedule.
        **options: `output`, `teacher_outputs`, `student_outputs` and `name` as in `LogitsLoss`.

    Raises:
        ValueError: If the temperature is not positive or an option unknown; when the distiller is
            made, if an output is neither logits nor softmax; in training, without labels.

    Example:
        >>> loss = keras_kd.losses.get("wsld", temperature=2.0)
        >>> keras_kd.Distiller(teacher, student, loss, distillation_loss_weights=2.5)

    Reference: Zhou et al., arXiv:2102.00650; weight 2.5 beside the task loss.
    """

    needs = frozenset({"labels"})

    def __init__(self, *, temperature=2.0, **options):
        super().__init__(temperature=temperature, **options)

    def compare(self, teacher, student, temperature, context):
        """Returns `wsld` at every position."""
        return wsld(
            teacher=teacher,
            student=student,
            labels=self.labels(context, student),
            temperature=temperature,
        )
