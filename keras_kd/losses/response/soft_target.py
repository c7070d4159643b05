"""Response knowledge: what the teacher answers."""

import copy

import keras
from keras import ops

from keras_kd import heads, schedules
from keras_kd.losses import base, registry
from keras_kd.losses.response.settle import (
    AUTO,
    FORMS,
    HEADS,
    activation_of,
    check_same_units,
    flat_or_unknown,
    is_binary,
    is_categorical,
    is_one,
    options,
    settle,
    undeclared,
)
from keras_kd.numerics import (
    at_least_float32,
    mean_over_positions,
    tempered_log_softmax,
    without_padding,
)

_DECLARED = ("head", "teacher_outputs", "student_outputs")


def soft_target(*, teacher, student, temperature):
    """Tempered KL divergence from the teacher to the student, per row.

    T^2 * KL(softmax(teacher / T) || softmax(student / T)); the factor keeps the gradient's scale
    about the same as T changes.

    Args:
        teacher: Logits, shape [batch, ..., classes]; receives no gradient.
        student: Logits, same shape.
        temperature: T > 0, a float or a scalar tensor.

    Returns:
        Shape [batch, ...], in nats.

    Reference: Hinton et al., arXiv:1503.02531, section 2.
    """
    log_p = tempered_log_softmax(ops.stop_gradient(teacher), temperature)
    log_q = tempered_log_softmax(student, temperature)
    return temperature**2 * ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)


def binary_soft_target(*, teacher, student, temperature):
    """Tempered KL divergence between independent units, the mean over the units.

    T^2 * mean_k KL(Bernoulli(sigmoid(teacher_k / T)) || Bernoulli(sigmoid(student_k / T))): for
    one-unit and multi-label heads, where a softmax would say nothing. The mean over the units is
    that of Keras's binary cross-entropy, so both terms keep their proportion.

    Args:
        teacher: Logits, shape [batch, ..., units]; receives no gradient.
        student: Logits, same shape.
        temperature: T > 0, a float or a scalar tensor.

    Returns:
        Shape [batch, ...], in nats.

    Reference: Hinton et al., arXiv:1503.02531, section 2, for two classes with logits (z, 0).
    """
    t = at_least_float32(ops.stop_gradient(teacher)) / temperature
    s = at_least_float32(student) / temperature
    positive = ops.sigmoid(t) * (ops.log_sigmoid(t) - ops.log_sigmoid(s))
    negative = ops.sigmoid(-t) * (ops.log_sigmoid(-t) - ops.log_sigmoid(-s))
    return temperature**2 * ops.mean(positive + negative, axis=-1)


