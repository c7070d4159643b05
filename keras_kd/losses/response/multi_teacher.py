"""Several teachers at once, each with a weight for each example."""

import copy

import keras
from keras import ops

from keras_kd import heads
from keras_kd.losses import registry
from keras_kd.losses.response.logits_loss import LogitsLoss
from keras_kd.losses.response.settle import (
    AUTO,
    flat_or_unknown,
    options,
    settle,
    undeclared,
)
from keras_kd.losses.response.soft_target import soft_target
from keras_kd.losses.response.targets import is_target, target_margin
from keras_kd.numerics import tempered_log_softmax

MEAN, ENTROPY, CONFIDENCE = "mean", "entropy", "confidence"
WEIGHTINGS = (MEAN, ENTROPY, CONFIDENCE)


def teacher_weights(*, teachers, weighting, labels=None):
    """Returns how much each teacher counts in each row.

    `"mean"`: 1. `"entropy"`: 1 - H_k / sum_j H_j, H the entropy of a teacher's prediction; these
    sum to K - 1. `"confidence"`: (1 - softmax_k CE_k) / (K - 1), CE the cross-entropy of its
    prediction with the label; these sum to 1. Predictions are those at temperature 1.

    Args:
        teachers: The logits of K teachers, shape [K, batch, ..., classes]; receive no gradient. K
            is at least 2 unless the weighting is `"mean"`.
        weighting: `"mean"`, `"entropy"` or `"confidence"`.
        labels: Class numbers, integers of shape [batch, ...]; for `"confidence"`.

    Returns:
        Shape [K, batch, ...].

    Reference: the authors' code of Zhang et al., arXiv:2201.00007 (CA-MKD), also for the weights by
    entropy (EBKD, Kwon et al., ICASSP 2020).
    """
    teachers = ops.stop_gradient(teachers)
    number = teachers.shape[0]
    log_p = tempered_log_softmax(teachers, 1.0)
    if weighting == MEAN:
        return ops.ones_like(log_p[..., 0])
    if weighting == ENTROPY:
        entropy = -ops.sum(ops.exp(log_p) * log_p, axis=-1)
        total = ops.sum(entropy, axis=0, keepdims=True)
        # Teachers without any doubt count alike.
        share = ops.where(total > 0.0, ops.divide_no_nan(entropy, total), 1.0 / number)
        return 1.0 - share
    target = is_target(ops.expand_dims(labels, 0), teachers)
    cross_entropy = -ops.log_sigmoid(target_margin(teachers, target, 1.0))
    return (1.0 - ops.softmax(cross_entropy, axis=0)) / (number - 1)


def multi_teacher(*, teachers, student, temperature, weighting, labels=None):
    """Tempered KL divergence from several teachers to the student, per row.

    1/K * sum_k w_k * T^2 * KL(softmax(teacher_k / T) || softmax(student / T)), with the weights of
    `teacher_weights`. As in the authors' code the weighted sums are divided by K as the mean is,
    though the weights by confidence sum to 1 already.

    Args:
        teachers: The logits of K teachers: a list of tensors of shape [batch, ..., classes], or one
            tensor of shape [K, batch, ..., classes]; receive no gradient.
        student: Logits, shape [batch, ..., classes].
        temperature: T > 0, a float or a scalar tensor.
        weighting: `"mean"`, `"entropy"` (EBKD) or `"confidence"` (CA-MKD).
        labels: Class numbers, integers of shape [batch, ...]; for `"confidence"`.

    Returns:
        Shape [batch, ...], in nats.

    Reference: Zhang et al., arXiv:2201.00007, and the authors' code.
    """
    if isinstance(teachers, list | tuple):
        teachers = ops.stack(teachers)
    weights = teacher_weights(teachers=teachers, weighting=weighting, labels=labels)
    divergences = soft_target(
        teacher=teachers, student=ops.expand_dims(student, 0), temperature=temperature
    )
    return ops.mean(weights * divergences, axis=0)


