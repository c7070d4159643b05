"""The base of the losses in which a student is its own teacher."""

import dataclasses

from keras_kd.losses.response.logits_loss import LogitsLoss
from keras_kd.losses.response.settle import AUTO


class SelfLogitsLoss(LogitsLoss):
    """What a student's own logits, or its labels alone, say to it; no teacher is read.

    The distiller asks for a teacher all the same: any model that takes the inputs will do, a clone
    of the student for instance. Subclasses give `compare`, which gets the student's logits twice.

    Args:
        temperature: T > 0, a float or a schedule.
        output: For models with several outputs the key or index of the one to compare.
        student_outputs: `"logits"`, `"probabilities"`, or `"auto"` to look at the last layer.
        name: Name in the logs.

    Raises:
        ValueError: If the temperature is not positive or an option is unknown; when the distiller
            is made, if the output is neither logits nor softmax.
    """

    roles = ("student", "student")

    def __init__(self, *, temperature=1.0, output=None, student_outputs=AUTO, name=None):
        super().__init__(
            temperature=temperature,
            output=output,
            teacher_outputs=student_outputs,
            student_outputs=student_outputs,
            name=name,
        )

    def per_example(self, teacher_outputs, student_outputs, context):
        """Returns the loss of each example, the mean over its positions; shape [batch]."""
        del teacher_outputs
        return super().per_example(student_outputs, student_outputs, context)

    def connect(self, ends):
        """Settles what the student's output holds; see `DistillationLoss.connect`.

        Raises:
            ValueError: If it is neither logits nor softmax.
        """
        return super().connect(
            dataclasses.replace(
                ends, teacher=ends.student, teacher_activations=ends.student_activations
            )
        )

    def check_first_batch(self, teacher_outputs, student_outputs):
        """Refuses values that look like probabilities where logits were assumed.

        Raises:
            ValueError: If the student's do.
        """
        del teacher_outputs
        super().check_first_batch(student_outputs, student_outputs)

    def get_config(self):
        """Returns the arguments of the constructor."""
        config = super().get_config()
        del config["teacher_outputs"]
        return config
