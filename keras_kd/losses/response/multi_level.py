"""Multi-level distillation: predictions at several temperatures, and how they correlate."""

from keras import ops

from keras_kd import schedules
from keras_kd.losses import registry
from keras_kd.losses.response.logits_loss import LogitsLoss
from keras_kd.losses.response.rows import like_positions, tempered_rows
from keras_kd.losses.response.soft_target import soft_target
from keras_kd.numerics import without_padding


def class_correlation(*, teacher, student, temperature, valid=None):
    """Squared difference of the Gram matrices of the classes, per row.

    ||P_s' P_s - P_t' P_t||^2 / C, where P holds the probabilities of a batch at temperature T, a
    row for each prediction. It is the batch's value, the same for each of its rows.

    Args:
        teacher: Logits, shape [batch, ..., classes]; receives no gradient.
        student: Logits, same shape.
        temperature: T > 0, a float or a scalar tensor.
        valid: None, or booleans of shape [batch, ...]: which rows count; the others get 0.

    Returns:
        Shape [batch, ...].

    Reference: Jin et al., Multi-Level Logit Distillation, CVPR 2023, class level.
    """
    p_t, p_s, counts = tempered_rows(
        teacher=teacher, student=student, temperature=temperature, valid=valid
    )
    difference = ops.matmul(ops.transpose(p_s), p_s) - ops.matmul(ops.transpose(p_t), p_t)
    value = ops.sum(ops.square(difference)) / student.shape[-1]
    return like_positions(value * counts, student)


def batch_correlation(*, teacher, student, temperature, valid=None):
    """Squared difference of the Gram matrices of a batch, per row.

    sum_j (P_s P_s' - P_t P_t')_ij^2, where P holds the probabilities of a batch at temperature T, a
    row for each of N predictions; the mean over the rows is the paper's ||...||^2 / N.

    Args:
        teacher: Logits, shape [batch, ..., classes]; receives no gradient.
        student: Logits, same shape.
        temperature: T > 0, a float or a scalar tensor.
        valid: None, or booleans of shape [batch, ...]: which rows count; the others get 0.

    Returns:
        Shape [batch, ...].

    Reference: Jin et al., Multi-Level Logit Distillation, CVPR 2023, batch level.
    """
    p_t, p_s, _ = tempered_rows(
        teacher=teacher, student=student, temperature=temperature, valid=valid
    )
    difference = ops.matmul(p_s, ops.transpose(p_s)) - ops.matmul(p_t, ops.transpose(p_t))
    return like_positions(ops.sum(ops.square(difference), axis=-1), student)


def mlkd(*, teacher, student, temperatures, class_weight, batch_weight, valid=None):
    """Soft targets and correlations of the predictions at several temperatures, per row.

    sum_T [soft_target + class_weight * class_correlation + batch_weight * batch_correlation].

    Args:
        teacher: Logits, shape [batch, ..., classes]; receives no gradient.
        student: Logits, same shape.
        temperatures: The temperatures, floats above 0.
        class_weight: Weight of the correlation of classes, a float or a scalar tensor.
        batch_weight: Weight of the correlation of predictions, likewise.
        valid: None, or booleans of shape [batch, ...]: which rows count; the others get 0.

    Returns:
        Shape [batch, ...]; the mean over the rows that count is the batch's value.

    Reference: Jin et al., Multi-Level Logit Distillation, CVPR 2023.
    """
    # A row that does not count may hold anything, NaN too; zeros on both sides have no divergence.
    teacher, student = (without_padding(side, valid) for side in (teacher, student))
    total = 0.0
    for temperature in temperatures:
        logits = {"teacher": teacher, "student": student, "temperature": temperature}
        total += (
            soft_target(**logits)
            + class_weight * class_correlation(**logits, valid=valid)
            + batch_weight * batch_correlation(**logits, valid=valid)
        )
    return total


@registry.method(
    "mlkd", title="Multi-level (MLKD)", kind="response", reference="CVPR 2023, Jin et al."
)
class MultiLevelDistillation(LogitsLoss):
    """Soft targets at several temperatures, with the correlations of classes and of predictions.

    The values of the temperatures are summed, as in the authors' code, each reduced by itself: the
    soft target as mean over the predictions, the correlation of classes as sum over C x C divided
    by C, that of predictions as sum over N x N divided by N. Departures from the paper: all
    predictions and classes count, not only those that the teacher is least sure of, and there is
    no second, strongly augmented view of the batch.

    Each token or pixel is a prediction of its own; padding and examples of weight 0 do not count.

    Args:
        temperatures: The temperatures, a sequence of numbers above 0.
        class_weight: Weight of the correlation of classes, a float of at least 0 or a schedule.
        batch_weight: Weight of the correlation of predictions, likewise.
        **options: `output`, `teacher_outputs`, `student_outputs` and `name` as in `LogitsLoss`.

    Raises:
        ValueError: If there is no temperature, a number is out of range or an option unknown; when
            the distiller is made, if an output is neither logits nor softmax.

    Example:
        >>> keras_kd.losses.get("mlkd", temperatures=(2.0, 4.0))

    Reference: Jin et al., Multi-Level Logit Distillation, CVPR 2023; Sun et al., arXiv:2403.01427,
    run it with weight 9 for all parts beside 0.1 for the task.
    """

    batch_level = True
    leaves_out = True
    arguments = ("temperatures", "class_weight", "batch_weight")

    def __init__(
        self,
        *,
        temperatures=(2.0, 3.0, 4.0, 5.0, 6.0),
        class_weight=1.0,
        batch_weight=1.0,
        **options,
    ):
        super().__init__(**options)
        if not isinstance(temperatures, list | tuple) or not temperatures:
            raise ValueError(
                f"Expected temperatures to be a list of numbers. Received: {temperatures!r}"
            )
        for temperature in temperatures:
            if schedules.is_schedule(temperature):
                raise ValueError(
                    f"Expected temperatures without schedules. Received: {temperature!r}"
                )
            schedules.checked("temperatures", temperature, positive=True)
        self.temperatures = tuple(temperatures)
        self.class_weight = schedules.checked("class_weight", class_weight)
        self.batch_weight = schedules.checked("batch_weight", batch_weight)

    def compare(self, teacher, student, temperature, context):
        """Returns `mlkd` at every position."""
        del temperature
        return mlkd(
            teacher=teacher,
            student=student,
            temperatures=self.temperatures,
            class_weight=schedules.value_at(self.class_weight, context.step),
            batch_weight=schedules.value_at(self.batch_weight, context.step),
            valid=self.valid(context, student),
        )
