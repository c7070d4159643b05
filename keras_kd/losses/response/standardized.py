"""Standardized logits: the student need not match the scale of its teacher's logits."""

from keras import ops

from keras_kd.losses import registry
from keras_kd.losses.response.logits_loss import LogitsLoss
from keras_kd.losses.response.soft_target import soft_target
from keras_kd.numerics import at_least_float32

_EPSILON, _FLOOR = 1e-7, 1e-2


def standardized(logits):
    """Returns logits with mean 0 and standard deviation 1 in every row.

    (z - mean) / (std + 1e-7), std unbiased and at least 0.01.

    Args:
        logits: Shape [batch, ..., classes], at least two classes.

    Returns:
        Same shape.
    """
    logits = at_least_float32(logits)
    centered = logits - ops.mean(logits, axis=-1, keepdims=True)
    variance = ops.sum(ops.square(centered), axis=-1, keepdims=True) / (logits.shape[-1] - 1)
    # The floor stands under the root, whose gradient at 0 would be infinite.
    return centered / (ops.sqrt(ops.maximum(variance, _FLOOR**2)) + _EPSILON)


def lskd(*, teacher, student, temperature):
    """Tempered KL divergence between standardized logits, per row.

    T^2 * KL(softmax(Z(teacher) / T) || softmax(Z(student) / T)), Z(z) = (z - mean) / std.

    A departure from the paper: the standard deviation of a row is at least 0.01. Without it a row
    of equal logits, that of a student whose head starts at 0, has a gradient of 1e7 times its
    difference to the teacher; rows that spread more are as published.

    Args:
        teacher: Logits, shape [batch, ..., classes], at least two classes; receives no gradient.
        student: Logits, same shape.
        temperature: T > 0, a float or a scalar tensor; the paper's base temperature.

    Returns:
        Shape [batch, ...], in nats.

    Reference: Sun et al., arXiv:2403.01427, algorithms 1 and 2.
    """
    return soft_target(
        teacher=standardized(teacher), student=standardized(student), temperature=temperature
    )


@registry.method(
    "lskd", title="Standardized logits (LSKD)", kind="response", reference="arXiv:2403.01427"
)
class StandardizedLogits(LogitsLoss):
    """Soft targets from logits of mean 0 and standard deviation 1.

    See `lskd` for the floor of the standard deviation.

    Args:
        temperature: T > 0, a float or a schedule.
        **options: `output`, `teacher_outputs`, `student_outputs` and `name` as in `LogitsLoss`.

    Raises:
        ValueError: If the temperature is not positive or an option is unknown; when the distiller
            is made, if an output is neither logits nor softmax.

    Example:
        >>> loss = keras_kd.losses.get("lskd", temperature=2.0)
        >>> keras_kd.Distiller(
        ...     teacher, student, loss, distillation_loss_weights=9.0, student_loss_weight=0.1
        ... )

    Reference: Sun et al., arXiv:2403.01427, whose weights are 9 for this and 0.1 for the task.
    """

    def __init__(self, *, temperature=2.0, **options):
        super().__init__(temperature=temperature, **options)

    def compare(self, teacher, student, temperature, context):
        """Returns `lskd` at every position."""
        del context
        return lskd(teacher=teacher, student=student, temperature=temperature)