@registry.method(
    "multi_teacher",
    title="Multi-teacher (mean, EBKD, CA-MKD)",
    kind="response",
    needs="labels for CA-MKD",
    reference="arXiv:2201.00007",
)
class MultiTeacherDistillation(LogitsLoss):
    """Soft targets from several teachers, which are one model with an output for each.

    Args:
        temperature: T > 0, a float or a schedule.
        weighting: `"mean"`; `"entropy"` (EBKD), which counts a teacher less the less sure it is of
            the example; or `"confidence"` (CA-MKD), the less sure of its label, which needs labels.
        teacher_outputs: `"logits"`, `"probabilities"`, or `"auto"` to look at the last layers; one
            word, or a list with one for each teacher.
        student_outputs: The same for the student.
        name: Name in the logs.

    Raises:
        ValueError: If the temperature is not positive or an option is unknown; when the distiller
            is made, if the student has several outputs, a teacher has other classes, an output is
            neither logits nor softmax, or there is but one teacher to be weighed.

    Example:
        >>> inputs = keras.Input((32, 32, 3))
        >>> ensemble = keras.Model(inputs, [teacher(inputs) for teacher in teachers])
        >>> loss = keras_kd.losses.get("multi_teacher", weighting="confidence")
        >>> keras_kd.Distiller(ensemble, student, loss)

    Reference: Zhang et al., arXiv:2201.00007; weight 1 beside the task loss.
    """

    arguments = ("temperature", "weighting")

    def __init__(
        self,
        *,
        temperature=4.0,
        weighting=MEAN,
        teacher_outputs=AUTO,
        student_outputs=AUTO,
        name=None,
    ):
        super().__init__(
            temperature=temperature,
            teacher_outputs=teacher_outputs,
            student_outputs=student_outputs,
            name=name,
        )
        self.weighting = options("weighting", weighting, WEIGHTINGS)
        self.needs = frozenset({"labels"} if weighting == CONFIDENCE else ())

    def compare(self, teacher, student, temperature, context):
        """Returns `multi_teacher` at every position."""
        labels = self.labels(context, student) if self.weighting == CONFIDENCE else None
        return multi_teacher(
            teachers=teacher,
            student=student,
            temperature=temperature,
            weighting=self.weighting,
            labels=labels,
        )

    def teacher_logits(self, outputs, mask):
        """Returns the logits of all teachers, shape [teachers, batch, ...positions, classes]."""
        teachers = keras.tree.flatten(outputs)
        forms = self._teacher_forms(len(teachers))
        return ops.stack(
            [self.logits_of(*each, mask) for each in zip(teachers, forms, strict=True)]
        )

    def connect(self, ends):
        """Settles what the outputs hold; see `DistillationLoss.connect`.

        Raises:
            ValueError: If there are several students or but one teacher to be weighed, an output is
                neither logits nor softmax, or class counts differ.
        """
        connected = copy.copy(self)
        if ends.teacher is None or ends.student is None:
            return connected
        if keras.tree.is_nested(ends.student):
            raise ValueError(
                "Expected a student with one output. Received: one with "
                f"{len(keras.tree.flatten(ends.student))}."
            )
        teachers = keras.tree.flatten(ends.teacher)
        if self.weighting != MEAN and len(teachers) < 2:
            raise ValueError(
                f"Expected at least two teachers for weighting={self.weighting!r}. Received: one. "
                "Hint: a teacher with an output for each, keras.Model(inputs, [a(inputs), "
                "b(inputs)])."
            )
        forms = self._teacher_forms(len(teachers))
        seen = flat_or_unknown(ends.teacher_activations, len(teachers))
        (student_seen,) = flat_or_unknown(ends.student_activations, 1)
        settled = [
            settle(
                None,
                (heads.SOFTMAX, form, self.student_outputs),
                teacher,
                ends.student,
                (activation, student_seen),
            )
            for form, teacher, activation in zip(forms, teachers, seen, strict=True)
        ]
        roles = {"teacher": forms, "student": (self.student_outputs,)}
        connected._assumed = tuple(role for role, declared in roles.items() if AUTO in declared)
        connected.teacher_outputs = [form for _, form, _ in settled]
        connected.student_outputs = settled[0][2]
        return connected

    def is_connected(self):
        """Returns whether it is known what all outputs hold."""
        return AUTO not in keras.tree.flatten((self.teacher_outputs, self.student_outputs))

    def check_first_batch(self, teacher_outputs, student_outputs):
        """Refuses values that look like probabilities where logits were assumed.

        Raises:
            ValueError: Naming the model whose outputs they are.
        """
        teachers = keras.tree.flatten(teacher_outputs)
        forms = self._teacher_forms(len(teachers))
        sides = [("teacher", *each) for each in zip(teachers, forms, strict=True)]
        for role, side, form in (*sides, ("student", student_outputs, self.student_outputs)):
            if role in self._assumed and form == "logits" and heads.looks_like_probabilities(side):
                raise undeclared(role)

    def get_config(self):
        """Returns the arguments of the constructor."""
        config = super().get_config()
        del config["output"]
        return config

    def _teacher_forms(self, count):
        """Returns what each teacher's output holds."""
        if isinstance(self.teacher_outputs, str):
            return [self.teacher_outputs] * count
        if len(self.teacher_outputs) != count:
            raise ValueError(
                f"Expected one entry of teacher_outputs for each of {count} teachers. Received: "
                f"{self.teacher_outputs!r}."
            )
        return self.teacher_outputs
