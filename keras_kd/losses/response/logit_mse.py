"""Matching logits by their squared differences."""

from keras import ops

from keras_kd.losses import registry
from keras_kd.losses.response.logits_loss import LogitsLoss
from keras_kd.losses.response.settle import AUTO
from keras_kd.numerics import at_least_float32


def logit_mse(*, teacher, student):
    """Mean squared difference of the logits, per row.

    mean_c (student_c - teacher_c)^2; what KD tends to as T grows, when logits have zero mean. A
    constant added to the logits of one side counts.

    Args:
        teacher: Logits, shape [batch, ..., classes]; receives no gradient.
        student: Logits, same shape.

    Returns:
        Shape [batch, ...].

    Reference: Kim et al., arXiv:2105.08919; a mean over the classes.
    """
    difference = at_least_float32(student) - at_least_float32(ops.stop_gradient(teacher))
    return ops.mean(ops.square(difference), axis=-1)


@registry.method(
    "logit_mse", title="Logit matching (MSE)", kind="response", reference="arXiv:2105.08919"
)
class LogitMatching(LogitsLoss):
    """The student's logits follow the teacher's, by their mean squared difference.

    A model that ends in softmax has logits only up to a constant per row, which counts here: give
    both models heads of one kind, preferably without activation.

    Args:
        output: For models with several outputs the key or index of the one to compare.
        teacher_outputs: `"logits"`, `"probabilities"`, or `"auto"` to look at the last layer.
        student_outputs: The same for the student.
        name: Name in the logs.

    Raises:
        ValueError: If an option is unknown; when the distiller is made, if an output is neither
            logits nor softmax.

    Example:
        >>> keras_kd.losses.get("logit_mse")

    Reference: Kim et al., arXiv:2105.08919; weight 1 beside the task loss.
    """

    arguments = ()

    def __init__(self, *, output=None, teacher_outputs=AUTO, student_outputs=AUTO, name=None):
        super().__init__(
            output=output,
            teacher_outputs=teacher_outputs,
            student_outputs=student_outputs,
            name=name,
        )

    def compare(self, teacher, student, temperature, context):
        """Returns `logit_mse` at every position."""
        del temperature, context
        return logit_mse(teacher=teacher, student=student)
