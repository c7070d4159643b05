"""Feature knowledge: what the teacher's layers hold."""

import copy

import keras
from keras import ops

from keras_kd.losses import base, registry
from keras_kd.numerics import at_least_float32, mean_over_positions, without_padding
from keras_kd.projectors import check_same_shape, make_projector

_AUTO = "auto"


@registry.method(
    "feature",
    title="Hint with any Keras loss",
    kind="feature",
    needs="a layer of each",
    reference="arXiv:1412.6550",
)
class FeatureDistillation(base.DistillationLoss):
    """Hints: a layer of the student follows a layer of the teacher.

    A drop-in for `keras.distillation.FeatureDistillation`. The loss is taken at every position and
    averaged over the positions of an example. Where shapes differ a projector is made (see
    `keras_kd.projectors`); nothing is ever broadcast.

    Args:
        loss: A name or a Keras loss of (teacher's feature, student's feature); for outputs also a
            structure of these like the outputs', with None for an output that is left out.
        teacher_layer_name: Layer of the teacher, `"block3"` or a path into nested models,
            `"backbone/block3"`; None for its outputs.
        student_layer_name: The same in the student.
        projector: `"auto"`, None to ask for equal shapes, or a Keras layer of one's own from the
            student's feature to the shape of the teacher's.
        name: Name in the logs.

    Raises:
        ValueError: If no loss is given; when the distiller is made, if a layer is unknown or no
            projector leads from the student's shape to the teacher's.

    Example:
        >>> keras_kd.FeatureDistillation("mse", "backbone/block3", "block2")

    Reference: Romero et al., arXiv:1412.6550, equation 3.
    """

    def __init__(
        self,
        loss="mse",
        teacher_layer_name=None,
        student_layer_name=None,
        *,
        projector=_AUTO,
        name=None,
    ):
        super().__init__(
            teacher_layer_name=teacher_layer_name, student_layer_name=student_layer_name, name=name
        )
        self.loss = base.keras_loss(loss)
        if not (projector in (_AUTO, None) or isinstance(projector, keras.Layer)):
            raise ValueError(
                f"Expected projector to be 'auto', None or a Keras layer. Received: {projector!r}"
            )
        self._auto = projector == _AUTO if isinstance(projector, str) else False
        self.projector = None if self._auto else projector

    def per_example(self, teacher_outputs, student_outputs, context):
        """Returns the loss of each example, summed over the outputs, shape [batch]."""
        if self.projector is not None:
            student_outputs = self.projector(student_outputs, training=context.training)

        def value(loss_fn, teacher, student, index):
            check_same_shape(
                student.shape, teacher.shape, "keras_kd.Distiller makes a projector between them."
            )
            mask = context.mask(index)
            values = base.unreduced(
                loss_fn,
                ops.stop_gradient(without_padding(at_least_float32(teacher), mask)),
                without_padding(at_least_float32(student), mask),
                context,
            )
            return mean_over_positions(values, mask, context.position_weight)

        return base.per_output(value, self.loss, teacher_outputs, student_outputs)

    def connect(self, ends):
        """Makes or builds the projector; see `DistillationLoss.connect`.

        Raises:
            ValueError: If the shapes do not meet and no projector can make them.
        """
        connected = copy.copy(self)
        if ends.student is None:
            return connected
        if self.projector is not None and not self.projector.built:
            self.projector.build(ends.student.shape)
        if ends.teacher is None:
            return connected
        base.check_structure(self.loss, ends.teacher, ends.student)
        if self._auto and not keras.tree.is_nested(ends.student):
            connected.projector = make_projector(
                ends.student.shape, ends.teacher.shape, f"{self.name}_projector"
            )
        connected._auto = False
        flat = map(keras.tree.flatten, (self.loss, ends.teacher, ends.student))
        for loss_fn, teacher, student in zip(*flat, strict=True):
            if loss_fn is None:
                continue
            shape = student.shape
            if connected.projector is not None:
                shape = connected.projector.compute_output_shape(shape)
            check_same_shape(shape, teacher.shape, "projector='auto' makes them meet.")
        return connected

    def is_connected(self):
        """Returns whether it is known if a projector is needed, and the projector is built."""
        return not self._auto and (self.projector is None or self.projector.built)

    def get_config(self):
        """Returns the arguments of the constructor."""
        projector = _AUTO if self._auto else self.projector
        if isinstance(projector, keras.Layer):
            projector = keras.saving.serialize_keras_object(projector)
        return {
            **super().get_config(),
            "loss": base.serialize_loss(self.loss),
            "projector": projector,
        }

    @classmethod
    def from_config(cls, config):
        """Makes the loss from what `get_config` gave."""
        config = dict(config)
        config["loss"] = base.deserialize_loss(config["loss"])
        if isinstance(config["projector"], dict):
            # Keras empties the configuration of a functional model that it deserializes.
            projector = copy.deepcopy(config["projector"])
            config["projector"] = keras.saving.deserialize_keras_object(projector)
        return cls(**config)
