"""DIST: Pearson correlations of the predictions, within rows and within columns."""

from keras import ops

from keras_kd import schedules
from keras_kd.losses import registry
from keras_kd.losses.response.logits_loss import LogitsLoss
from keras_kd.losses.response.rows import like_positions, tempered_rows

_EPSILON, _FLOOR, _TINY = 1e-8, 1e-3, 1e-12


def dist(*, teacher, student, temperature, beta, gamma, valid=None):
    """How far the predictions are from correlating with the teacher's, per row.

    T^2 * [beta * (1 - corr(p_s,i, p_t,i)) + gamma * (1 - mean_c corr(p_s,:c, p_t,:c))], where corr
    is Pearson's correlation of two rows (inter-class) or two columns (intra-class) of the
    probabilities at temperature T, with 1e-8 added to the product of the norms. The second part is
    the batch's, the same for each of its rows.

    A departure from the paper: the student's centered norm counts as at least 1e-3 of its norm.
    Without it a student that predicts the same for all, as one whose head starts at 0, has a
    gradient of up to 1e8; what spreads more is as published.

    Args:
        teacher: Logits, shape [batch, ..., classes]; receives no gradient.
        student: Logits, same shape.
        temperature: T > 0, a float or a scalar tensor.
        beta: Weight of the correlation within rows, a float or a scalar tensor of at least 0.
        gamma: Weight of the correlation within columns, likewise.
        valid: None, or booleans of shape [batch, ...]: which rows count in the statistics; the
            others get 0.

    Returns:
        Shape [batch, ...]; the mean over the rows that count is the paper's value.

    Reference: Huang et al., arXiv:2205.10536.
    """
    p_t, p_s, counts = tempered_rows(
        teacher=teacher, student=student, temperature=temperature, valid=valid
    )
    number = ops.sum(counts)
    inside = ops.expand_dims(counts, -1)
    rows = _correlation(
        *((p - ops.mean(p, axis=-1, keepdims=True), p) for p in (p_t, p_s)), axis=-1
    )
    columns = _correlation(
        *(
            ((p - ops.divide_no_nan(ops.sum(p, axis=0, keepdims=True), number)) * inside, p)
            for p in (p_t, p_s)
        ),
        axis=0,
    )
    values = beta * (1.0 - rows) + gamma * (1.0 - ops.mean(columns))
    return like_positions(temperature**2 * counts * values, student)


def _correlation(teacher, student, axis):
    """Returns Pearson's correlation along an axis of two (centered, uncentered) tensors."""
    (t, _), (s, uncentered) = teacher, student
    floor = _FLOOR**2 * ops.stop_gradient(ops.sum(ops.square(uncentered), axis=axis))
    # The floors stand under the roots, whose gradient at 0 would be infinite.
    norm_s = ops.sqrt(ops.maximum(ops.sum(ops.square(s), axis=axis), floor + _TINY**2))
    norm_t = ops.sqrt(ops.sum(ops.square(t), axis=axis))
    return ops.sum(t * s, axis=axis) / (norm_t * norm_s + _EPSILON)


@registry.method("dist", title="DIST", kind="response", reference="arXiv:2205.10536")
class InterIntraDistillation(LogitsLoss):
    """The student's predictions correlate with those of a teacher much stronger than itself.

    The correlation within columns is that of a batch: each token or pixel is a row of it, padding
    and examples of weight 0 are not.

    Args:
        temperature: T > 0, a float or a schedule; the paper takes 1, and 4 on CIFAR-100.
        beta: Weight of the correlation within rows (inter-class), a float of at least 0 or a
            schedule.
        gamma: Weight of the correlation within columns (intra-class), likewise.
        **options: `output`, `teacher_outputs`, `student_outputs` and `name` as in `LogitsLoss`.

    Raises:
        ValueError: If a number is out of range or an option unknown; when the distiller is made, if
            an output is neither logits nor softmax.

    Example:
        >>> keras_kd.losses.get("dist", beta=2.0, gamma=2.0, temperature=4.0)

    Reference: Huang et al., arXiv:2205.10536; weight 1 beside the task loss.
    """

    batch_level = True
    leaves_out = True
    arguments = ("temperature", "beta", "gamma")

    def __init__(self, *, temperature=1.0, beta=2.0, gamma=2.0, **options):
        super().__init__(temperature=temperature, **options)
        self.beta = schedules.checked("beta", beta)
        self.gamma = schedules.checked("gamma", gamma)

    def compare(self, teacher, student, temperature, context):
        """Returns `dist` at every position."""
        return dist(
            teacher=teacher,
            student=student,
            temperature=temperature,
            beta=schedules.value_at(self.beta, context.step),
            gamma=schedules.value_at(self.gamma, context.step),
            valid=self.valid(context, student),
        )
