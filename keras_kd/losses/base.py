"""The base of every distillation loss, and how losses of `keras.distillation` become ours."""

import copy
import dataclasses
import re
from typing import Any

import keras
from keras import ops


@dataclasses.dataclass(frozen=True)
class Context:
    """What a loss may know of a batch beside the outputs of teacher and student.

    Attributes:
        step: The training step, an integer scalar; None outside of a distiller.
        labels: The batch's labels as `fit` got them, None without labels.
        masks: For each flat output that the loss reads: None, or which positions are valid, shape
            [batch, ...positions].
        sample_weight: The batch's sample weights as `fit` got them, None without any.
        example_weight: None, or one weight for each example, shape [batch]. The distiller applies
            them.
        position_weight: None, or one for each position, shape [batch, ...positions].
        teacher_outputs: What the teacher answers, for a loss on its layers that needs that too.
        student_outputs: What the student answers.
        inputs: The batch's inputs, before any preprocessing.
        index: The number of each example in the data set, integers of shape [batch]; None where
            the data does not tell (see `keras_kd.data.with_index`).
        answers: What the data holds of the teacher's answers, for the teacher; None without any.
        training: Whether this is a training step: what a loss remembers changes only then.
    """

    step: Any = None
    labels: Any = None
    masks: tuple = ()
    sample_weight: Any = None
    example_weight: Any = None
    position_weight: Any = None
    teacher_outputs: Any = None
    student_outputs: Any = None
    inputs: Any = None
    index: Any = None
    answers: Any = None
    training: bool = False

    def mask(self, index=0):
        """Returns the mask of the flat output `index`, None if there is none."""
        return self.masks[index] if self.masks else None

    @property
    def valid(self):
        """Which examples count in the statistics of a batch, booleans of shape [batch].

        None where all do. An example of weight 0 does not.
        """
        return None if self.example_weight is None else ops.not_equal(self.example_weight, 0)


@dataclasses.dataclass(frozen=True)
class Ends:
    """What is known of teacher and student when a distiller connects a loss to them.

    Attributes:
        teacher: What the loss reads from the teacher: symbolic tensors, or those of the first
            batch, in their structure; None while unknown.
        student: The same of the student.
        teacher_activations: The activation behind each output of the teacher, in the structure of
            its outputs (see `keras_kd.heads`); None if it cannot be seen.
        student_activations: The same of the student.
        teacher_model: The teacher itself, for a loss that reads its weights; None while there is
            none. A loss may refer to its layers, which are not tracked, and never changes them.
        student_model: The student itself.
    """

    teacher: Any = None
    student: Any = None
    teacher_activations: Any = None
    student_activations: Any = None
    teacher_model: Any = None
    student_model: Any = None


class DistillationLoss(keras.distillation.DistillationLoss):
    """What is transferred from teacher to student.

    A subclass gives `per_example`; the distiller applies sample weights, the mean, loss weights and
    schedules. `compute_loss`, the mean, is what `keras.distillation.Distiller` calls, so these
    losses work there too.

    Args:
        teacher_layer_name: Layer path that the loss reads in the teacher, or a list of paths: then
            it gets the list of their features; None for the teacher's outputs.
        student_layer_name: The same in the student.
        name: Name in the logs; by default the class's name in snake case.

    Attributes:
        batch_level: Whether an example's value depends on the other examples of the batch, so that
            sample weights other than 0 and 1 would have no meaning.
        leaves_out: Whether a `batch_level` loss keeps the examples that `context.valid` excludes
            out of its statistics. Without it the loss is refused together with sample weights.
        needs: What the loss needs of a batch beside the outputs: `"labels"`, `"index"`.
        projector: The trainable layer between the student's feature and the loss; None without one.

    Example:
        >>> class Offset(keras_kd.DistillationLoss):
        ...     def per_example(self, teacher_outputs, student_outputs, context):
        ...         return ops.mean(ops.abs(teacher_outputs - student_outputs), axis=-1)
    """

    batch_level = False
    leaves_out = False
    needs: frozenset[str] = frozenset()
    projector = None

    def __init__(self, *, teacher_layer_name=None, student_layer_name=None, name=None):
        self.teacher_layer_name = teacher_layer_name
        self.student_layer_name = student_layer_name
        self.name = name or snake_case(type(self).__name__)

    @property
    def parts(self):
        """The layers that belong to this loss: projectors, generators, memory banks.

        The distiller trains and saves them; the student never holds them. `get_config` has to hold
        them too, so that a loaded loss has parts to load weights into.
        """
        return () if self.projector is None else (self.projector,)

    def per_example(self, teacher_outputs, student_outputs, context):
        """Returns the loss of each example.

        Args:
            teacher_outputs: What the loss reads from the teacher; receives no gradient.
            student_outputs: What it reads from the student.
            context: A `Context`.

        Returns:
            Shape [batch].
        """
        raise NotImplementedError(f"{type(self).__name__} must implement per_example().")

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        """Returns the mean of `per_example`, a scalar, as `keras.distillation` expects it."""
        return ops.mean(self.per_example(teacher_outputs, student_outputs, Context(**kwargs)))

    def connect(self, ends):
        """Returns this loss with all that is `"auto"` settled for the two models.

        Called by the distiller, when it is made and again on the first batch if something could not
        be settled from the models alone; the loss that the caller holds is not changed.

        Args:
            ends: An `Ends`.

        Returns:
            A loss of the same class.

        Raises:
            ValueError: If the loss cannot work on the two models.
        """
        del ends
        return copy.copy(self)

    def is_connected(self):
        """Returns whether nothing is left to be settled by `connect`."""
        return True

    def check_first_batch(self, teacher_outputs, student_outputs):
        """Looks at the values of the first batch, before the step is compiled.

        Args:
            teacher_outputs: What the loss reads from the teacher, tensors with values.
            student_outputs: The same of the student.

        Raises:
            ValueError: If the loss would be wrong on these values.
        """

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            "teacher_layer_name": self.teacher_layer_name,
            "student_layer_name": self.student_layer_name,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        """Makes the loss from what `get_config` gave."""
        return cls(**config)


