"""Metrics of how far the student follows its teacher."""

import keras
from keras import ops

from keras_kd import heads


def same_class(teacher, student):
    """Returns 1 where teacher and student name the same class, else 0.

    Args:
        teacher: Logits or probabilities, shape [batch, ..., classes].
        student: The same of the student, same shape.

    Returns:
        Shape [batch, ...], float32.
    """
    agree = ops.equal(ops.argmax(teacher, axis=-1), ops.argmax(student, axis=-1))
    return ops.cast(agree, "float32")


def same_side(teacher, student):
    """Returns the share of units that teacher and student put on the same side of 0.

    Args:
        teacher: Logits of independent units, shape [batch, ..., units].
        student: The same of the student, same shape.

    Returns:
        Shape [batch, ...], float32.
    """
    return ops.mean(ops.cast(ops.equal(teacher > 0, student > 0), "float32"), axis=-1)


def agreement(teacher, student, teacher_activation, student_activation, head=None):
    """Returns how far student and teacher say the same of one output.

    Args:
        teacher: The teacher's output, shape [batch, ..., units].
        student: The student's, same shape.
        teacher_activation: The activation behind it (see `keras_kd.heads`); None if unseen.
        student_activation: The same of the student.
        head: `"softmax"` or `"sigmoid"` where a loss knows it.

    Returns:
        `same_side` for a sigmoid head or a single unit, else `same_class`; shape [batch, ...].
    """
    outputs = (teacher, student)
    seen = [
        activation or heads.activation_left_on(output)
        for output, activation in zip(
            outputs, (teacher_activation, student_activation), strict=True
        )
    ]
    if heads.SIGMOID not in (*seen, head) and student.shape[-1] > 1:
        return same_class(teacher, student)
    logits = [
        heads.logits(output, heads.SIGMOID if activation == heads.SIGMOID else heads.LINEAR)
        for output, activation in zip(outputs, seen, strict=True)
    ]
    return same_side(*logits)


@keras.saving.register_keras_serializable(package="keras_kd")
class TeacherAgreement(keras.metrics.Mean):
    """Share of the predictions in which student and teacher name the same class.

    `mean(argmax(teacher) == argmax(student))` over all positions. The distiller keeps one by
    `teacher_agreement=True`; for sigmoid heads that is the mean of `same_side`.

    Args:
        name: Name in the logs.
        dtype: Dtype of the metric's computation.

    Reference: Beyer et al., arXiv:2106.05237, section 3 (agreement with the teacher as the measure
    of a faithful student).
    """

    def __init__(self, name="teacher_agreement", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, teacher_outputs, student_outputs, sample_weight=None):
        """Counts a batch.

        Args:
            teacher_outputs: Logits or probabilities, shape [batch, ..., classes].
            student_outputs: The same of the student, same shape.
            sample_weight: None, or weights of shape [batch].
        """
        agree = same_class(teacher_outputs, student_outputs)
        return super().update_state(agree, sample_weight=sample_weight)


class NamedSums(keras.metrics.Metric):
    """Sums of several named numbers, kept as one vector: one update of one variable a step.

    Args:
        names: The names.
        name: Name of the metric.
    """

    def __init__(self, names, name):
        super().__init__(name=name)
        self.names = tuple(names)
        self.sums = self.add_variable((len(self.names),), "zeros", dtype="float32", name="sums")

    def update_state(self, values):
        """Adds to the sums.

        Args:
            values: A dict from names to scalars; what is absent counts as 0.
        """
        self.sums.assign_add(self._vector(values))

    def result(self):
        """Returns a dict from every name to its sum."""
        return dict(zip(self.names, ops.unstack(self.sums, len(self.names)), strict=True))

    def _vector(self, values):
        return ops.stack([ops.cast(values.get(name, 0.0), "float32") for name in self.names])


class NamedMeans(NamedSums):
    """Means of several named numbers over the examples of an epoch.

    Args:
        names: The names.
        name: Name of the metric.
    """

    def __init__(self, names, name):
        super().__init__(names, name)
        self.examples = self.add_variable((), "zeros", dtype="float32", name="examples")

    def update_state(self, values, examples):
        """Counts a batch.

        Args:
            values: A dict from names to the batch's means; what is absent counts as 0.
            examples: How many examples the batch has, a scalar.
        """
        examples = ops.cast(examples, "float32")
        self.sums.assign_add(self._vector(values) * examples)
        self.examples.assign_add(examples)

    def result(self):
        """Returns a dict from every name to its mean, 0 before the first batch."""
        means = ops.divide_no_nan(self.sums, self.examples)
        return dict(zip(self.names, ops.unstack(means, len(self.names)), strict=True))
