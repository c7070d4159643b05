"""Decoupled distillation: the target class and the others, each with a weight of its own."""

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


def dkd(*, teacher, student, labels, temperature, alpha, beta):
    """Decoupled KL divergence from the teacher to the student, per row.

    T^2 * [alpha * KL(b_t || b_s) + beta * KL(q_t || q_s)], where b = (p_y, 1 - p_y) and q is the
    softmax over the classes other than y, all at temperature T. Computed from the log-odds of y, so
    that it stays finite where 1 - p_y underflows and the published form does not.

    Args:
        teacher: Logits, shape [batch, ..., classes], at least two classes; receives no gradient.
        student: Logits, same shape.
        labels: Class numbers y, integers of shape [batch, ...].
        temperature: T > 0, a float or a scalar tensor.
        alpha: Weight of the target class, a float or a scalar tensor of at least 0.
        beta: Weight of the other classes, likewise.

    Returns:
        Shape [batch, ...], in nats.

    Reference: Zhao et al., arXiv:2203.08679, equation 7.
    """
    teacher = ops.stop_gradient(teacher)
    target = is_target(labels, student)
    t, s = (target_margin(side, target, temperature) for side in (teacher, student))
    binary = ops.sigmoid(t) * (ops.log_sigmoid(t) - ops.log_sigmoid(s)) + ops.sigmoid(-t) * (
        ops.log_sigmoid(-t) - ops.log_sigmoid(-s)
    )
    log_q_t, log_q_s = (
        log_softmax_of_others(side, target, temperature) for side in (teacher, student)
    )
    q_t = softmax_of_others(teacher, target, temperature)
    others = ops.sum(q_t * (log_q_t - log_q_s), axis=-1)
    return temperature**2 * (alpha * binary + beta * others)


@registry.method(
    "dkd",
    title="Decoupled (DKD)",
    kind="response",
    needs="labels",
    reference="arXiv:2203.08679",
)
class DecoupledDistillation(LogitsLoss):
    """Soft targets in two parts: how sure the teacher is of the label, and what else it could be.

    The paper grows the whole loss over the first 20 epochs: `distillation_loss_weights=
    schedules.WarmUp(1.0, steps)`. With `alpha` or `beta` as such a schedule one part grows alone.

    Args:
        temperature: T > 0, a float or a schedule.
        alpha: Weight of the target class, a float of at least 0 or a schedule.
        beta: Weight of the other classes, likewise; the paper takes 2 to 8, larger for teachers
            that are surer.
        **options: `output`, `teacher_outputs`, `student_outputs` and `name` as in `LogitsLoss`.

    Raises:
        ValueError: If a number is out of range or an option unknown; when the distiller is made, if
            an output is neither logits nor softmax; in training, without labels.

    Example:
        >>> warm = keras_kd.schedules.WarmUp(8.0, steps=20 * steps_per_epoch)
        >>> keras_kd.losses.get("dkd", beta=warm)

    Reference: Zhao et al., arXiv:2203.08679, equation 7; weight 1 beside the task loss.
    """

    needs = frozenset({"labels"})
    arguments = ("temperature", "alpha", "beta")

    def __init__(self, *, temperature=4.0, alpha=1.0, beta=8.0, **options):
        super().__init__(temperature=temperature, **options)
        self.alpha = schedules.checked("alpha", alpha)
        self.beta = schedules.checked("beta", beta)

    def compare(self, teacher, student, temperature, context):
        """Returns `dkd` at every position."""
        return dkd(
            teacher=teacher,
            student=student,
            labels=self.labels(context, student),
            temperature=temperature,
            alpha=schedules.value_at(self.alpha, context.step),
            beta=schedules.value_at(self.beta, context.step),
        )
