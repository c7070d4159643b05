"""The base of the losses that compare how the examples of a batch stand to each other."""

import copy

import keras
from keras import ops

from keras_kd import schedules
from keras_kd.losses import base
from keras_kd.numerics import without_padding


class RelationLoss(base.DistillationLoss):
    """What relations between the examples of a batch say, in teacher and student.

    Subclasses give `compare`. What is read may have any shape [batch, ...]: it is flattened to one
    vector an example, and padded positions count as zeros. Teacher and student may differ in it,
    so there is no projector. Examples of sample weight 0 are left out of all relations.

    Args:
        teacher_layer_name: Layer path in the teacher, or a list of paths, whose losses are summed;
            None for the teacher's output.
        student_layer_name: As many in the student.
        name: Name in the logs.

    Raises:
        ValueError: If the lists differ in length; when the distiller is made, if a layer is unknown
            or a model has several outputs and no layer is named.
    """

    batch_level = True
    leaves_out = True

    def __init__(self, teacher_layer_name=None, student_layer_name=None, *, name=None):
        super().__init__(
            teacher_layer_name=teacher_layer_name, student_layer_name=student_layer_name, name=name
        )
        counts = [
            len(paths) if isinstance(paths, list | tuple) else 1
            for paths in (teacher_layer_name, student_layer_name)
        ]
        if counts[0] != counts[1]:
            raise ValueError(
                "Expected as many layers of the teacher as of the student. Received: "
                f"{teacher_layer_name!r} and {student_layer_name!r}."
            )

    def compare(self, teacher, student, valid):
        """Returns the loss of each example for one pair of layers.

        Args:
            teacher: Shape [batch, ...]; receives no gradient.
            student: Shape [batch, ...].
            valid: None, or which examples count, booleans of shape [batch].

        Returns:
            Shape [batch].
        """
        raise NotImplementedError(f"{type(self).__name__} must implement compare().")

    def per_example(self, teacher_outputs, student_outputs, context):
        """Returns the loss of each example, summed over the pairs of layers; shape [batch]."""
        sides = (
            sides_of(self.teacher_layer_name, teacher_outputs),
            sides_of(self.student_layer_name, student_outputs),
        )
        values = [
            self.compare(
                unpadded(teacher, context.mask(index)),
                unpadded(student, context.mask(index)),
                context.valid,
            )
            for index, (teacher, student) in enumerate(zip(*sides, strict=True))
        ]
        return sum(values[1:], start=values[0])

    def connect(self, ends):
        """Returns this loss; see `DistillationLoss.connect`.

        Raises:
            ValueError: If a model has several outputs and no layer is named.
        """
        check_one_output(self, ends)
        return copy.copy(self)


def sides_of(path, structure):
    """Returns the tensors that a loss reads of a model, as a list."""
    return list(structure) if isinstance(path, list | tuple) else [structure]


def unpadded(tensor, mask):
    """Returns `tensor` with zeros at masked positions, if the mask is one of its positions.

    Args:
        tensor: Shape [batch, ...].
        mask: None, or booleans of the positions of the student's feature. A pooled feature of the
            teacher has no such positions.
    """
    if mask is None or len(tensor.shape) != len(mask.shape) + 1:
        return tensor
    return without_padding(ops.convert_to_tensor(tensor), mask)


def check_one_output(loss, ends):
    """Refuses a model with several outputs where no layer says what to read.

    Raises:
        ValueError: Naming the model's side.
    """
    for role, path, side in (
        ("teacher", loss.teacher_layer_name, ends.teacher),
        ("student", loss.student_layer_name, ends.student),
    ):
        if path is None and side is not None and keras.tree.is_nested(side):
            raise ValueError(
                f"Expected {role}_layer_name= to say what to read: the {role} has several outputs."
            )


def number(name, value, *, positive=False):
    """Returns `value` if it is a finite number of at least 0.

    Args:
        name: What the number is called in the error.
        value: An int or a float.
        positive: Whether 0 is refused too.

    Raises:
        ValueError: If it is something else.
    """
    if schedules.is_schedule(value):
        raise ValueError(f"Expected {name} to be a number, not a schedule. Received: {value!r}")
    return schedules.checked(name, value, positive=positive)


def positive_integer(name, value):
    """Returns `value` if it is an integer of at least 1.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"Expected {name} to be a positive integer. Received: {value!r}")
    return value
