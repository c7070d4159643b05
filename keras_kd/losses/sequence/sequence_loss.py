"""The base of the losses on tokens: which of them are padding."""

import dataclasses

from keras import ops

from keras_kd.losses.feature.feature_loss import FeatureLoss


class SequenceLoss(FeatureLoss):
    """What layers of the teacher say of each token to layers of the student.

    A padded token counts neither in the value nor in the mean. Which tokens are padded is told by
    Keras's masks (`Embedding(mask_zero=True)`, `Masking`), or by an input of the model.

    Args:
        teacher_layer_name: Layer path in the teacher, or a list of paths.
        student_layer_name: As many in the student.
        mask_input: Key (or index) of the input that is the padding mask, shape [batch, length], 1
            or True for the tokens that count; None to go by Keras's masks.
        **options: `projector` and `name`, see `FeatureLoss`.

    Raises:
        ValueError: If the lists differ in length; when the distiller is made, if a layer is unknown
            or no projector leads from the student's shape to the teacher's; on the first batch, if
            there is no such input.
    """

    def __init__(self, teacher_layer_name, student_layer_name, *, mask_input=None, **options):
        super().__init__(teacher_layer_name, student_layer_name, **options)
        self.mask_input = mask_input

    def per_example(self, teacher_outputs, student_outputs, context):
        """Returns the loss of each example, summed over the pairs; shape [batch]."""
        context = self.with_declared_mask(context, student_outputs)
        return super().per_example(teacher_outputs, student_outputs, context)

    def with_declared_mask(self, context, student_outputs):
        """Returns the context with the mask that `mask_input` names, for each feature."""
        if self.mask_input is None:
            return context
        tokens = ops.cast(_input(context.inputs, self.mask_input), "bool")
        features = self._sides(student_outputs)
        masks = tuple(_over_positions(tokens, feature) for feature in features)
        return dataclasses.replace(context, masks=masks)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "mask_input": self.mask_input}


def _input(inputs, key):
    try:
        return inputs[key]
    except (KeyError, IndexError, TypeError) as err:
        given = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
        raise ValueError(
            f"Expected an input {key!r}, to tell padding by. Received: {given}. Hint: mask_input "
            "is a key (or index) of what fit gets as x; None goes by Keras's masks."
        ) from err


def _over_positions(tokens, feature):
    """Returns a mask of shape [batch, length] over all axes of a feature but the last."""
    if len(feature.shape) != 4:
        return tokens
    # Scores: the same for every head.
    every_head = ops.ones((1, feature.shape[1], 1), dtype="bool")
    return ops.logical_and(ops.expand_dims(tokens, 1), every_head)