def per_output(function, loss, teacher_outputs, student_outputs):
    """Sums a loss over the outputs that have one.

    Args:
        function: Called with `(loss of the output, teacher's output, student's output, index)` for
            each output whose loss is not None; returns shape [batch].
        loss: A loss, or a structure of losses and None like the outputs'.
        teacher_outputs: A tensor or a structure of tensors.
        student_outputs: The same structure.

    Returns:
        Shape [batch].
    """
    check_structure(loss, teacher_outputs, student_outputs)
    flat = zip(
        keras.tree.flatten(loss),
        keras.tree.flatten(teacher_outputs),
        keras.tree.flatten(student_outputs),
        strict=True,
    )
    values = [
        function(loss_fn, teacher, student, index)
        for index, (loss_fn, teacher, student) in enumerate(flat)
        if loss_fn is not None
    ]
    return values[0] if len(values) == 1 else sum(values[1:], start=values[0])


def check_structure(loss, teacher_outputs, student_outputs):
    """Refuses outputs of different structures, or of another one than the losses'.

    Raises:
        ValueError: If the structures differ.
    """

    def shape_of(structure):
        # Lists and tuples of outputs are the same to Keras's trainer, and so to us.
        return keras.tree.map_structure(lambda _: "*", keras.tree.lists_to_tuples(structure))

    teacher, student, losses = map(shape_of, (teacher_outputs, student_outputs, loss))
    if teacher != student:
        raise ValueError(
            f"Expected teacher and student outputs of one structure. "
            f"Received: teacher {teacher}, student {student}."
        )
    if losses != teacher:
        raise ValueError(
            "Loss structure mismatch. Expected one loss, or None, for each output: "
            f"{teacher}. Received: {losses}."
        )


def keras_loss(loss):
    """Resolves the `loss` argument: names become functions, everything else stays.

    Args:
        loss: A name, a Keras loss, a function, None, or a structure of these.

    Raises:
        ValueError: If a name is unknown or every entry is None.
    """
    resolved = keras.tree.map_structure(
        lambda entry: keras.losses.get(entry) if isinstance(entry, str) else entry, loss
    )
    if all(entry is None for entry in keras.tree.flatten(resolved)):
        raise ValueError(
            f"Expected at least one loss that is not None (non-`None`). Received: {loss!r}"
        )
    return resolved


def serialize_loss(loss):
    """Returns what a configuration holds for the `loss` argument."""
    return keras.tree.map_structure(
        lambda entry: None if entry is None else keras.losses.serialize(entry), loss
    )


def deserialize_loss(config):
    """Returns the losses that `serialize_loss` gave the configuration of."""
    if isinstance(config, dict) and "class_name" in config:
        return keras.losses.deserialize(config)
    if isinstance(config, dict):
        return {key: deserialize_loss(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(deserialize_loss(value) for value in config)
    return keras.losses.get(config) if isinstance(config, str) else config


def unreduced(loss_fn, y_true, y_pred, context):
    """Returns the values of a Keras loss at every position, before any reduction.

    Args:
        loss_fn: A `keras.losses.Loss` or a function of (y_true, y_pred).
        y_true: Shape [batch, ..., units].
        y_pred: Same shape.
        context: A `Context`.

    Raises:
        ValueError: If the loss gives one number for the batch though examples have weights.
    """
    call = loss_fn.call if isinstance(loss_fn, keras.Loss) else loss_fn
    values = ops.convert_to_tensor(call(y_true, y_pred))
    if len(values.shape):
        return values
    if context.sample_weight is not None:
        raise ValueError(
            f"Expected {loss_fn!r} to give a value for each example, because there are sample "
            "weights. Received one number for the batch."
        )
    return ops.broadcast_to(values, (ops.shape(y_pred)[0],))


def class_indices(labels, logits):
    """Returns labels as class numbers.

    Args:
        labels: Integers of shape [batch, ...positions] or [batch, ...positions, 1], or one-hot (or
            soft) labels of shape [batch, ...positions, classes], of which the largest counts.
        logits: Shape [batch, ...positions, classes].

    Returns:
        int32, shape [batch, ...positions].

    Raises:
        ValueError: If the labels have another shape.
    """
    labels = ops.convert_to_tensor(labels)
    if len(labels.shape) == len(logits.shape):
        if labels.shape[-1] == logits.shape[-1]:
            return ops.cast(ops.argmax(labels, axis=-1), "int32")
        if labels.shape[-1] == 1:
            labels = ops.squeeze(labels, -1)
    if len(labels.shape) != len(logits.shape) - 1:
        raise ValueError(
            f"Expected class numbers of shape {tuple(logits.shape[:-1])} or one-hot labels of "
            f"shape {tuple(logits.shape)}. Received shape {tuple(labels.shape)}."
        )
    return ops.cast(labels, "int32")


def snake_case(name):
    """Returns a class's name as logs have it: `LogitsDistillation` is `logits_distillation`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
