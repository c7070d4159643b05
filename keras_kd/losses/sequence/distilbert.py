"""DistilBERT: the teacher's predictions of tokens, and the direction of its hidden states."""

import dataclasses

import keras

from keras_kd import heads, schedules
from keras_kd.losses import base, registry
from keras_kd.losses.response.logits_loss import LogitsLoss
from keras_kd.losses.response.settle import AUTO
from keras_kd.losses.response.soft_target import soft_target
from keras_kd.losses.sequence.hidden import hidden_cosine
from keras_kd.losses.sequence.sequence_loss import SequenceLoss
from keras_kd.numerics import mean_over_positions


def distilbert(
    *,
    teacher,
    student,
    teacher_hidden,
    student_hidden,
    temperature,
    alpha_ce=5.0,
    alpha_cos=1.0,
    mask=None,
    position_weight=None,
):
    """DistilBERT's loss without the task's: soft targets and cosine over the valid tokens.

    alpha_ce T^2 KL(softmax(teacher / T) || softmax(student / T)) + alpha_cos (1 - cos(h_s, h_t)),
    each the mean over the valid tokens. The third part of the paper's triple loss is the masked
    language model's own cross-entropy, with weight 2.

    Args:
        teacher: Logits, shape [batch, length, vocabulary]; receives no gradient.
        student: Logits, same shape.
        teacher_hidden: Last hidden states h_t, shape [batch, length, units]; receive no gradient.
        student_hidden: h_s, same shape.
        temperature: T > 0, a float or a scalar tensor.
        alpha_ce: Weight of the soft targets.
        alpha_cos: Weight of the cosine distance.
        mask: None, or the valid tokens, booleans of shape [batch, length].
        position_weight: None, or weights of shape [batch, length].

    Returns:
        Shape [batch]; its mean is the mean over the valid tokens of the batch.

    Reference: Sanh et al., arXiv:1910.01108, section 3; the weights are those of the paper's code.
    """
    soft = soft_target(teacher=teacher, student=student, temperature=temperature)
    cosine = hidden_cosine(
        teacher=teacher_hidden,
        student=student_hidden,
        mask=mask,
        position_weight=position_weight,
    )
    return alpha_ce * mean_over_positions(soft, mask, position_weight) + alpha_cos * cosine


