"""Teacher-free distillation: a student taught by its own kind, or by a teacher made up by hand."""

from keras import ops

from keras_kd import schedules
from keras_kd.losses import registry
from keras_kd.losses.response.logits_loss import LogitsLoss
from keras_kd.losses.response.self_logits import SelfLogitsLoss
from keras_kd.losses.response.soft_target import soft_target
from keras_kd.losses.response.targets import is_target
from keras_kd.numerics import tempered_log_softmax

CORRECT = 0.99


def tfkd_self(*, teacher, student, temperature):
    """Tempered KL divergence over the number of classes, per row.

    T^2 / C * KL(softmax(teacher / T) || softmax(student / T)): the authors' code takes the mean
    over N x C, so this is `soft_target` over C.

    Args:
        teacher: Logits, shape [batch, ..., classes]; receives no gradient.
        student: Logits, same shape.
        temperature: T > 0, a float or a scalar tensor.

    Returns:
        Shape [batch, ...], in nats.

    Reference: Yuan et al., arXiv:1909.11723, Tf-KD_self.
    """
    divergence = soft_target(teacher=teacher, student=student, temperature=temperature)
    return divergence / student.shape[-1]


def tfkd_reg(*, student, labels, temperature, multiplier):
    """KL divergence from a virtual teacher that is always right, per row.

    multiplier / C * KL(softmax(u / T) || softmax(student)), where u is 0.99 for the label and 0.01
    shared by the other classes. As in the authors' code T divides these probabilities, the student
    is taken at temperature 1, there is no T^2, and the mean is that over N x C.

    Args:
        student: Logits, shape [batch, ..., classes], at least two classes.
        labels: Class numbers, integers of shape [batch, ...].
        temperature: T > 0, a float or a scalar tensor.
        multiplier: A float or a scalar tensor of at least 0.

    Returns:
        Shape [batch, ...], in nats.

    Reference: Yuan et al., arXiv:1909.11723, Tf-KD_reg.
    """
    log_q = tempered_log_softmax(student, 1.0)
    classes = student.shape[-1]
    correct = ops.full_like(log_q, CORRECT)
    wrong = ops.full_like(log_q, (1.0 - CORRECT) / (classes - 1))
    log_p = tempered_log_softmax(ops.where(is_target(labels, student), correct, wrong), temperature)
    return multiplier / classes * ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)


@registry.method(
    "tfkd_self",
    title="Teacher-free, self-training (Tf-KD)",
    kind="response",
    reference="arXiv:1909.11723",
)
class TeacherFreeSelf(LogitsLoss):
    """Soft targets from a trained copy of the student itself, averaged over the classes too.

    The teacher is a model of the student's architecture, trained without distillation. The loss is
    C times smaller than `LogitsDistillation` at the same temperature.

    Args:
        temperature: T > 0, a float or a schedule.
        **options: `output`, `teacher_outputs`, `student_outputs` and `name` as in `LogitsLoss`.

    Raises:
        ValueError: If the temperature is not positive or an option is unknown; when the distiller
            is made, if an output is neither logits nor softmax.

    Example:
        >>> loss = keras_kd.losses.get("tfkd_self", temperature=20.0)
        >>> keras_kd.Distiller(trained_copy, student, loss, student_loss_weight=0.05)

    Reference: Yuan et al., arXiv:1909.11723, Tf-KD_self; weight 0.95 beside 0.05 for the task,
    which `student_loss_weight=0.05` gives.
    """

    def __init__(self, *, temperature=20.0, **options):
        super().__init__(temperature=temperature, **options)

    def compare(self, teacher, student, temperature, context):
        """Returns `tfkd_self` at every position."""
        del context
        return tfkd_self(teacher=teacher, student=student, temperature=temperature)


@registry.method(
    "tfkd_reg",
    title="Teacher-free, virtual teacher (Tf-KD)",
    kind="response",
    needs="labels",
    reference="arXiv:1909.11723",
)
class TeacherFreeRegularization(SelfLogitsLoss):
    """A virtual teacher that is 99 % sure of every label; the distiller's teacher is not read.

    Args:
        temperature: T > 0 of the virtual teacher's probabilities, a float or a schedule.
        multiplier: Factor of the loss, a float of at least 0 or a schedule.
        **options: `output`, `student_outputs` and `name` as in `SelfLogitsLoss`.

    Raises:
        ValueError: If a number is out of range or an option unknown; when the distiller is made, if
            the student's output is neither logits nor softmax; in training, without labels.

    Example:
        >>> loss = keras_kd.losses.get("tfkd_reg")
        >>> any_model = keras.models.clone_model(student)
        >>> keras_kd.Distiller(any_model, student, loss, student_loss_weight=0.9)

    Reference: Yuan et al., arXiv:1909.11723, Tf-KD_reg; weight 0.1 beside 0.9 for the task, which
    `student_loss_weight=0.9` gives.
    """

    needs = frozenset({"labels"})
    arguments = ("temperature", "multiplier")

    def __init__(self, *, temperature=20.0, multiplier=100.0, **options):
        super().__init__(temperature=temperature, **options)
        self.multiplier = schedules.checked("multiplier", multiplier)

    def compare(self, teacher, student, temperature, context):
        """Returns `tfkd_reg` at every position."""
        del teacher
        return tfkd_reg(
            student=student,
            labels=self.labels(context, student),
            temperature=temperature,
            multiplier=schedules.value_at(self.multiplier, context.step),
        )