@registry.method("kd", title="Soft targets (KD)", kind="response", reference="arXiv:1503.02531")
class LogitsDistillation(base.DistillationLoss):
    """Soft targets: the student's output follows the teacher's at a temperature.

    A drop-in for `keras.distillation.LogitsDistillation`. The default loss is `soft_target` (for a
    sigmoid head `binary_soft_target`). A cross-entropy takes the teacher's tempered probabilities
    as its labels and is multiplied by T^2 too; any other loss compares the logits over T.

    Args:
        temperature: T > 0, a float or a schedule.
        loss: A name or a Keras loss; or a structure of these like the outputs', with None for an
            output without soft targets.
        head: `"softmax"` (one of C classes), `"sigmoid"` (independent units), or `"auto"`: sigmoid
            where a model ends in it, else softmax. A single unit without activation must be
            declared. For several outputs one word for all, or a structure like `loss`.
        teacher_outputs: `"logits"`, `"probabilities"`, or `"auto"` to look at the last layer; one
            word or a structure like `loss`.
        student_outputs: The same for the student.
        name: Name in the logs.

    Raises:
        ValueError: If the temperature is not positive, an option is unknown, no loss is given; when
            the distiller is made, if an output is neither logits, softmax nor sigmoid, or what was
            declared is not what the model says.

    Example:
        >>> keras_kd.LogitsDistillation(temperature=4.0)

    Reference: Hinton et al., arXiv:1503.02531, section 2.
    """

    def __init__(
        self,
        temperature=3.0,
        loss="kl_divergence",
        *,
        head=AUTO,
        teacher_outputs=AUTO,
        student_outputs=AUTO,
        name=None,
    ):
        super().__init__(name=name)
        self.temperature = schedules.checked("temperature", temperature, positive=True)
        self.loss = base.keras_loss(loss)
        self.head = options("head", head, HEADS)
        self.teacher_outputs = options("teacher_outputs", teacher_outputs, FORMS)
        self.student_outputs = options("student_outputs", student_outputs, FORMS)
        # The models whose form was seen by `connect` and not declared.
        self._assumed = ()

    def per_example(self, teacher_outputs, student_outputs, context):
        """Returns the loss of each example, summed over the outputs, shape [batch]."""
        if not self.is_connected():  # In a distiller other than ours.
            settled = self.connect(base.Ends(teacher_outputs, student_outputs))
            return settled.per_example(teacher_outputs, student_outputs, context)
        temperature = schedules.value_at(self.temperature, context.step)
        declared = list(zip(*map(self._flat, _DECLARED), strict=True))

        def value(loss_fn, teacher, student, index):
            head, teacher_form, student_form = declared[index]
            check_same_units(teacher.shape, student.shape)
            mask = context.mask(index)
            values = _tempered(
                loss_fn,
                head,
                without_padding(heads.logits(teacher, activation_of(head, teacher_form)), mask),
                without_padding(heads.logits(student, activation_of(head, student_form)), mask),
                temperature,
                context,
            )
            return mean_over_positions(values, mask, context.position_weight)

        return base.per_output(value, self.loss, teacher_outputs, student_outputs)

    def connect(self, ends):
        """Settles heads and forms for the two models; see `DistillationLoss.connect`.

        Raises:
            ValueError: If an output is neither logits, softmax nor sigmoid, or what was declared is
                not what the model says; if teacher and student have other class counts.
        """
        if ends.teacher is None or ends.student is None:
            return copy.copy(self)
        base.check_structure(self.loss, ends.teacher, ends.student)
        losses = keras.tree.flatten(self.loss)
        teachers, students = keras.tree.flatten(ends.teacher), keras.tree.flatten(ends.student)
        settled = [
            (AUTO, AUTO, AUTO)
            if loss is None
            else settle(loss, declared, teacher, student, activations)
            for loss, declared, teacher, student, activations in zip(
                losses,
                zip(*map(self._flat, _DECLARED), strict=True),
                teachers,
                students,
                zip(
                    flat_or_unknown(ends.teacher_activations, len(losses)),
                    flat_or_unknown(ends.student_activations, len(losses)),
                    strict=True,
                ),
                strict=True,
            )
        ]
        connected = copy.copy(self)
        connected._assumed = self._assumed or tuple(
            role for role in ("teacher", "student") if AUTO in self._flat(f"{role}_outputs")
        )
        for option, values in zip(_DECLARED, zip(*settled, strict=True), strict=True):
            setattr(connected, option, keras.tree.pack_sequence_as(self.loss, list(values)))
        return connected

    def is_connected(self):
        """Returns whether head and forms of every output with a loss are known."""
        return all(
            loss is None or AUTO not in declared
            for loss, *declared in zip(
                keras.tree.flatten(self.loss), *map(self._flat, _DECLARED), strict=True
            )
        )

    def check_first_batch(self, teacher_outputs, student_outputs):
        """Refuses values that look like probabilities where logits were assumed.

        Raises:
            ValueError: Naming the model whose outputs they are.
        """
        for role, outputs in (("teacher", teacher_outputs), ("student", student_outputs)):
            if role not in self._assumed:
                continue
            forms = self._flat(f"{role}_outputs")
            for form, tensor in zip(forms, keras.tree.flatten(outputs), strict=True):
                if form == "logits" and heads.looks_like_probabilities(tensor):
                    raise undeclared(role)

    def validate_model_compatibility(self, teacher, student):
        """Refuses models on which `compute_loss` alone, in Keras's distiller, would be wrong.

        Raises:
            ValueError: If a head of several sigmoid units was not declared, or the models do not
                fit.
        """
        ends = base.Ends(
            heads.symbolic_outputs(teacher),
            heads.symbolic_outputs(student),
            heads.activations(teacher),
            heads.activations(student),
        )
        connected = self.connect(ends)
        if heads.SIGMOID in connected._flat("head") and heads.SIGMOID not in self._flat("head"):
            raise ValueError(
                "Expected the sigmoid head to be declared. Hint: use keras_kd.Distiller, which "
                "sees it, or LogitsDistillation(head='sigmoid')."
            )

    def heads(self):
        """Returns the head of each flat output, `"auto"` where it is not settled."""
        return self._flat("head")

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {
            "temperature": schedules.serialize(self.temperature),
            "loss": base.serialize_loss(self.loss),
            "head": self.head,
            "teacher_outputs": self.teacher_outputs,
            "student_outputs": self.student_outputs,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        """Makes the loss from what `get_config` gave."""
        config = dict(config)
        config["temperature"] = schedules.deserialize(config["temperature"])
        config["loss"] = base.deserialize_loss(config["loss"])
        return cls(**config)

    def _flat(self, option):
        """Returns an option for each output in flat order."""
        value = getattr(self, option)
        flat = keras.tree.flatten(self.loss)
        return [value] * len(flat) if isinstance(value, str) else keras.tree.flatten(value)


def _tempered(loss_fn, head, teacher, student, temperature, context):
    """Applies a loss to logits; returns one value a position, shape [batch, ...]."""
    if is_one(loss_fn, keras.losses.KLDivergence, keras.losses.kl_divergence):
        divergence = soft_target if head == heads.SOFTMAX else binary_soft_target
        return divergence(teacher=teacher, student=student, temperature=temperature)
    teacher, student = ops.stop_gradient(teacher) / temperature, student / temperature
    if is_categorical(loss_fn):
        loss_fn, target = _from_logits(loss_fn, keras.losses.CategoricalCrossentropy), ops.softmax
    elif is_binary(loss_fn):
        loss_fn, target = _from_logits(loss_fn, keras.losses.BinaryCrossentropy), ops.sigmoid
    else:
        return base.unreduced(loss_fn, teacher, student, context)
    return temperature**2 * base.unreduced(loss_fn, target(teacher), student, context)


def _from_logits(loss_fn, kind):
    """Returns the cross-entropy with its own options, but on logits."""
    if not isinstance(loss_fn, kind):
        return kind(from_logits=True)
    return type(loss_fn).from_config({**loss_fn.get_config(), "from_logits": True})