@registry.method(
    "distilbert",
    title="DistilBERT",
    kind="sequence",
    needs="the last hidden layer of each",
    reference="arXiv:1910.01108",
)
class DistilBert(SequenceLoss):
    """DistilBERT: soft targets at every token and the cosine of the last hidden states.

    The triple loss 5 soft targets + 2 masked language model + 1 cosine has the middle one as the
    loss given to `compile` (labels at the masked tokens, a `sample_weight` of 0 at the others or
    `ignore_class=`). With `student_loss_weight=2 / 3` the distiller's total is a third of it. The
    same as two losses, each logged under its own name, is `[LogitsDistillation(2.0),
    HiddenStates(..., distance="cosine")]` with the weights `[5.0, 1.0]`. On a task, models that
    answer with classes of a whole sequence will do as well.

    The student of the paper starts from every other layer of its teacher: `init_from_teacher`.

    Args:
        teacher_layer_name: The last hidden layer of the teacher.
        student_layer_name: The same of the student.
        temperature: T > 0, a float or a schedule.
        alpha_ce: Weight of the soft targets, a float of at least 0 or a schedule.
        alpha_cos: Weight of the cosine distance, likewise.
        output: For models with several outputs the key or index of the tokens' logits.
        teacher_outputs: `"logits"`, `"probabilities"`, or `"auto"` to look at the last layer.
        student_outputs: The same for the student.
        mask_input: Key of the input that is the padding mask; None to go by Keras's masks of the
            hidden states.
        projector: `"auto"`, None to ask for equal sizes, or a Keras layer of one's own.
        name: Name in the logs.

    Raises:
        ValueError: If a number is out of range or an option unknown; when the distiller is made, if
            a layer is unknown, shapes do not meet or an output is neither logits nor softmax.

    Example:
        >>> loss = keras_kd.losses.get(
        ...     "distilbert", teacher_layer_name="block4", student_layer_name="block2"
        ... )
        >>> distiller = keras_kd.Distiller(teacher, student, loss, student_loss_weight=2 / 3)

    Reference: Sanh et al., arXiv:1910.01108, section 3.
    """

    def __init__(
        self,
        teacher_layer_name,
        student_layer_name,
        *,
        temperature=2.0,
        alpha_ce=5.0,
        alpha_cos=1.0,
        output=None,
        teacher_outputs=AUTO,
        student_outputs=AUTO,
        **options,
    ):
        super().__init__(teacher_layer_name, student_layer_name, **options)
        self._soft_target = _SoftTarget(
            temperature=temperature,
            output=output,
            teacher_outputs=teacher_outputs,
            student_outputs=student_outputs,
        )
        self.alpha_ce = schedules.checked("alpha_ce", alpha_ce)
        self.alpha_cos = schedules.checked("alpha_cos", alpha_cos)

    def per_example(self, teacher_outputs, student_outputs, context):
        """Returns the loss of each example, shape [batch].

        Raises:
            ValueError: In a distiller that does not give the models' outputs with their layers.
        """
        if context.student_outputs is None:
            raise ValueError(
                "Expected the outputs of both models beside their hidden states. Received none. "
                "Hint: DistilBert works in keras_kd.Distiller."
            )
        cosine = super().per_example(teacher_outputs, student_outputs, context)
        tokens = self.with_declared_mask(context, student_outputs).mask()
        masks = tuple(
            # The classes of a whole sequence have no padding.
            None if tokens is None or len(output.shape) <= len(tokens.shape) else tokens
            for output in keras.tree.flatten(context.student_outputs)
        )
        soft = self._soft_target.per_example(
            context.teacher_outputs,
            context.student_outputs,
            dataclasses.replace(context, masks=masks),
        )
        return schedules.value_at(self.alpha_ce, context.step) * soft + cosine

    def compare(self, teacher, student, context, index):
        """Returns the weighted cosine distance of each example, shape [batch]."""
        distance = hidden_cosine(
            teacher=teacher,
            student=student,
            mask=context.mask(index),
            position_weight=context.position_weight,
        )
        return schedules.value_at(self.alpha_cos, context.step) * distance

    def connect(self, ends):
        """Settles the projector and what the outputs hold; see `DistillationLoss.connect`.

        Raises:
            ValueError: If shapes do not meet, or an output is neither logits nor softmax.
        """
        connected = super().connect(ends)
        outputs = [
            None if model is None else heads.symbolic_outputs(model)
            for model in (ends.teacher_model, ends.student_model)
        ]
        connected._soft_target = self._soft_target.connect(
            base.Ends(*outputs, ends.teacher_activations, ends.student_activations)
        )
        return connected

    def get_config(self):
        """Returns the arguments of the constructor."""
        soft_target_config = self._soft_target.get_config()
        del soft_target_config["name"]
        return {
            **super().get_config(),
            **soft_target_config,
            "alpha_ce": schedules.serialize(self.alpha_ce),
            "alpha_cos": schedules.serialize(self.alpha_cos),
        }

    @classmethod
    def from_config(cls, config):
        """Makes the loss from what `get_config` gave."""
        numbers = ("temperature", "alpha_ce", "alpha_cos")
        numbers = {name: schedules.deserialize(config[name]) for name in numbers}
        return super().from_config({**config, **numbers})


class _SoftTarget(LogitsLoss):
    """The soft targets of a softmax head, at every position."""

    def compare(self, teacher, student, temperature, context):
        """Returns `soft_target` at every position."""
        return soft_target(teacher=teacher, student=student, temperature=temperature)
