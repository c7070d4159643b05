"""How the losses of `keras.distillation` become ours."""

import keras
from keras import ops

from keras_kd.losses import base
from keras_kd.losses.feature import FeatureDistillation
from keras_kd.losses.response import LogitsDistillation


def as_distillation_loss(loss):
    """Returns `loss` as one of ours.

    Keras's `LogitsDistillation` and `FeatureDistillation` are translated; any other loss that only
    has `compute_loss` becomes a `BatchValue`.

    Args:
        loss: A `keras.distillation.DistillationLoss`.

    Raises:
        TypeError: If it is something else.
    """
    if isinstance(loss, base.DistillationLoss):
        return loss
    if type(loss) is keras.distillation.LogitsDistillation:
        return LogitsDistillation(loss.temperature, loss.loss)
    if type(loss) is keras.distillation.FeatureDistillation:
        return FeatureDistillation(loss.loss, loss.teacher_layer_name, loss.student_layer_name)
    if isinstance(loss, keras.distillation.DistillationLoss):
        return BatchValue(loss)
    raise TypeError(
        f"Expected a DistillationLoss. Received: {loss!r}. Hint: for a plain Keras loss on outputs "
        "or features use keras_kd.FeatureDistillation(loss=...)."
    )


@keras.saving.register_keras_serializable(package="keras_kd")
class BatchValue(base.DistillationLoss):
    """A loss that only has Keras's `compute_loss`: one number for the whole batch.

    Args:
        loss: A `keras.distillation.DistillationLoss`.
    """

    batch_level = True

    def __init__(self, loss):
        super().__init__(
            teacher_layer_name=getattr(loss, "teacher_layer_name", None),
            student_layer_name=getattr(loss, "student_layer_name", None),
            name=getattr(loss, "name", None) or base.snake_case(type(loss).__name__),
        )
        self.loss = loss

    def per_example(self, teacher_outputs, student_outputs, context):
        """Returns the batch's value for every example, shape [batch]."""
        del context
        self.loss.validate_outputs(teacher_outputs, student_outputs)
        value = ops.convert_to_tensor(self.loss.compute_loss(teacher_outputs, student_outputs))
        if len(value.shape):
            raise ValueError(
                f"Expected {type(self.loss).__name__}.compute_loss() to return a scalar. "
                f"Received shape {tuple(value.shape)}. Hint: reduce it, or derive from "
                "keras_kd.DistillationLoss and give per_example()."
            )
        batch = ops.shape(keras.tree.flatten(student_outputs)[0])[0]
        return ops.broadcast_to(value, (batch,))

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {"loss": keras.saving.serialize_keras_object(self.loss)}

    @classmethod
    def from_config(cls, config):
        """Makes the loss from what `get_config` gave."""
        return cls(keras.saving.deserialize_keras_object(config["loss"]))
