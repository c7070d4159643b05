"""The distillation losses of a distiller, each with its weight and its name in the logs."""

import dataclasses

import keras

from keras_kd import schedules
from keras_kd.features import mask_of, pick
from keras_kd.losses import (
    DistillationLoss,
    Ends,
    LogitsDistillation,
    as_distillation_loss,
)

TOTAL, TASK, DISTILLATION = "total_loss", "student_loss", "distillation_loss"
KERAS_LOGS = ("loss", TOTAL, TASK, DISTILLATION)


@dataclasses.dataclass
class Term:
    """One distillation loss of a distiller.

    Attributes:
        loss: The loss, connected to the two models.
        weight: Its weight, a float or a schedule.
        name: Its name in the logs, unique in the distiller.
        connected: Whether the loss has seen both models.
    """

    loss: DistillationLoss
    weight: object
    name: str
    connected: bool = False

    def connect(self, teacher, student, activations, models):
        """Settles the loss for the two models, as far as they are known.

        Args:
            teacher: Its (outputs, features), symbolic or of a batch; None for what is unknown.
            student: The same.
            activations: Those behind the outputs of teacher and student (see `keras_kd.heads`).
            models: Teacher and student.

        Raises:
            ValueError: If the loss cannot work on the two models.
        """
        teacher = _known(self.teacher_side, *teacher, self.loss.teacher_layer_name)
        student = _known(self.student_side, *student, self.loss.student_layer_name)
        try:
            self.loss = self.loss.connect(Ends(teacher, student, *activations, *models))
        except ValueError as err:
            raise ValueError(f"Distillation loss '{self.name}': {err}") from err
        both = teacher is not None and student is not None
        self.connected = both and self.loss.is_connected()

    def per_example(self, teacher, student, context):
        """Returns the loss of each example, shape [batch].

        Args:
            teacher: The teacher's (outputs, features).
            student: The student's.
            context: A `Context` of the batch: masks and outputs are filled in here.

        Raises:
            ValueError: If the batch lacks what the loss needs, or the loss gives anything but one
                value for each example.
        """
        self._check_needs(context)
        side = self.student_side(*student)
        masks = tuple(mask_of(tensor) for tensor in keras.tree.flatten(side))
        context = dataclasses.replace(
            context, masks=masks, teacher_outputs=teacher[0], student_outputs=student[0]
        )
        values = self.loss.per_example(self.teacher_side(*teacher), side, context)
        shape, batch = tuple(values.shape), keras.tree.flatten(side)[0].shape[0]
        if len(shape) != 1 or (None not in (shape[0], batch) and shape[0] != batch):
            raise ValueError(
                f"Expected '{self.name}' to give one value for each example, shape [batch]. "
                f"Received shape {shape}."
            )
        return values

    def _check_needs(self, context):
        for need, given, hint in (
            ("labels", context.labels, "it cannot be distilled without them."),
            ("index", context.index, "keras_kd.data.with_index(x) numbers the examples."),
        ):
            if need in self.loss.needs and given is None:
                raise ValueError(
                    f"Expected data with {need} for '{self.name}'. Received data without. "
                    f"Hint: {hint}"
                )
        refused = context.position_weight if self.loss.leaves_out else context.sample_weight
        if self.loss.batch_level and refused is not None:
            raise ValueError(
                f"Expected no sample weights with '{self.name}', which is one number for the "
                "whole batch. Hint: leave out sample_weight and class_weight, or use a loss "
                "with a value for each example."
            )

    def teacher_side(self, outputs, features):
        """Returns what the loss reads of the teacher."""
        return pick(self.loss.teacher_layer_name, outputs, features)

    def student_side(self, outputs, features):
        """Returns what the loss reads of the student."""
        return pick(self.loss.student_layer_name, outputs, features)


def make_terms(losses, weights):
    """Returns a term for each loss.

    Args:
        losses: Distillation losses, ours or Keras's.
        weights: As many floats of at least 0 or schedules.

    Raises:
        ValueError: If a weight is out of range or a loss has one of Keras's names in the logs.
        TypeError: If a loss is no distillation loss.
    """
    ours = [as_distillation_loss(loss) for loss in losses]
    return [Term(*term) for term in zip(ours, weights, _log_names(ours), strict=True)]


def declared_heads(terms, count):
    """Returns the head of each flat output that a logits loss knows, None for the others."""
    found = [None] * count
    for term in terms:
        if isinstance(term.loss, LogitsDistillation):
            for index, head in enumerate(term.loss.heads()):
                found[index] = found[index] or (None if head == "auto" else head)
    return found


def as_list(losses):
    """Returns `losses` as a list, which must not be empty."""
    if losses is None or (isinstance(losses, list | tuple) and not losses):
        raise ValueError(
            f"Expected a distillation loss or a list of them. Received: {losses!r}. "
            "'distillation_losses' cannot be `None`."
        )
    return list(losses) if isinstance(losses, list | tuple) else [losses]


def as_weights(weights, count):
    """Returns `weights` as a list of `count` floats or schedules; None stands for 1 each."""
    if weights is None:
        return [1.0] * count
    weights = list(weights) if isinstance(weights, list | tuple) else [weights]
    if len(weights) != count:
        raise ValueError(
            f"Expected one weight for each of the {count} distillation losses. "
            f"Received: {len(weights)} distillation_loss_weights."
        )
    return [schedules.checked("distillation_loss_weights", weight) for weight in weights]


def mixing_weight(weight):
    """Returns `weight` if it is a schedule or a number in [0, 1]."""
    schedules.checked("student_loss_weight", weight)
    if not schedules.is_schedule(weight) and weight > 1.0:
        raise ValueError(f"Expected student_loss_weight in [0, 1]. Received: {weight!r}")
    return weight


def _log_names(losses):
    """Returns a name for each loss; a repeated one gets a number."""
    names = []
    for loss in losses:
        if loss.name in KERAS_LOGS:
            raise ValueError(
                f"Expected a loss name that is free in the logs. Received: {loss.name!r}"
            )
        same = sum(name == loss.name or name.startswith(f"{loss.name}_") for name in names)
        names.append(loss.name if not same else f"{loss.name}_{same}")
    return names


def _known(side, outputs, features, path):
    """Returns what a loss reads, None where that is not known yet."""
    if (path is None and outputs is None) or (path is not None and features is None):
        return None
    return side(outputs, features)


class Projectors(keras.layers.Layer):
    """Holds the projectors and other parts of losses: Keras tracks, saves and trains them."""

    def __init__(self, name):
        super().__init__(name=name)
        self.members = []
        # It has no state of its own that Keras would have to build.
        self.built = True

    def add(self, projector):
        """Takes a projector in, once."""
        if projector not in self.members:
            self.members.append(projector)

    def __iter__(self):
        return iter(self.members)

    def __len__(self):
        return len(self.members)
