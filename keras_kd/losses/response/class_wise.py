"""CS-KD: a student says the same of two examples of one class."""

from keras import ops

from keras_kd.losses import registry
from keras_kd.losses.response.self_logits import SelfLogitsLoss
from keras_kd.losses.response.soft_target import soft_target
from keras_kd.numerics import without_padding


def same_class_partner(labels, valid=None):
    """Finds for each example the next one of its class in the batch, cyclically.

    Args:
        labels: Class numbers, integers of shape [batch].
        valid: None, or booleans of shape [batch]: which examples are there.

    Returns:
        The partner's place in the batch, integers of shape [batch], and whether there is one,
        booleans of shape [batch]. Where there is none the place is that of some example.
    """
    place = ops.arange(ops.shape(labels)[0], dtype="int32")
    behind = ops.expand_dims(place, 0) - ops.expand_dims(place, 1)
    batch = ops.cast(ops.shape(labels)[0], "int32")
    # How many places further on, 1 to batch - 1; the example itself would be a full round away.
    distance = ops.where(behind > 0, behind, behind + batch)
    fits = ops.logical_and(
        ops.equal(ops.expand_dims(labels, 0), ops.expand_dims(labels, 1)), distance < batch
    )
    if valid is not None:
        fits = ops.logical_and(
            fits, ops.logical_and(ops.expand_dims(valid, 0), ops.expand_dims(valid, 1))
        )
    distance = ops.where(fits, distance, ops.full_like(distance, 1) * batch)
    return ops.cast(ops.argmin(distance, axis=1), "int32"), ops.any(fits, axis=1)


def cskd(*, student, labels, temperature, valid=None):
    """Tempered KL divergence from an example of the same class, per example.

    T^2 * KL(softmax(partner / T) || softmax(student / T)), where the partner's logits are those of
    the next example of the class in the batch, cyclically, and receive no gradient. An example
    without a partner gets 0.

    Args:
        student: Logits, shape [batch, classes].
        labels: Class numbers, integers of shape [batch].
        temperature: T > 0, a float or a scalar tensor.
        valid: None, or booleans of shape [batch]: examples that are no partner and get 0 are False.

    Returns:
        Shape [batch], in nats.

    Reference: Yun et al., arXiv:2003.13964, class-wise regularization.
    """
    student = without_padding(student, valid)
    place, exists = same_class_partner(labels, valid)
    values = soft_target(
        teacher=ops.take(student, place, axis=0), student=student, temperature=temperature
    )
    return ops.where(exists, values, ops.zeros_like(values))


@registry.method(
    "cskd",
    title="Class-wise self-distillation (CS-KD)",
    kind="response",
    needs="labels",
    reference="arXiv:2003.13964",
)
class ClassWiseSelfDistillation(SelfLogitsLoss):
    """The student's predictions of two examples of one class agree; no teacher is read.

    A departure from the paper, whose sampler draws a partner of the same class for every example
    and runs the student on both without training the partner: here the partner is the next example
    of the class in the same batch, in training mode too, and an example that is the only one of its
    class gets 0. With many classes take large batches, or batches of few classes.

    Args:
        temperature: T > 0, a float or a schedule.
        **options: `output`, `student_outputs` and `name` as in `SelfLogitsLoss`.

    Raises:
        ValueError: If the temperature is not positive or an option is unknown; when the distiller
            is made, if the student's output is neither logits nor softmax, or has positions; in
            training, without labels.

    Example:
        >>> loss = keras_kd.losses.get("cskd", temperature=4.0)
        >>> any_model = keras.models.clone_model(student)
        >>> keras_kd.Distiller(any_model, student, loss)

    Reference: Yun et al., arXiv:2003.13964; weight 1 beside the task loss.
    """

    batch_level = True
    leaves_out = True
    needs = frozenset({"labels"})

    def __init__(self, *, temperature=4.0, **options):
        super().__init__(temperature=temperature, **options)

    def compare(self, teacher, student, temperature, context):
        """Returns `cskd` of each example."""
        del teacher
        return cskd(
            student=student,
            labels=self.labels(context, student),
            temperature=temperature,
            valid=self.valid(context, student),
        )

    def connect(self, ends):
        """Settles what the student's output holds; see `DistillationLoss.connect`.

        Raises:
            ValueError: If it is neither logits nor softmax, or there are several an example.
        """
        connected = super().connect(ends)
        if ends.student is not None and len(self.pick(ends.student).shape) != 2:
            raise ValueError(
                "Expected one prediction for each example, shape [batch, classes]. Received shape "
                f"{tuple(self.pick(ends.student).shape)}."
            )
        return connected
