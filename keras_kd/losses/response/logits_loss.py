"""The base of the losses that compare the logits of a softmax head."""

import copy
import dataclasses

import keras
from keras import ops

from keras_kd import heads, schedules
from keras_kd.losses import base
from keras_kd.losses.response.settle import (
    AUTO,
    FORMS,
    ROLES,
    activation_of,
    flat_or_unknown,
    options,
    settle,
    undeclared,
)
from keras_kd.numerics import mean_over_positions, without_padding


class LogitsLoss(base.DistillationLoss):
    """What a softmax head of the teacher says of the same head of the student.

    Subclasses give `compare`. As in `LogitsDistillation`, softmax outputs are turned back into
    logits and never softmaxed twice; each token or pixel has a value of its own, of which the
    example's is the mean.

    Args:
        temperature: T > 0, a float or a schedule.
        output: For models with several outputs the key or index of the one to compare.
        teacher_outputs: `"logits"`, `"probabilities"`, or `"auto"` to look at the last layer.
        student_outputs: The same for the student.
        name: Name in the logs.

    Attributes:
        arguments: The names of the constructor's arguments that are a method's own: numbers, words
            or schedules, kept under their names.
        roles: Whose the two sides are; both the student's where it is its own teacher.

    Raises:
        ValueError: If the temperature is not positive or an option is unknown; when the distiller
            is made, if an output is neither logits nor softmax.
    """

    arguments: tuple[str, ...] = ("temperature",)
    roles = ROLES

    def __init__(
        self,
        *,
        temperature=1.0,
        output=None,
        teacher_outputs=AUTO,
        student_outputs=AUTO,
        name=None,
    ):
        super().__init__(name=name)
        self.temperature = schedules.checked("temperature", temperature, positive=True)
        self.output = output
        self.teacher_outputs = options("teacher_outputs", teacher_outputs, FORMS)
        self.student_outputs = options("student_outputs", student_outputs, FORMS)
        self._assumed = ()

    def compare(self, teacher, student, temperature, context):
        """Returns the loss at every position.

        Args:
            teacher: Logits, shape [batch, ...positions, classes], float32.
            student: The same of the student.
            temperature: T at this step, a float or a scalar tensor.
            context: A `Context`, whose only mask is that of the compared output.

        Returns:
            Shape [batch, ...positions].
        """
        raise NotImplementedError(f"{type(self).__name__} must implement compare().")

    def per_example(self, teacher_outputs, student_outputs, context):
        """Returns the loss of each example, the mean over its positions; shape [batch]."""
        if not self.is_connected():  # In a distiller other than ours.
            settled = self.connect(base.Ends(teacher_outputs, student_outputs))
            return settled.per_example(teacher_outputs, student_outputs, context)
        index, mask = self._flat_index(student_outputs), None
        if context.masks:
            mask = context.mask(index)
        teacher = self.teacher_logits(teacher_outputs, mask)
        student = self.logits_of(student_outputs, self.student_outputs, mask)
        temperature = schedules.value_at(self.temperature, context.step)
        context = dataclasses.replace(context, masks=(mask,))
        values = self.compare(teacher, student, temperature, context)
        return mean_over_positions(values, mask, context.position_weight)

    def teacher_logits(self, outputs, mask):
        """Returns what `compare` gets of the teacher, with zeros in the padding.

        Args:
            outputs: The teacher's outputs.
            mask: None, or booleans of shape [batch, ...positions].
        """
        return self.logits_of(outputs, self.teacher_outputs, mask)

    def logits_of(self, outputs, form, mask):
        """Returns the compared output as logits, with zeros in the padding."""
        logits = heads.logits(self.pick(outputs), activation_of(heads.SOFTMAX, form))
        return without_padding(logits, mask)

    def pick(self, structure):
        """Returns the part of a structure of outputs, or of labels, that is compared."""
        return structure if self.output is None else structure[self.output]

    def labels(self, context, logits):
        """Returns the class of each position, int32 of shape [batch, ...positions].

        Args:
            context: A `Context` with labels: integers, or one-hot over the last axis.
            logits: Shape [batch, ...positions, classes].
        """
        return base.class_indices(self.pick(context.labels), logits)

    def valid(self, context, logits):
        """Returns which rows of logits count in the statistics of a batch; None for all.

        Args:
            context: A `Context` as `compare` gets it.
            logits: Shape [batch, ...positions, classes].

        Returns:
            None, or booleans of shape [batch, ...positions].
        """
        examples, mask = context.valid, context.mask()
        if examples is None:
            return None if mask is None else ops.cast(mask, "bool")
        examples = ops.reshape(examples, (-1, *(1 for _ in logits.shape[1:-1])))
        if mask is None:
            mask = ops.ones_like(logits[..., 0], dtype="bool")
        return ops.logical_and(examples, ops.cast(mask, "bool"))

    def connect(self, ends):
        """Settles what the outputs hold; see `DistillationLoss.connect`.

        Raises:
            ValueError: If an output is neither logits nor softmax, or class counts differ.
        """
        connected = copy.copy(self)
        if ends.teacher is None or ends.student is None:
            return connected
        for role, side in zip(self.roles, (ends.teacher, ends.student), strict=True):
            self._check_output(role, side)
        index = self._flat_index(ends.student)
        count = len(keras.tree.flatten(ends.student))
        seen = [
            flat_or_unknown(activations, count)[index]
            for activations in (ends.teacher_activations, ends.student_activations)
        ]
        declared = (heads.SOFTMAX, self.teacher_outputs, self.student_outputs)
        sides = self.pick(ends.teacher), self.pick(ends.student)
        _, *forms = settle(None, declared, *sides, seen, self.roles)
        connected._assumed = self._assumed or tuple(
            role for role in self.roles if getattr(self, f"{role}_outputs") == AUTO
        )
        connected.teacher_outputs, connected.student_outputs = forms
        return connected

    def is_connected(self):
        """Returns whether it is known what both outputs hold."""
        return AUTO not in (self.teacher_outputs, self.student_outputs)

    def check_first_batch(self, teacher_outputs, student_outputs):
        """Refuses values that look like probabilities where logits were assumed.

        Raises:
            ValueError: Naming the model whose outputs they are.
        """
        for role, side in zip(self.roles, (teacher_outputs, student_outputs), strict=True):
            assumed = role in self._assumed and getattr(self, f"{role}_outputs") == "logits"
            if assumed and heads.looks_like_probabilities(self.pick(side)):
                raise undeclared(role)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            **{name: schedules.serialize(getattr(self, name)) for name in self.arguments},
            "output": self.output,
            "teacher_outputs": self.teacher_outputs,
            "student_outputs": self.student_outputs,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        """Makes the loss from what `get_config` gave."""
        numbers = {name: schedules.deserialize(config[name]) for name in cls.arguments}
        return cls(**{**config, **numbers})

    def _check_output(self, role, side):
        if self.output is None and keras.tree.is_nested(side):
            raise ValueError(
                f"Expected output= to say which output to compare: the {role} has several. "
                "Hint: its key or its index."
            )

    def _flat_index(self, structure):
        """Returns the place of the compared output among the flat outputs."""
        if self.output is None:
            return 0
        flat = keras.tree.flatten(structure)
        return next(i for i, tensor in enumerate(flat) if tensor is structure[self.output])
