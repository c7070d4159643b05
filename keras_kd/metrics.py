"""Metrics of how far the student follows its teacher."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_kd")
class TeacherAgreement(keras.metrics.Mean):
    """Share of the predictions in which student and teacher name the same class.

    `mean(argmax(teacher) == argmax(student))`, over all positions; for one unit, whether both are
    on the same side of the threshold.

    Args:
        threshold: For one-unit outputs: what counts as positive; 0.5 for probabilities, 0 for
            logits.
        name: Name in the logs.
        dtype: Dtype of the metric's computation.

    Reference: Beyer et al., arXiv:2106.05237, section 3 (agreement with the teacher as the measure
    of a faithful student).
    """

    def __init__(self, threshold=0.5, name="teacher_agreement", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.threshold = threshold

    def update_state(self, teacher_outputs, student_outputs, sample_weight=None):
        """Counts a batch.

        Args:
            teacher_outputs: Shape [batch, ..., classes].
            student_outputs: Same shape.
            sample_weight: None, or weights of shape [batch].
        """
        agree = ops.equal(self._decide(teacher_outputs), self._decide(student_outputs))
        return super().update_state(ops.cast(agree, self.dtype), sample_weight=sample_weight)

    def _decide(self, outputs):
        if outputs.shape[-1] == 1:
            return ops.cast(ops.squeeze(outputs, -1) > self.threshold, "int32")
        return ops.cast(ops.argmax(outputs, axis=-1), "int32")

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {"threshold": self.threshold, "name": self.name, "dtype": self.dtype}
