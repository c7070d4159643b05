"""Normalized distillation: soft labels for the target, normalized ones for the others."""

from keras import ops

from keras_kd import schedules
from keras_kd.losses import registry
from keras_kd.losses.response.logits_loss import LogitsLoss
from keras_kd.losses.response.targets import (
    is_target,
    log_softmax_of_others,
    softmax_of_others,
    target_margin,
)


def nkd(*, teacher, student, labels, temperature, gamma):
    """Cross-entropy with the teacher's target and its normalized other classes, per row.

    -p_t,y * log p_s,y - gamma * T^2 * sum_i q_t,i * log q_s,i, where p is the softmax at
    temperature 1 and q that over the classes other than y at temperature T. A cross-entropy: not 0
    where student and teacher agree.

    Args:
        teacher: Logits, shape [batch, ..., classes], at least two classes; receives no gradient.
        student: Logits, same shape.
        labels: Class numbers y, integers of shape [batch, ...].
        temperature: T > 0, a float or a scalar tensor.
        gamma: Weight of the other classes, a float or a scalar tensor of at least 0.

    Returns:
        Shape [batch, ...], in nats.

    Reference: Yang et al., arXiv:2303.13005.
    """
    teacher = ops.stop_gradient(teacher)
    target = is_target(labels, student)
    t, s = (target_margin(side, target, 1.0) for side in (teacher, student))
    q_t = softmax_of_others(teacher, target, temperature)
    others = ops.sum(q_t * log_softmax_of_others(student, target, temperature), axis=-1)
    return -ops.sigmoid(t) * ops.log_sigmoid(s) - gamma * temperature**2 * others


@registry.method(
    "nkd",
    title="Normalized (NKD)",
    kind="response",
    needs="labels",
    reference="arXiv:2303.13005",
)
class NormalizedDistillation(LogitsLoss):
    """Soft targets whose other classes sum to 1, like the student's, whatever the target's share.

    Args:
        temperature: T > 0 of the other classes, a float or a schedule.
        gamma: Weight of the other classes, a float of at least 0 or a schedule.
        **options: `output`, `teacher_outputs`, `student_outputs` and `name` as in `LogitsLoss`.

    Raises:
        ValueError: If a number is out of range or an option unknown; when the distiller is made, if
            an output is neither logits nor softmax; in training, without labels.

    Example:
        >>> keras_kd.losses.get("nkd", gamma=1.5, temperature=1.0)

    Reference: Yang et al., arXiv:2303.13005; weight 1 beside the task loss.
    """

    needs = frozenset({"labels"})
    arguments = ("temperature", "gamma")

    def __init__(self, *, temperature=1.0, gamma=1.5, **options):
        super().__init__(temperature=temperature, **options)
        self.gamma = schedules.checked("gamma", gamma)

    def compare(self, teacher, student, temperature, context):
        """Returns `nkd` at every position."""
        return nkd(
            teacher=teacher,
            student=student,
            labels=self.labels(context, student),
            temperature=temperature,
            gamma=schedules.value_at(self.gamma, context.step),
        )
